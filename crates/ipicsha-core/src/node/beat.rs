//! Heartbeats: sending, receiving, and what silence means.

use std::time::Duration;

use super::{Node, Phase};
use crate::{
    clock_guard::Exchange,
    io::Output,
    message::{Beat, Control, Echo, Goodbye, Report},
    state::Role,
    time::{MonoTime, Now},
};

impl Node {
    pub(super) fn handle_control(&mut self, now: Now, control: Control) {
        if self.state.partner.is_none() {
            return; // trust was deleted while this was on its way
        }
        match control {
            Control::Beat(beat) => self.handle_beat(now, *beat),
            Control::Handover { epoch, reason } => {
                self.hear(now);
                self.handle_handover(now, epoch, reason);
            }
            Control::Goodbye(goodbye) => {
                self.hear(now);
                self.partner.goodbye = Some(goodbye);
                if let Goodbye::Restart { grace } = goodbye {
                    self.grace_until = Some(now.mono + grace.min(super::RESTART_GRACE));
                }
            }
            Control::RepairRequest(request) => {
                self.hear(now);
                match self.may_repair(now, !request.apply) {
                    Ok(()) => self.outputs.push_back(Output::Compare(request)),
                    Err(refusal) => {
                        let (run, cause) = (request.run, refusal.to_string());
                        let refused = Control::RepairRefused { run, database: None, cause };
                        self.outputs.push_back(Output::Send(refused));
                    }
                }
            }
            Control::Recover => {
                self.hear(now);
                self.retry_now(now);
            }
            Control::AskHandover => {
                self.hear(now);
                self.asked_to_hand_over(now);
            }
            Control::Certificate { certificate, in_use } => {
                self.hear(now);
                self.certificate_of_partner(certificate, in_use);
            }
            Control::CertificateNoted { certificate, in_use } => {
                self.hear(now);
                self.certificate_noted(&certificate, in_use);
            }
            Control::HandoverRefused { cause } => {
                self.hear(now);
                self.handover_refused(cause);
            }
            // The shell tells who waits, and keeps what the partner protects.
            Control::RepairRefused { .. } | Control::Databases { .. } => self.hear(now),
        }
    }

    /// A sign of life.
    pub(super) fn hear(&mut self, now: Now) {
        let gap = self.partner.heard.map(|heard| now.mono.since(heard));
        if gap.is_some_and(|gap| gap >= self.takeover_after() / 2) {
            self.state.last_contact = self.partner.heard_wall;
        }
        self.partner.heard = Some(now.mono);
        self.partner.heard_wall = Some(now.wall);
    }

    fn handle_beat(&mut self, now: Now, beat: Beat) {
        if self.state.partner.as_ref().is_none_or(|p| p.server != beat.report.server) {
            return;
        }
        let same_run = beat.boot == self.partner.boot;
        if same_run && beat.number <= self.partner.number {
            return; // a leftover of an older connection
        }
        if !same_run {
            self.grace_until = None;
        }
        self.hear(now);
        self.partner.goodbye = None;
        self.partner.boot = beat.boot;
        self.partner.number = beat.number;
        self.partner.last_beat = Some((beat.sent, now.mono));
        if let Some(echo) = beat.echo.filter(|echo| echo.boot == self.boot) {
            let exchange =
                Exchange { sent: echo.sent, held: echo.held, partner_wall: beat.sent_wall };
            self.clock.handle_exchange(now, exchange);
        }
        self.adopt_pause(now, &beat.report);
        self.adopt_takeovers(now, &beat.report);
        self.adopt_setting(now, &beat.report);
        self.yield_to(now, &beat.report);
        self.note_partner_failed(&beat.report);
        self.note_acknowledged(&beat);
        self.hear_yielding(now, &beat.report);
        self.partner.report = Some(beat.report);
        self.react_to_partner(now);
    }

    pub(super) fn send_beat(&mut self, now: Now) {
        self.next_beat = now.mono + self.interval();
        if self.state.partner.is_none() {
            return;
        }
        self.beat_number += 1;
        let echo = self.partner.last_beat.map(|(sent, arrived)| Echo {
            boot: self.partner.boot,
            sent,
            held: now.mono.since(arrived),
        });
        let beat = Beat {
            boot: self.boot,
            number: self.beat_number,
            sent: now.mono,
            sent_wall: now.wall,
            echo,
            report: self.report(now),
        };
        self.outputs.push_back(Output::Send(Control::Beat(Box::new(beat))));
        self.repeat_certificate();
    }

    fn report(&self, now: Now) -> Report {
        let (state, reason) = self.state_and_reason(now.mono);
        Report {
            server: self.config.server,
            name: self.config.name.clone(),
            version: self.config.version.clone(),
            licensed: self.rank(),
            ha: self.state.ha.clone(),
            role: self.role(),
            epoch: self.state.epoch,
            was_active: self.was_active(),
            state,
            reason,
            not_ready: self.not_ready(now.mono),
            time_synced: self.is_time_synced(),
            data: self.data.clone(),
            hears_you: self.partner.heard.map(|heard| now.mono.since(heard)),
            pause: self.state.pause.clone(),
            takeovers: self.known_takeovers(now.mono),
            parting: self.asks_to_part(),
            yields: self.state.yields,
            timeline: self.timeline(),
        }
    }

    /// It was active when it stopped, and has not been told its role since.
    pub(super) fn was_active(&self) -> bool {
        let memory = matches!(self.phase, Phase::Booting { .. }) && self.state.role == Role::Active;
        memory || self.state.fenced && self.role() == Some(Role::Standby)
    }

    /// Silence counts from the last sign of life, the start, or the end of a pause.
    pub(super) fn silence_starts(&self) -> MonoTime {
        self.partner.heard.unwrap_or_default().max(self.count_from)
    }

    /// When the standby starts to suspect the active.
    pub(super) fn suspect_at(&self) -> Option<MonoTime> {
        self.partner.heard.map(|_| self.silence_starts() + self.interval() * 2)
    }

    /// When the partner counts as lost.
    pub(super) fn silent_at(&self) -> Option<MonoTime> {
        self.partner.heard.map(|_| self.silence_starts() + self.patience())
    }

    /// The partner was heard recently enough to ask it for something.
    pub(super) fn connected(&self, now: MonoTime) -> bool {
        let recent = (self.interval() * 2).max(Duration::from_secs(1)).min(self.takeover_after());
        let stopped = matches!(self.partner.goodbye, Some(Goodbye::Stop));
        !stopped && self.partner.heard.is_some_and(|heard| now.since(heard) <= recent)
    }

    /// The partner has been silent for D, has stopped, or was never heard for D.
    pub(super) fn lost(&self, now: MonoTime) -> bool {
        matches!(self.partner.goodbye, Some(Goodbye::Stop))
            || now >= self.silence_starts() + self.takeover_after()
    }
}
