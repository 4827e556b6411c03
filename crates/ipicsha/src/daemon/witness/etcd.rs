//! An etcd cluster as the witness: the grant of a pair is a key that stays, the role one that hangs on a
//! lease of etcd's and goes with it.
//!
//! Decides nothing itself: [`Lease`] does, on what both keys say at one moment; what follows is written
//! only if neither has changed since. Must not use a lease's prolongation: a leader that was cut off
//! may go on prolonging without the majority, while a new lease needs it.

use std::time::{Duration, Instant};

use ipicsha_core::{
    WitnessAnswer,
    epoch::Epoch,
    id::ServerId,
    time::MonoTime,
    witness::{Grant, Lease},
};
use ipicsha_link::{WitnessQuestion, WitnessReply};

use super::gateway::{Change, Gateway, Read};
use crate::config::EtcdAt;

/// How often it is tried when the other server changes the keys at the same moment.
const TRIES: usize = 3;
/// What is said of the time that the other server has left; etcd knows it better.
const WHILE: Duration = Duration::from_secs(1);

/// What both servers of a pair ask for the role.
pub(super) struct Etcd {
    gateway: Gateway,
    prefix: String,
    server: ServerId,
}

/// The keys of a pair.
struct Keys {
    grant: String,
    role: String,
}

/// What they say.
struct Seen {
    grant: Read,
    role: Read,
    granted: Option<Grant>,
    holder: Option<ServerId>,
}

impl Etcd {
    pub(super) fn new(at: &EtcdAt, server: ServerId) -> Result<Self, String> {
        Ok(Self { gateway: Gateway::new(at)?, prefix: at.prefix.clone(), server })
    }

    /// Asks, and waits for the answer for so long.
    pub(super) fn ask(
        &self,
        question: &WitnessQuestion,
        partner: Option<ServerId>,
        limit: Duration,
    ) -> Result<WitnessReply, String> {
        let until = Instant::now() + limit;
        let partner = partner.ok_or("this server is not trusted with a partner")?;
        for _ in 0..TRIES {
            let reply = match question {
                WitnessQuestion::Ping { pair } => {
                    self.look(&self.keys(pair, partner), until)?;
                    Some(WitnessReply::Noted)
                }
                WitnessQuestion::Leave { pair } => self.leave(&self.keys(pair, partner), until)?,
                WitnessQuestion::Grant { pair, epoch, known, hold, keep } => {
                    self.grant(&self.keys(pair, partner), (*epoch, *known), (*hold, *keep), until)?
                }
            };
            if let Some(reply) = reply {
                return Ok(reply);
            }
        }
        Err("the other server changes its keys all the time".into())
    }

    /// Pairs may have the same name, and a server that was replaced is another one.
    fn keys(&self, pair: &str, partner: ServerId) -> Keys {
        let (low, high) = (self.server.min(partner), self.server.max(partner));
        let key = |name| format!("{}/{pair}/{:016x}-{:016x}/{name}", self.prefix, low.0, high.0);
        Keys { grant: key("grant"), role: key("role") }
    }

    fn look(&self, keys: &Keys, until: Instant) -> Result<Seen, String> {
        let [grant, role] = self.gateway.read([&keys.grant, &keys.role], until)?;
        let damaged = |key: &str| format!("the key {key} in etcd is not one of ipicsha");
        let granted = grant.value.as_deref().map(serde_json::from_slice::<Grant>).transpose();
        let granted = granted.map_err(|_| damaged(&keys.grant))?;
        let holder = role.value.as_deref().map(serde_json::from_slice::<ServerId>).transpose();
        let holder = holder.map_err(|_| damaged(&keys.role))?;
        Ok(Seen { grant, role, granted, holder })
    }

    /// `None`: the keys have changed meanwhile.
    fn leave(&self, keys: &Keys, until: Instant) -> Result<Option<WitnessReply>, String> {
        let seen = self.look(keys, until)?;
        let mut lease = seen.lease();
        if let WitnessAnswer::Refused { epoch, left, kept } =
            lease.leave(MonoTime::default(), self.server)
        {
            return Ok(Some(WitnessReply::Refused { epoch, left, kept }));
        }
        if lease.grant() == seen.granted.as_ref() && seen.holder != Some(self.server) {
            return Ok(Some(WitnessReply::Noted));
        }
        let mut changes = Vec::new();
        if let Some(grant) = lease.grant() {
            changes.push(put(&keys.grant, grant, 0)?);
        }
        if seen.holder == Some(self.server) {
            changes.push(Change::Delete { key: &keys.role });
        }
        let changed = self.gateway.change(seen.unchanged(keys), &changes, until)?;
        Ok(changed.then_some(WitnessReply::Noted))
    }

    /// `None`: the keys have changed meanwhile.
    fn grant(
        &self,
        keys: &Keys,
        epochs: (Epoch, Epoch),
        (hold, keep): (Duration, bool),
        until: Instant,
    ) -> Result<Option<WitnessReply>, String> {
        let seen = self.look(keys, until)?;
        let mut lease = seen.lease();
        match lease.ask(MonoTime::default(), self.server, epochs, (hold, keep)) {
            WitnessAnswer::Granted => {}
            WitnessAnswer::Refused { epoch, left, kept } => {
                return Ok(Some(WitnessReply::Refused { epoch, left, kept }));
            }
            WitnessAnswer::Noted | WitnessAnswer::Failed(_) => {
                return Err("it decides something else".into());
            }
        }
        let Some(granted) = lease.grant() else { return Err("it grants nothing".into()) };
        let id = if keep { 0 } else { self.gateway.lease(hold, until)? };
        let mut changes = vec![put(&keys.role, &self.server, id)?];
        if seen.granted.as_ref() != Some(granted) {
            changes.push(put(&keys.grant, granted, 0)?);
        }
        let changed = self.gateway.change(seen.unchanged(keys), &changes, until)?;
        Ok(changed.then_some(WitnessReply::Granted))
    }
}

impl Seen {
    /// The role is free once its key has gone; one that hangs on no lease is kept.
    fn lease(&self) -> Lease {
        let kept = self.holder.is_some() && self.role.lease == 0;
        let grant = self.granted.clone().map(|grant| Grant { kept, ..grant });
        let left = if self.holder.is_some() && !kept { WHILE } else { Duration::ZERO };
        Lease::with(grant, MonoTime::default() + left)
    }

    fn unchanged<'a>(&'a self, keys: &'a Keys) -> [(&'a str, &'a Read); 2] {
        [(&keys.grant, &self.grant), (&keys.role, &self.role)]
    }
}

fn put<'a>(key: &'a str, value: &impl serde::Serialize, lease: i64) -> Result<Change<'a>, String> {
    let value = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    Ok(Change::Put { key, value, lease })
}
