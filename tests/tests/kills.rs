//! `kill -9` of daemons and applications, at moments that nobody chose, two hundred times.

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, dice::Dice, fresh_pair, note, settings::BOARD, versions::Ledger,
    wait::SOON, wait_for, writers::Writers,
};

/// Rounds between two looks at everything.
const CHECK_EVERY: usize = 25;

/// What is killed in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// The daemon of the active, which is back within D: no role changes.
    Active,
    /// The daemon of the standby.
    Standby,
    /// The application on the active.
    Writer,
    /// The daemon of the active, for longer than D; its application goes on, unaware.
    Orphaning,
    /// Daemon and application of the active, for longer than D.
    Machine,
}

impl Kill {
    fn takes_over(self) -> bool {
        matches!(self, Self::Orphaning | Self::Machine)
    }
}

/// How often each is killed: 200 rounds.
const ROUNDS: [(Kill, usize); 5] = [
    (Kill::Active, 60),
    (Kill::Standby, 60),
    (Kill::Writer, 50),
    (Kill::Orphaning, 15),
    (Kill::Machine, 15),
];

/// The pair with its writers, and what is known about them.
struct Rounds<'a> {
    pair: &'a mut Pair,
    dice: Dice,
    ledger: Ledger,
    active: Side,
    /// One on each server, as of an application that is always up.
    writers: [Option<Writers>; 2],
}

impl Rounds<'_> {
    fn play(&mut self, kill: Kill) -> Result<()> {
        match kill {
            Kill::Active => self.kill_daemon(self.active),
            Kill::Standby => self.kill_daemon(self.active.other()),
            Kill::Writer => {
                self.dice.pause(40);
                self.kill_writer(self.active);
                self.start_writer(self.active)
            }
            Kill::Orphaning | Kill::Machine => self.take_over(kill),
        }
    }

    /// Kills a daemon and starts it again well before D.
    fn kill_daemon(&mut self, side: Side) -> Result<()> {
        self.dice.pause(60);
        self.pair.server_mut(side).kill();
        self.dice.pause(100);
        self.pair.server_mut(side).spawn()?;
        if self.dice.coin() {
            // Else the next kill meets it while it starts.
            let server = self.pair.server(side);
            wait_for("it hears its partner", SOON, || {
                server.status().ok().filter(|status| status.partner_reachable())
            })?;
        }
        Ok(())
    }

    /// Kills the active for longer than D; the standby takes over and is written to, and the old
    /// active comes back.
    fn take_over(&mut self, kill: Kill) -> Result<()> {
        self.settle()?;
        let (old, new) = (self.active, self.active.other());
        self.wait_writes(old)?;
        self.dice.pause(60);
        self.pair.server_mut(old).kill();
        if kill == Kill::Machine {
            self.kill_writer(old);
        }
        self.pair.server(new).wait("it takes over", |status| status.role() == "active")?;
        self.wait_writes(new)?;
        if kill == Kill::Orphaning {
            self.wait_writes(old)?;
        }
        self.pair.server_mut(old).start()?;
        self.settle()?;
        ensure!(self.active == new, "{} took its role back", old.name());
        if kill == Kill::Machine {
            self.start_writer(old)?;
        }
        Ok(())
    }

    /// Waits until the roles are clear and the standby is Ready.
    fn settle(&mut self) -> Result<()> {
        let pair = &*self.pair;
        let mut seen = Vec::new();
        let settled = wait_for("one is active, the other Ready", SOON, || {
            seen = Side::BOTH.map(|side| pair.server(side).status().ok()).into();
            let is = |side: Side, role: &str| {
                seen[side as usize].as_ref().is_some_and(|status| {
                    status.role() == role && status.standby_status() == "Ready"
                })
            };
            Side::BOTH.into_iter().find(|side| is(*side, "active") && is(side.other(), "standby"))
        });
        self.active = settled.map_err(|error| error.context(format!("{seen:#?}")))?;
        Ok(())
    }

    /// Waits until the writer of a server has had some more writes acknowledged.
    fn wait_writes(&self, side: Side) -> Result<()> {
        let writer = self.writers[side as usize].as_ref();
        writer.map_or(Ok(()), |writer| writer.wait_acked(writer.acked() + 20))
    }

    fn start_writer(&mut self, side: Side) -> Result<()> {
        let writer = self.ledger.writer(self.pair.server(side))?;
        self.writers[side as usize] = Some(writer);
        Ok(())
    }

    fn kill_writer(&mut self, side: Side) {
        if let Some(writer) = self.writers[side as usize].take() {
            self.ledger.take(writer.after_kill());
        }
    }

    /// Stops the writers, looks at everything, and goes on.
    fn check(&mut self) -> Result<()> {
        self.settle()?;
        for writer in self.writers.iter_mut().filter_map(Option::take) {
            self.ledger.take(writer.stop()?);
        }
        self.ledger.check(self.pair)?;
        for side in Side::BOTH {
            let server = self.pair.server(side);
            ensure!(server.entered_ms("Split Brain").is_err(), "a split at {}", side.name());
            self.start_writer(side)?;
        }
        Ok(())
    }
}

#[test]
fn spec_c6_two_hundred_kills_lose_no_acknowledged_write_and_no_version() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        let ledger = Ledger::create(&pair.alpha)?;
        pair.make_ready()?;
        let mut dice = Dice::new("two hundred kills");
        let mut kills: Vec<Kill> =
            ROUNDS.iter().flat_map(|(kill, times)| std::iter::repeat_n(*kill, *times)).collect();
        dice.shuffle(&mut kills);
        let (active, writers) = (Side::Alpha, [None, None]);
        let mut rounds = Rounds { pair, dice, ledger, active, writers };
        rounds.check()?;
        for (number, kill) in kills.iter().enumerate() {
            let played = rounds.play(*kill);
            played.map_err(|error| error.context(format!("round {number}: {kill:?}")))?;
            if (number + 1) % CHECK_EVERY == 0 {
                rounds.check().map_err(|error| {
                    error.context(format!("after round {number}: {:?}", &kills[..=number]))
                })?;
            }
        }
        let (acked, losers) = (rounds.ledger.acked(), rounds.ledger.losers);
        drop(rounds);
        ensure!(losers > 0, "no version ever lost: concurrent changes were not tested");
        let versions = pair.alpha.application(BOARD)?.number("SELECT count(*) FROM versions")?;
        let takeovers = kills.iter().filter(|kill| kill.takes_over()).count();
        note(&format!(
            "{} kills -9 with {takeovers} takeovers: 0 of {acked} acknowledged writes lost; of \
             {versions} versions {losers} concurrent ones lost and were kept in the journals",
            kills.len()
        ));
        Ok(())
    })
}
