//! The grant of each pair: decided by [`Lease`], durable before a server hears of it.
//!
//! Decides whose question counts: a server's newest connection. Must not decide who has the role.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use ipicsha_core::{
    WitnessAnswer,
    id::ServerId,
    time::MonoTime,
    witness::{Grant, Lease},
};
use ipicsha_link::{Asker, Fingerprint, WitnessQuestion, WitnessReply};

use crate::{
    daemon::{monotonic, write_durably},
    exit::{Failure, Kind},
};

/// The role of one pair, and where it is remembered.
pub(super) struct Held {
    path: PathBuf,
    lease: Lease,
    /// What is on the disk is not known: it could not be written.
    unwritten: bool,
    /// The newest connection of each server that has asked for the role or left it: what arrives late over
    /// an older one must not undo what was said since.
    newest: BTreeMap<Fingerprint, u64>,
}

impl Held {
    /// What was granted before this process, whose grants began at `started`.
    pub(super) fn read(path: PathBuf, started: MonoTime) -> Result<Self, Failure> {
        let lease = Lease::resume(read(&path)?, started);
        Ok(Self { path, lease, unwritten: false, newest: BTreeMap::new() })
    }

    /// Answers a server of the pair, which has these certificates.
    pub(super) fn answer(
        &mut self,
        who: Asker,
        certificates: &[Fingerprint],
        question: WitnessQuestion,
    ) -> WitnessReply {
        if let WitnessQuestion::Ping { .. } = question {
            return WitnessReply::Noted;
        }
        let newest = self.newest.entry(who.certificate).or_default();
        if who.connection < *newest {
            return WitnessReply::Failed("this server has made a newer connection".into());
        }
        *newest = who.connection;
        let before = self.lease.clone();
        self.lease
            .forget_strangers(|server| certificates.iter().any(|known| id_of(*known) == server));
        let (now, server) = (monotonic(), id_of(who.certificate));
        let answer = match question {
            WitnessQuestion::Ping { .. } => WitnessAnswer::Noted,
            WitnessQuestion::Leave { .. } => self.lease.leave(now, server),
            WitnessQuestion::Grant { epoch, known, hold, keep, .. } => {
                self.lease.ask(now, server, (epoch, known), (hold, keep))
            }
        };
        if let Err(error) = self.write_if_changed(&before, who.certificate) {
            (self.lease, self.unwritten) = (before, true);
            tracing::error!(%error, path = %self.path.display(), "a grant cannot be written");
            return WitnessReply::Failed(format!("its disk cannot be written: {error}"));
        }
        match answer {
            WitnessAnswer::Granted => WitnessReply::Granted,
            WitnessAnswer::Noted => WitnessReply::Noted,
            WitnessAnswer::Refused { epoch, left, kept } => {
                WitnessReply::Refused { epoch, left, kept }
            }
            WitnessAnswer::Failed(cause) => WitnessReply::Failed(cause),
        }
    }

    /// Nobody hears of what is not on the disk.
    fn write_if_changed(&mut self, before: &Lease, who: Fingerprint) -> io::Result<()> {
        let grant = self.lease.grant();
        if !self.unwritten && grant == before.grant() {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        write_durably(&self.path, &serde_json::to_vec_pretty(&grant)?)?;
        self.unwritten = false;
        if let Some(Grant { epoch, hold, kept, .. }) = grant {
            let path = self.path.display();
            tracing::info!(%path, certificate = %who, %epoch, ?hold, kept, "the grant has changed");
        }
        Ok(())
    }
}

/// A server is known by its certificate, whatever it says of itself.
pub(super) fn id_of(certificate: Fingerprint) -> ServerId {
    let mut id = [0; 8];
    id.copy_from_slice(&certificate.as_bytes()[..8]);
    ServerId(u64::from_le_bytes(id))
}

/// The grant as it is on the disk.
pub(super) fn read(path: &Path) -> Result<Option<Grant>, Failure> {
    let damaged = |why: String| {
        Failure::new(Kind::Failed, format!("{} of the witness is damaged: {why}", path.display()))
            .hinted("remove it when both servers of the pair are reachable and well")
    };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipicsha_core::epoch::Epoch;

    use super::*;

    fn two() -> (Fingerprint, Fingerprint) {
        (Fingerprint::of(b"alpha"), Fingerprint::of(b"bravo"))
    }

    fn asks(epoch: u64, keep: bool) -> WitnessQuestion {
        let (pair, hold) = ("dispatch".into(), Duration::from_secs(10));
        WitnessQuestion::Grant { pair, epoch: Epoch(epoch), known: Epoch(epoch - 1), hold, keep }
    }

    fn leaves() -> WitnessQuestion {
        WitnessQuestion::Leave { pair: "dispatch".into() }
    }

    fn on(certificate: Fingerprint, connection: u64) -> Asker {
        Asker { certificate, connection }
    }

    fn is_kept(reply: &WitnessReply) -> bool {
        matches!(reply, WitnessReply::Refused { kept: true, .. })
    }

    #[test]
    fn what_arrives_late_over_an_older_connection_undoes_nothing() {
        let (a, b) = two();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dispatch.json");
        let mut held = Held::read(path.clone(), monotonic()).unwrap();
        assert_eq!(held.answer(on(a, 7), &[a, b], asks(2, true)), WitnessReply::Granted);
        for late in [asks(2, false), leaves()] {
            let reply = held.answer(on(a, 6), &[a, b], late);
            assert!(matches!(reply, WitnessReply::Failed(_)), "{reply:?}");
        }
        assert!(is_kept(&held.answer(on(b, 1), &[a, b], asks(3, false))));
        let mut again = Held::read(path, monotonic()).unwrap();
        assert!(is_kept(&again.answer(on(b, 1), &[a, b], asks(3, false))), "it is durable");
    }

    #[test]
    fn what_was_given_back_stays_so_after_a_restart() {
        let (a, b) = two();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dispatch.json");
        let mut held = Held::read(path.clone(), monotonic()).unwrap();
        assert_eq!(held.answer(on(a, 1), &[a, b], asks(2, true)), WitnessReply::Granted);
        assert_eq!(held.answer(on(a, 1), &[a, b], leaves()), WitnessReply::Noted);
        let mut again = Held::read(path, monotonic()).unwrap();
        assert_eq!(again.answer(on(b, 1), &[a, b], asks(3, false)), WitnessReply::Granted);
    }

    #[test]
    fn what_is_kept_ends_with_the_certificate() {
        let (a, b) = two();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dispatch.json");
        let mut held = Held::read(path.clone(), monotonic()).unwrap();
        assert_eq!(held.answer(on(a, 1), &[a, b], asks(2, true)), WitnessReply::Granted);
        let reply = held.answer(on(b, 1), &[b], asks(3, false));
        assert!(matches!(reply, WitnessReply::Refused { kept: false, .. }), "{reply:?}");
    }

    #[test]
    fn nothing_is_granted_that_cannot_be_written() {
        let (a, b) = two();
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, "").unwrap();
        let mut held = Held::read(folder.path().join("grants/dispatch.json"), monotonic()).unwrap();
        held.path = blocked.join("dispatch.json");
        let reply = held.answer(on(a, 1), &[a, b], asks(2, false));
        assert!(matches!(reply, WitnessReply::Failed(_)), "{reply:?}");
        held.path = folder.path().join("grants/dispatch.json");
        assert_eq!(held.answer(on(b, 1), &[a, b], asks(2, false)), WitnessReply::Granted);
    }
}
