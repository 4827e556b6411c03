//! Whom the listener accepts now, and which accepted connections are open because of it.
//!
//! Decides, under one lock, that no connection outlives the trust it was accepted under, that there
//! is at most one connection per channel, and how many transfers of `sync`. Knows no messages.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use ipicsha_core::trust::Partner;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use socket2::Socket;

use crate::{
    error::Error,
    identity::Identity,
    message::Channel,
    pin::{self, Accepted},
};

/// Transfers of `sync` that may be open at a time.
pub(crate) const SYNC_CONNECTIONS_MAX: usize = 8;

/// Why a connection that said a good hello is not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    TrustChanged,
    TooManyTransfers,
}

/// The pinned partner and the open connections.
pub(crate) struct Registry {
    identity: Arc<Identity>,
    inner: Mutex<Inner>,
}

struct Inner {
    partner: Option<Arc<Partner>>,
    config: Arc<ServerConfig>,
    /// Raised whenever another certificate or server is pinned.
    generation: u64,
    live: BTreeMap<u64, Live>,
    next: u64,
}

struct Live {
    channel: Channel,
    /// A duplicate of the connection's descriptor: it can be shut down here, whoever reads it.
    socket: Socket,
    ended: Arc<OnceLock<Ended>>,
}

impl Live {
    fn end(&self, reason: Ended) {
        // First reason wins; a second one changes nothing.
        let _ = self.ended.set(reason);
        // The socket may be gone already, which is what is wanted.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    TrustChanged,
    Superseded,
}

/// What one handshake is judged by.
pub(crate) struct Snapshot {
    pub(crate) partner: Option<Arc<Partner>>,
    pub(crate) config: Arc<ServerConfig>,
    generation: u64,
}

impl Registry {
    pub(crate) fn new(identity: Arc<Identity>, partner: Option<Partner>) -> Self {
        let config = config(&identity, partner.as_ref());
        let inner = Inner {
            partner: partner.map(Arc::new),
            config,
            generation: 0,
            live: BTreeMap::new(),
            next: 0,
        };
        Self { identity, inner: Mutex::new(inner) }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            partner: inner.partner.clone(),
            config: Arc::clone(&inner.config),
            generation: inner.generation,
        }
    }

    /// Pins another partner, or none. Connections of the old pin end before this returns; they stay
    /// when only the name, the address or the certificate to come differs.
    pub(crate) fn set_partner(&self, partner: Option<Partner>) {
        let config = config(&self.identity, partner.as_ref());
        let mut inner = self.lock();
        let pin =
            |partner: &Partner| (partner.server, CertificateDer::from(partner.certificate.clone()));
        let is_other = inner.partner.as_deref().map(pin) != partner.as_ref().map(pin);
        inner.config = config;
        if is_other {
            inner.generation += 1;
            for live in std::mem::take(&mut inner.live).values() {
                live.end(Ended::TrustChanged);
            }
        }
        inner.partner = partner.map(Arc::new);
    }

    /// Enters a connection that said a good hello; an older one of the same channel ends, except
    /// that transfers of `sync` stand side by side.
    pub(crate) fn admit(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        channel: Channel,
        socket: Socket,
    ) -> Result<LiveGuard, NotAdmitted> {
        let mut inner = self.lock();
        if inner.generation != snapshot.generation {
            return Err(NotAdmitted::TrustChanged);
        }
        let transfers = inner.live.values().filter(|live| live.channel == Channel::Sync).count();
        if channel == Channel::Sync && transfers >= SYNC_CONNECTIONS_MAX {
            return Err(NotAdmitted::TooManyTransfers);
        }
        inner.live.retain(|_, live| {
            let stays = live.channel != channel || channel == Channel::Sync;
            if !stays {
                live.end(Ended::Superseded);
            }
            stays
        });
        let id = inner.next;
        inner.next += 1;
        let ended = Arc::new(OnceLock::new());
        inner.live.insert(id, Live { channel, socket, ended: Arc::clone(&ended) });
        Ok(LiveGuard { registry: Arc::clone(self), id, ended })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics half-way through a change, so a poisoned value is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection in the registry for as long as somebody can read it.
pub(crate) struct LiveGuard {
    registry: Arc<Registry>,
    id: u64,
    ended: Arc<OnceLock<Ended>>,
}

impl LiveGuard {
    /// Errs when this server has ended the connection.
    pub(crate) fn check(&self, address: SocketAddr) -> Result<(), Error> {
        match self.ended.get() {
            None => Ok(()),
            Some(Ended::TrustChanged) => Err(Error::TrustChanged { address }),
            Some(Ended::Superseded) => Err(Error::Superseded { address }),
        }
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.registry.lock().live.remove(&self.id);
    }
}

impl fmt::Debug for LiveGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveGuard({})", self.id)
    }
}

fn config(identity: &Identity, partner: Option<&Partner>) -> Arc<ServerConfig> {
    let accepted = partner.map_or(Accepted::Nobody, Accepted::of);
    pin::server_config(identity, accepted)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry(..)")
    }
}
