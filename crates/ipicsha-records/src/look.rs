//! A look at the database: what others have committed, and whether it is still the same file.
//!
//! Decides what follows from what is seen. The next series is read in the same look where nothing waits
//! before it: of a single commit that is what its way to the partner takes longest.

use std::time::Instant;

use crate::{
    database::SchemaCheck,
    engine::{Engine, SAFETY, Session, Source},
    error::Error,
    log::Dirty,
    pump::Series,
};

/// What was seen.
struct Seen {
    check: SchemaCheck,
    /// To be sent.
    loaded: Option<Series>,
}

impl Seen {
    const NOTHING: Self = Self { check: SchemaCheck::Same, loaded: None };
}

impl Engine {
    /// Looks without waiting for a hint: what the application has just created has no triggers yet.
    pub(crate) fn look_now(&mut self) {
        self.look_at = Instant::now();
        self.look(self.look_at);
    }

    /// Looks for commits, schema changes, and whether the file is still the one that is open.
    pub(crate) fn look(&mut self, now: Instant) {
        let alarmed = now < self.alarm_until;
        let safety = now >= self.look_at;
        if !alarmed && !safety {
            return;
        }
        if safety {
            self.look_at = now + SAFETY;
        }
        let seen = self.see(now, safety);
        match seen {
            Ok(Seen { check: SchemaCheck::Same, loaded }) => {
                self.settle(Source::Look, Ok(()));
                if let Some(loaded) = loaded {
                    let shipped = self.ship(loaded);
                    self.settle(Source::Pump, shipped);
                }
            }
            Ok(Seen { check: SchemaCheck::Changed, .. }) => {
                self.dirty = Dirty::default(); // read by other tables
                self.reattach("the schema has changed");
            }
            Err(error) => self.settle(Source::Look, Err(error)),
        }
    }

    fn see(&mut self, now: Instant, safety: bool) -> Result<Seen, Error> {
        let in_turn = self.inbox.is_empty() && self.pump_after.is_none();
        let Some(database) = &self.database else { return Ok(Seen::NOTHING) };
        if safety {
            database.check_file()?;
        } else if database.is_quiet(self.data_version) {
            return Ok(Seen::NOTHING);
        }
        let name = &self.config.name;
        let attached = match &self.session {
            Session::Attached(attached) if in_turn && self.switchover.is_none() => Some(attached),
            Session::Attached(_) | Session::Attaching(_) | Session::Detached => None,
        };
        let attached = attached.filter(|attached| attached.has_room());
        let look = database.look(self.data_version, &mut self.dirty, |db, dirty| {
            // What is wrong shows when `pump` reads it.
            let attached = attached.filter(|_| dirty.refresh(db, database).is_ok())?;
            let mut series = Series::default();
            attached.load(name, db, database, dirty, &mut series).ok()?;
            series.has_ended().then_some(series)
        })?;
        let Some(look) = look else { return Ok(Seen::NOTHING) };
        self.unread = look.read.is_none();
        self.reporter.touch();
        self.note_commit(now);
        // The writer is inside the switchover's transaction: its turn comes afterwards.
        if self.switchover.is_some() {
            return Ok(Seen::NOTHING);
        }
        let Some(database) = &mut self.database else { return Ok(Seen::NOTHING) };
        let mut check = SchemaCheck::Same;
        if !look.same_schema {
            check = database.reinstall()?;
        } else if !look.continued {
            self.note_restored()?;
            check = SchemaCheck::Changed;
        }
        self.data_version = look.version;
        Ok(Seen { check, loaded: look.read.filter(|series| !series.is_empty()) })
    }
}
