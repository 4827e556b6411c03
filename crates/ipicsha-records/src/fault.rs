//! Faults the tests put into the engine: mutants of the protocol and crashes between its steps.
//!
//! Decides nothing. In a normal build the questions are constants and nothing of this is left; a
//! property test that lets a mutant pass would not prove anything about the engine either.

use crate::error::Error;

/// A mistake the protocol could contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Time stamps decide about every own change, not only about concurrent ones.
    PlainTimestamps,
    /// Own changes are forgotten on acknowledgement, although older batches wait to be applied.
    TrimOnAck,
    /// A change that lost is sent nevertheless.
    SupersededSent,
    /// That it lost is not remembered across a restart.
    SupersededForgotten,
    /// A batch claims to reach further than its last record.
    PointerPastUnsent,
    /// A record travels with the stamp of its first change.
    #[cfg(test)]
    FirstStamp,
    /// Missing changes before a batch are not noticed.
    GapAccepted,
    /// The position is not in the transaction of the changes.
    PointerApart,
}

/// Where a daemon can be killed while it applies a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The records are written, nothing is durable.
    Written,
    /// The journal is durable, the database is not.
    Journaled,
    /// Both are; nobody knows yet.
    Committed,
}

#[cfg(not(test))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "fails in tests")]
pub(crate) const fn crash_at(_: Step) -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
pub(crate) use in_tests::{arm, crash_at, is, is_armed, locks, mutate, note_lock};

#[cfg(test)]
mod in_tests {
    use std::cell::Cell;

    use super::{Error, Mutant, Step};

    thread_local! {
        static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
        static CRASH: Cell<Option<Step>> = const { Cell::new(None) };
        static LOCKS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    }

    /// From now on this thread's engine has this mistake.
    pub(crate) fn mutate(mutant: Option<Mutant>) {
        MUTANT.set(mutant);
    }

    /// The next time this thread comes there, it dies.
    pub(crate) fn arm(step: Option<Step>) {
        CRASH.set(step);
    }

    /// It has not come there yet.
    pub(crate) fn is_armed() -> bool {
        CRASH.get().is_some()
    }

    /// This thread was refused a lock, and waits for it or gives up.
    pub(crate) fn note_lock(waits: bool) {
        let (refused, waited) = LOCKS.get();
        LOCKS.set((refused + 1, waited + u32::from(waits)));
    }

    /// How often it was refused one, and how often it waited then.
    pub(crate) fn locks() -> (u32, u32) {
        LOCKS.get()
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        MUTANT.get() == Some(mutant)
    }

    pub(crate) fn crash_at(step: Step) -> Result<(), Error> {
        if CRASH.get() == Some(step) {
            CRASH.set(None);
            return Err(Error::Stopped);
        }
        Ok(())
    }
}
