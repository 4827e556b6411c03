//! A certificate is renewed while everything goes on: the partner knows both until the new one is used.
//!
//! Decides when the partner has noted a certificate, and what it accepts meanwhile. Must not know keys.
//!
//! - **Invariant**: a server uses a new certificate only when the partner accepts it, durably.
//! - **Invariant**: what is accepted besides the pinned certificate was announced over a connection that the
//!   pinned one has proven.

use std::time::Duration;

use super::{CONFIRMATION, Node};
use crate::{
    admin::{AdminReply, Refusal},
    id::RequestId,
    io::Output,
    message::Control,
    time::{MonoTime, Now, WallTime},
};

/// No certificate is longer.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// A certificate that the partner has not noted yet.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    request: RequestId,
    certificate: Vec<u8>,
    limit: MonoTime,
}

impl Node {
    /// Tells the partner of a certificate that is to be used soon.
    pub(super) fn announce_certificate(
        &mut self,
        now: Now,
        request: RequestId,
        certificate: Vec<u8>,
    ) -> Result<Option<AdminReply>, Refusal> {
        if self.state.partner.is_none() {
            return Err(Refusal::NotTrusted);
        }
        self.require_partner(now)?;
        if self.announced.is_some() || self.is_parting() {
            return Err(Refusal::Busy);
        }
        if self.state.kept {
            return Err(Refusal::KeptByWitness);
        }
        self.state.announced = Some(certificate.clone());
        self.persist();
        let limit = now.mono + CONFIRMATION.max(self.interval() + Duration::from_secs(5));
        self.announced = Some(Announced { request, certificate, limit });
        self.next_beat = now.mono;
        Ok(None)
    }

    /// The daemon was ended between the change of the files and its note: they tell.
    pub(super) fn recall_certificate(&mut self) {
        let is_used = |announced: &mut Vec<u8>| *announced == self.config.certificate;
        if let Some(certificate) = self.state.announced.take_if(is_used) {
            self.state.renewed = Some(certificate);
            self.persist();
        }
    }

    /// The certificate is in use from now on, until `ends`.
    pub(super) fn certificate_in_use(
        &mut self,
        now: Now,
        certificate: Vec<u8>,
        ends: WallTime,
    ) -> AdminReply {
        self.config.certificate_end = Some(ends);
        if self.state.partner.is_some() {
            (self.state.renewed, self.state.announced) = (Some(certificate), None);
            self.persist();
            self.next_beat = now.mono;
        }
        AdminReply::Done
    }

    /// Goes with every beat until the partner has noted it: a message may be lost.
    pub(super) fn repeat_certificate(&mut self) {
        // The partner knows two at most: the one before has to be forgotten first.
        let settled = self.state.renewed.is_none();
        if let Some(announced) = self.announced.as_ref().filter(|_| settled) {
            let certificate = announced.certificate.clone();
            self.outputs
                .push_back(Output::Send(Control::Certificate { certificate, in_use: false }));
        }
        if let Some(certificate) = self.state.renewed.clone() {
            self.outputs
                .push_back(Output::Send(Control::Certificate { certificate, in_use: true }));
        }
    }

    pub(super) fn certificate_of_partner(&mut self, certificate: Vec<u8>, in_use: bool) {
        let Some(partner) = &mut self.state.partner else { return };
        if certificate.is_empty() || certificate.len() > CERTIFICATE_BYTES_MAX {
            return;
        }
        let is_pinned = partner.certificate == certificate;
        let is_next = partner.next_certificate.as_ref() == Some(&certificate);
        match in_use {
            true if is_next => {
                partner.certificate.clone_from(&certificate);
                partner.next_certificate = None;
            }
            true if !is_pinned => return, // it was never announced
            false if !is_pinned && !is_next => {
                partner.next_certificate = Some(certificate.clone());
            }
            true | false => {
                let noted = Control::CertificateNoted { certificate, in_use };
                return self.outputs.push_back(Output::Send(noted));
            }
        }
        self.persist();
        let noted = Control::CertificateNoted { certificate, in_use };
        self.outputs.extend([Output::Send(noted), Output::PinsChanged]);
    }

    pub(super) fn certificate_noted(&mut self, certificate: &[u8], in_use: bool) {
        if in_use {
            if self.state.renewed.take_if(|renewed| renewed == certificate).is_some() {
                self.persist();
            }
            return;
        }
        let noted = self.announced.take_if(|announced| announced.certificate == certificate);
        if let Some(announced) = noted {
            self.outputs.push_back(Output::Reply(announced.request, Ok(AdminReply::Done)));
        }
    }

    pub(super) fn announced_until(&self) -> Option<MonoTime> {
        self.announced.as_ref().map(|announced| announced.limit)
    }

    pub(super) fn give_up_announcing(&mut self, now: Now) {
        if let Some(announced) = self.announced.take_if(|announced| now.mono >= announced.limit) {
            self.outputs.push_back(Output::Reply(announced.request, Err(Refusal::NotNoted)));
        }
    }
}
