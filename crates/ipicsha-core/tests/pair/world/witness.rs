//! The witness of the simulated pair, and what the databases of a server let happen by themselves.

use std::time::Duration;

use ipicsha_core::{
    Input, WitnessAnswer,
    config::{HaConfig, PartitionPolicy},
    epoch::Epoch,
    id::ServerId,
    time::{MonoTime, WallTime},
    witness::Lease,
};

use super::{Happening, World, pair_name};

/// What travels to the witness and back.
pub(super) enum Word {
    Ask { from: usize, boot: u64, number: u64, epochs: (Epoch, Epoch), hold: (Duration, bool) },
    Ping { from: usize, boot: u64, number: u64 },
    Leave { from: usize, boot: u64, number: Option<u64> },
}

/// A third machine.
#[derive(Default)]
pub(crate) struct Witness {
    lease: Lease,
    pub(crate) down: bool,
    /// The way from each server.
    pub(crate) cut: [bool; 2],
    /// What it says instead of the truth.
    pub(crate) lie: Option<WitnessAnswer>,
    /// How much longer a way takes than usual.
    pub(crate) slow_us: u64,
    /// When the last word of each server arrives, and the last answer to it: a connection keeps the order.
    arrivals: [[u64; 2]; 2],
}

/// One way to the witness.
const WAY_US: u64 = 500;

impl Witness {
    /// The role is kept without end for somebody.
    pub(crate) fn keeps(&self) -> bool {
        self.lease.grant().is_some_and(|grant| grant.kept)
    }
}

impl World {
    /// What the two are to agree on.
    pub(crate) fn agreed(&self, policy: PartitionPolicy, auto_heal: bool) -> HaConfig {
        HaConfig { pair: pair_name(), timing: self.timing, policy, auto_heal }
    }

    /// The pair's triggers come into the databases, or go.
    pub(super) fn capture(&mut self, at: usize, on: bool) {
        let server = &mut self.servers[at];
        server.joining = on && (server.joining || !server.captured);
        server.synced &= server.captured && on;
        server.captured = on;
        server.fenced &= on; // nothing of ours is left in them
    }

    fn reaches_witness(&self, from: usize) -> bool {
        !self.witness.down && !self.witness.cut[from]
    }

    pub(super) fn ask_witness(
        &mut self,
        from: usize,
        number: u64,
        epochs: (Epoch, Epoch),
        hold: (Duration, bool),
    ) {
        let boot = self.servers[from].boot;
        self.say(from, number, Word::Ask { from, boot, number, epochs, hold });
    }

    pub(super) fn ping_witness(&mut self, from: usize, number: u64) {
        let boot = self.servers[from].boot;
        self.say(from, number, Word::Ping { from, boot, number });
    }

    fn say(&mut self, from: usize, number: u64, word: Word) {
        if self.reaches_witness(from) {
            let way = self.way(from, 0);
            self.later(way, Happening::AtWitness(word));
        } else {
            let failed = WitnessAnswer::Failed("no route to host".into());
            self.finish(from, 20_000, Input::Witness(number, failed));
        }
    }

    pub(super) fn leave_witness(&mut self, from: usize, number: Option<u64>) {
        let boot = self.servers[from].boot;
        let word = Word::Leave { from, boot, number };
        match number {
            Some(number) => self.say(from, number, word),
            None if self.reaches_witness(from) => {
                let way = self.way(from, 0);
                self.later(way, Happening::AtWitness(word));
            }
            None => {}
        }
    }

    pub(super) fn at_witness(&mut self, word: Word) {
        let now = MonoTime(self.now);
        match word {
            _ if self.witness.down => {}
            Word::Leave { from, boot, number } => {
                let answer = self.witness.lease.leave(now, server(from));
                if let Some(number) = number {
                    self.answer(from, boot, Input::Witness(number, answer));
                }
            }
            Word::Ask { from, boot, number, epochs, hold } => {
                let lie = self.witness.lie.clone();
                let truth = || self.witness.lease.ask(now, server(from), epochs, hold);
                let answer = lie.unwrap_or_else(truth);
                self.note(from, &format!("witness: epoch {}: {answer:?}", epochs.0));
                self.answer(from, boot, Input::Witness(number, answer));
            }
            Word::Ping { from, boot, number } => {
                self.answer(from, boot, Input::Witness(number, WitnessAnswer::Noted));
            }
        }
    }

    fn answer(&mut self, to: usize, boot: u64, input: Input) {
        if self.reaches_witness(to) {
            let way = self.way(to, 1);
            self.later(way, Happening::Done { at: to, boot, input });
        }
    }

    /// How long a word is under way: 0 to the witness, 1 back.
    fn way(&mut self, server: usize, direction: usize) -> u64 {
        let last = &mut self.witness.arrivals[server][direction];
        *last = (self.now + WAY_US + self.witness.slow_us).max(*last);
        *last - self.now
    }

    /// The witness's machine is started again with what is on its disk.
    pub(crate) fn restart_witness(&mut self) {
        let grant = self.witness.lease.grant().cloned();
        self.witness.lease = Lease::resume(grant, MonoTime(self.now));
        self.witness.down = false;
    }

    /// The row of the right in the databases.
    pub(super) fn allow_writes(&mut self, at: usize, until: WallTime) {
        let clock = self.clock(at);
        let left = Duration::from_millis(until.millis_since(clock.wall).max(0).unsigned_abs());
        self.servers[at].allowed_until = Some(clock.mono + left);
    }

    pub(crate) fn is_under_witness(&self, at: usize) -> bool {
        let config = &self.servers[at].disk.ha.config;
        config.as_ref().is_some_and(|config| config.policy == PartitionPolicy::Witness)
    }

    /// An application could write there now, with or without the daemon.
    pub(crate) fn is_writable(&self, at: usize) -> bool {
        let server = &self.servers[at];
        let allowed = !self.is_under_witness(at)
            || server.allowed_until.is_some_and(|until| self.clock(at).mono < until);
        !server.fenced && allowed
    }
}

fn server(at: usize) -> ServerId {
    ServerId(at as u64 + 1)
}
