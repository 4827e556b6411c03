//! Listens for the partner, and for whoever wants to become it.
//!
//! Decides how many unknown connections may be open at a time and how long they may take. What is
//! said on them is judged in `serve.rs` and `exchange.rs`; what follows from it, by the shell.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use ipicsha_core::trust::Partner;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use crate::{
    attempts::AttemptLimiter,
    connection::FrameReceiver,
    duplex::Duplex,
    error::Error,
    exchange::Responder,
    identity::Identity,
    message::{Hello, Introduction},
    pin::{self, Accepted},
    refusal_log::RefusalLog,
    registry::Registry,
    serve::{Shared, serve},
};

/// Connections that may be open without having said who they are.
pub const CONNECTIONS_UNPROVEN_MAX: usize = 64;
/// Time for the handshake and the hello, or for the handshake and the proof of the password.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Length of the kernel's queue of connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// Pause after a failed accept: usually descriptors have run out, and only time brings them back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener hands to the shell.
#[derive(Debug)]
pub enum Incoming {
    /// The trusted partner opened a connection and was told that it is accepted.
    Connection {
        /// What it said of itself; its server id is the partner's.
        hello: Hello,
        /// What it sends.
        receiver: FrameReceiver,
    },
    /// The trusted partner opened a connection on which both ends send.
    Duplex {
        /// What it said of itself; its server id is the partner's.
        hello: Hello,
        /// Both ends.
        duplex: Duplex,
    },
    /// Somebody has proven the password of this server's admin user.
    Trust {
        /// What it said of itself and wants.
        introduction: Introduction,
        /// What to pin, or to forget.
        partner: Partner,
        /// The decision: this server's own introduction, or the refusal in words. Dropping it
        /// refuses too.
        answer: oneshot::Sender<Result<Introduction, String>>,
    },
}

/// How a listener works.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Who this server is.
    pub identity: Arc<Identity>,
    /// Its name, used in refusals.
    pub server_name: String,
    /// Where [`crate::AdminPassword`] is stored; read anew for every attempt.
    pub admin_password_directory: PathBuf,
    /// Who is trusted at the start.
    pub partner: Option<Partner>,
    /// Where the results go.
    pub incoming: mpsc::Sender<Incoming>,
    /// Time for a connection to say who it is; [`HANDSHAKE_DEADLINE`] outside tests.
    pub deadline: Duration,
}

impl ListenerConfig {
    /// The usual configuration: nobody trusted yet, [`HANDSHAKE_DEADLINE`].
    pub fn new(
        identity: Arc<Identity>,
        server_name: impl Into<String>,
        admin_password_directory: impl Into<PathBuf>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Self {
        Self {
            identity,
            server_name: server_name.into(),
            admin_password_directory: admin_password_directory.into(),
            partner: None,
            incoming,
            deadline: HANDSHAKE_DEADLINE,
        }
    }
}

/// A listening socket and its tasks; dropping it stops them, while connections that were handed over
/// stay open.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    registry: Arc<Registry>,
    accepting: AbortHandle,
}

impl Listener {
    /// Listens on `address`; port 0 lets the system choose. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The address is not of this server, or the port is in use.
    pub fn bind(address: SocketAddr, config: ListenerConfig) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address, source };
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;

        let registry = Arc::new(Registry::new(Arc::clone(&config.identity), config.partner));
        let shared = Arc::new(Shared {
            registry: Arc::clone(&registry),
            trust_config: pin::server_config(&config.identity, Accepted::AnyCertificate),
            responder: Responder {
                identity: config.identity,
                server_name: config.server_name,
                admin_password_directory: config.admin_password_directory,
                attempts: Mutex::new(AttemptLimiter::default()),
            },
            incoming: config.incoming,
            refusals: RefusalLog::default(),
            deadline: config.deadline,
        });
        let accepting = tokio::spawn(accept(listener, shared)).abort_handle();
        Ok(Self { local, registry, accepting })
    }

    /// Where it listens, with the port the system chose.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Trusts another partner, or none. When the certificate or the server id differs, accepted
    /// connections of the old partner end at once: their `recv` gives [`Error::TrustChanged`].
    /// Dialled connections are the shell's to drop.
    pub fn set_partner(&self, partner: Option<Partner>) {
        self.registry.set_partner(partner);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts for ever; ends by being aborted, and all handshakes with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_UNPROVEN_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((tcp, peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(permit) => {
                    connections.spawn(serve(Arc::clone(&shared), tcp, peer, permit));
                }
                Err(_) => shared.refusals.too_many(peer, CONNECTIONS_UNPROVEN_MAX),
            },
            Err(error) => {
                shared.refusals.accept_failed(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
