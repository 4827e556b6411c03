//! Requests of administrators: may it be done now, and who carries it out.

use super::{Node, PartnerView, Phase};
use crate::{
    admin::{AdminCommand, AdminReply, Refusal},
    clock_guard::ClockGuard,
    id::RequestId,
    io::Output,
    license::{LicenseError, LicensedRole},
    preflight::Check,
    state::{Reason, Role},
    time::Now,
    trust::Partner,
};

impl Node {
    pub(super) fn handle_admin(&mut self, now: Now, request: RequestId, command: AdminCommand) {
        let answer = match command {
            AdminCommand::AskTrust => self.may_trust().map(|()| Some(AdminReply::Done)),
            AdminCommand::SetTrust(partner) => self.set_trust(now, partner),
            AdminCommand::AskDeleteTrust => {
                self.may_delete_trust().map(|()| Some(AdminReply::Done))
            }
            AdminCommand::DeleteTrust => self.delete_trust(),
            AdminCommand::Configure(config) => self.may_configure(now).map(|()| {
                self.change_setting(now, request, Some(config));
                None
            }),
            AdminCommand::Update(timing) => self.may_update(now).map(|()| {
                self.update_timing(now, request, timing);
                None
            }),
            AdminCommand::Unconfigure { force } => self.may_unconfigure(now, force).map(|()| {
                if force || self.may_part(now, Some(request)) {
                    self.change_setting(now, request, None);
                }
                None
            }),
            AdminCommand::Failover { dry_run, accept_data_loss } => {
                self.failover(now, request, dry_run, accept_data_loss)
            }
            AdminCommand::GoStandby => self.go_standby(now, request),
            AdminCommand::Repair { dry_run } => {
                self.may_repair(now, dry_run).map(|()| Some(AdminReply::RepairMayStart))
            }
            AdminCommand::AskLicenses(role) => {
                self.may_license(role).map(|()| Some(AdminReply::Done))
            }
            AdminCommand::Fallback { dry_run } => self.fallback(now, request, dry_run),
            AdminCommand::Recover => self.recover(now, request),
            AdminCommand::Pause { reason, limit } => self.pause(now, request, &reason, limit),
            AdminCommand::Resume => self.resume(now, request),
            AdminCommand::TakeBack => self.take_back(now, request),
            AdminCommand::Site => Ok(Some(AdminReply::Preflight(self.site(now)))),
            AdminCommand::ServicesMended => self.services_mended(),
            AdminCommand::AnnounceCertificate(certificate) => {
                self.announce_certificate(now, request, certificate)
            }
            AdminCommand::CertificateInUse { certificate, ends } => {
                Ok(Some(self.certificate_in_use(now, certificate, ends)))
            }
        };
        match answer {
            Ok(Some(reply)) => self.outputs.push_back(Output::Reply(request, Ok(reply))),
            Ok(None) => {} // answered when it is done
            Err(refusal) => self.outputs.push_back(Output::Reply(request, Err(refusal))),
        }
    }

    fn may_trust(&self) -> Result<(), Refusal> {
        match &self.state.partner {
            Some(partner) => Err(Refusal::AlreadyTrusted(partner.name.clone())),
            None => Ok(()),
        }
    }

    fn set_trust(&mut self, now: Now, partner: Partner) -> Result<Option<AdminReply>, Refusal> {
        let again = self.state.partner.as_ref().is_some_and(|known| {
            known.server == partner.server && known.certificate == partner.certificate
        });
        if !again {
            self.may_trust()?;
        }
        self.state.partner = Some(partner);
        self.partner = PartnerView::default();
        self.clock = ClockGuard::default();
        self.count_from = now.mono;
        self.next_beat = now.mono;
        self.persist();
        self.outputs.push_back(Output::TrustChanged);
        Ok(Some(AdminReply::Done))
    }

    fn may_delete_trust(&self) -> Result<(), Refusal> {
        if self.state.partner.is_none() {
            return Err(Refusal::NotTrusted);
        }
        if self.state.ha.config.is_some() {
            return Err(Refusal::Configured);
        }
        Ok(())
    }

    fn delete_trust(&mut self) -> Result<Option<AdminReply>, Refusal> {
        self.may_delete_trust()?;
        self.state.partner = None;
        (self.state.renewed, self.state.announced) = (None, None);
        self.partner = PartnerView::default();
        self.clock = ClockGuard::default();
        self.persist();
        self.outputs.push_back(Output::TrustChanged);
        Ok(Some(AdminReply::Done))
    }

    pub(super) fn require_configured(&self) -> Result<(), Refusal> {
        match self.state.ha.config {
            Some(_) => Ok(()),
            None => Err(Refusal::NotConfigured),
        }
    }

    pub(super) fn require_partner(&self, now: Now) -> Result<(), Refusal> {
        if self.connected(now.mono) {
            return Ok(());
        }
        Err(Refusal::PartnerUnreachable(self.partner_name()))
    }

    pub(super) fn require_idle(&self) -> Result<(), Refusal> {
        let waiting = self.pending_handover.is_some()
            || self.pending_setting.is_some()
            || self.pending_close.is_some()
            || self.right.is_forced()
            || self.is_asked_to_part();
        match self.phase {
            Phase::Activating | Phase::HandingOver { .. } => Err(Refusal::Busy),
            Phase::Unconfigured | Phase::Booting { .. } | Phase::Standby | Phase::Active => {
                if waiting {
                    Err(Refusal::Busy)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn may_update(&self, now: Now) -> Result<(), Refusal> {
        self.require_configured()?;
        if self.state.yields.is_some() {
            return Err(Refusal::Busy); // HA may have ended already
        }
        self.require_idle()?;
        self.require_partner(now)
    }

    /// From the active server (spec A10); from any when the partner is lost.
    fn may_unconfigure(&mut self, now: Now, force: bool) -> Result<(), Refusal> {
        self.require_configured()?;
        if force {
            self.give_up_parting("it is ended by force");
        }
        self.require_idle()?;
        let partner_active =
            self.partner.report.as_ref().is_some_and(|report| report.role == Some(Role::Active));
        if self.role() != Some(Role::Active) && self.connected(now.mono) && partner_active {
            return Err(Refusal::NotActive(self.partner_name()));
        }
        Ok(())
    }

    fn failover(
        &mut self,
        now: Now,
        request: RequestId,
        dry_run: bool,
        accept_data_loss: bool,
    ) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        if self.role() == Some(Role::Active) {
            return self.switch_over(now, request, dry_run);
        }
        if self.connected(now.mono) {
            return Err(Refusal::NotActive(self.partner_name()));
        }
        if dry_run {
            let name = self.partner_name();
            let fix = "repair the link, or accept the loss: `ipicsha failover --accept-data-loss`";
            let check = Check::require(false, format!("{name} is not reachable"), fix);
            return Ok(Some(AdminReply::Preflight(vec![check])));
        }
        if !accept_data_loss {
            let known = self.partner.report.as_ref().map_or(0, |report| report.data.unacknowledged);
            return Err(Refusal::DataLoss { known });
        }
        if !self.lost(now.mono) {
            return Err(Refusal::NotLostYet(self.partner_name()));
        }
        if self.state.yields.is_some() {
            return Err(Refusal::Yields(self.partner_name()));
        }
        if self.needs_right() && self.rank().is_some() {
            self.force_with_witness(now, request);
            return Ok(None);
        }
        if !self.activate_next(now, Reason::OnAdminRequest) {
            let missing = self.licensed.clone().err().unwrap_or(LicenseError::Missing);
            return Err(Refusal::License(missing));
        }
        Ok(Some(AdminReply::TookOver))
    }

    /// The planned switchover to the partner, or its pre-flight list.
    pub(super) fn switch_over(
        &mut self,
        now: Now,
        request: RequestId,
        dry_run: bool,
    ) -> Result<Option<AdminReply>, Refusal> {
        let checks = self.preflight(now.mono);
        if dry_run {
            return Ok(Some(AdminReply::Preflight(checks)));
        }
        if checks.iter().any(|check| check.failure().is_some()) {
            return Err(Refusal::Preflight(checks));
        }
        self.start_handover(now, Some(request), false, Reason::OnAdminRequest);
        Ok(None)
    }

    fn go_standby(&mut self, now: Now, request: RequestId) -> Result<Option<AdminReply>, Refusal> {
        self.require_configured()?;
        self.require_idle()?;
        let partner_active =
            self.partner.report.as_ref().is_some_and(|report| report.role == Some(Role::Active));
        if self.role() != Some(Role::Active) || self.state.split_brain.is_none() || !partner_active
        {
            return Err(Refusal::NotSplit);
        }
        self.require_partner(now)?;
        if self.reopening {
            return Err(Refusal::Busy);
        }
        self.step_down(Reason::SplitBrain, Some(request));
        self.state.repair_due = true;
        self.persist();
        Ok(None)
    }

    /// Plans can be made while split; changes only with one active server.
    pub(super) fn may_repair(&self, now: Now, dry_run: bool) -> Result<(), Refusal> {
        self.require_configured()?;
        self.require_partner(now)?;
        if self.state.split_brain.is_some() && !dry_run {
            return Err(Refusal::Split);
        }
        self.require_idle()
    }

    fn may_license(&self, role: Result<LicensedRole, LicenseError>) -> Result<(), Refusal> {
        match role {
            Err(error @ LicenseError::HighAvailabilityBeside(_)) => Err(Refusal::License(error)),
            Ok(role) if self.state.configured_as.is_some_and(|now| now != role) => {
                Err(Refusal::RoleFixed)
            }
            Ok(_) | Err(LicenseError::Missing | LicenseError::Incomplete(_)) => Ok(()),
        }
    }
}
