//! One accepted TCP connection, from its first byte to the shell.
//!
//! Decides by ALPN what the other end wants, and gives it one deadline to prove who it is. Whatever
//! goes wrong costs that connection only: one line in the log, never an error of this server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ipicsha_core::trust::Partner;
use rustls::server::Acceptor;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    connection::{Ends, FrameReceiver, frame_bytes_max},
    dial::within,
    duplex::Duplex,
    error::Error,
    exchange::{Proven, Responder},
    frame::{self, FRAME_BYTES_MAX_HELLO, FrameReader},
    listen::Incoming,
    message::{Hello, HelloAnswer, PROTOCOL},
    pin::{ALPN_PAIR, ALPN_TRUST},
    refusal_log::RefusalLog,
    registry::{NotAdmitted, Registry, SYNC_CONNECTIONS_MAX, Snapshot},
};

/// How long the shell may take to store its decision about trust.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a refused connection is kept so that the other end can read why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) trust_config: Arc<rustls::ServerConfig>,
    pub(crate) responder: Responder,
    pub(crate) incoming: mpsc::Sender<Incoming>,
    pub(crate) refusals: RefusalLog,
    pub(crate) deadline: Duration,
}

/// Runs one connection; `permit` is its place among those that have not said who they are.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    tcp: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let established = Box::pin(establish(&shared, tcp, peer));
    let established = within(peer, shared.deadline, "the handshake", established).await;
    drop(permit);
    let result = match established {
        Ok(None) => Ok(()),
        Ok(Some(proven)) => ask_shell(&shared, proven).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {}
        // Port scans and health checks say nothing and deserve no line.
        Err(Error::ClosedEarly { step: TLS_HELLO, .. }) => {
            tracing::debug!(%peer, "connection closed before a word was said");
        }
        Err(error) => shared.refusals.refused(peer, &error),
    }
}

const TLS_HELLO: &str = "a TLS hello";

/// Up to the point where the other end is known. A partner connection is handed over here; a proven
/// trust exchange is returned, as its answer takes its own time.
async fn establish(
    shared: &Shared,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Result<Option<Box<Proven>>, Error> {
    let unusable = |source| Error::Lost { address: peer, source };
    tcp.set_nodelay(true).map_err(unusable)?;
    // The receiving end sends nothing, so only probes tell it that the other machine is gone.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive).map_err(unusable)?;
    let ends = Ends { peer, local: tcp.local_addr().map_err(unusable)? };

    let (stream, snapshot) = handshake(shared, tcp, peer).await?;
    let alpn = stream.get_ref().1.alpn_protocol();
    if alpn == Some(ALPN_PAIR) {
        pair(shared, stream, ends, &snapshot).await?;
        Ok(None)
    } else if alpn == Some(ALPN_TRUST) {
        shared.responder.prove(stream, peer).await.map(|proven| Some(Box::new(proven)))
    } else {
        Err(Error::Protocol { address: peer, protocol: "ipicsha".into() })
    }
}

async fn handshake(
    shared: &Shared,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Result<(TlsStream<TcpStream>, Snapshot), Error> {
    let start = match LazyConfigAcceptor::new(Acceptor::default(), tcp).await {
        Ok(start) => start,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Error::closed_early(peer, TLS_HELLO));
        }
        Err(source) => return Err(Error::Tls { address: peer, source }),
    };
    let snapshot = shared.registry.snapshot();
    let wants_pair =
        start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == ALPN_PAIR));
    // An unknown ALPN meets the trust configuration too, which answers it with the right alert.
    let config = Arc::clone(if wants_pair { &snapshot.config } else { &shared.trust_config });
    match start.into_stream(config).into_fallible().await {
        Ok(stream) => Ok((stream, snapshot)),
        Err((source, tcp)) => {
            linger(tcp).await;
            if wants_pair && snapshot.partner.is_none() {
                return Err(not_accepted(peer, "this server trusts no partner"));
            }
            Err(Error::handshake(peer, source))
        }
    }
}

/// A connection under the pinned certificate: its hello, the answer, and over to the shell.
async fn pair(
    shared: &Shared,
    stream: TlsStream<TcpStream>,
    ends: Ends,
    snapshot: &Snapshot,
) -> Result<(), Error> {
    let address = ends.peer;
    let socket = SockRef::from(stream.get_ref().0)
        .try_clone()
        .map_err(|source| Error::Lost { address, source })?;
    let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX_HELLO);
    let hello: Hello = reader
        .recv()
        .await
        .map_err(|error| Error::frame(address, error))?
        .ok_or_else(|| Error::closed_early(address, "its hello"))?;
    let hello = hello.shown();
    if let Err(reason) = judge(&hello, snapshot.partner.as_deref()) {
        return refuse(reader, address, reason).await;
    }
    let Ok(place) = shared.incoming.clone().reserve_owned().await else {
        return refuse(reader, address, "this server is stopping".into()).await;
    };
    let live = match shared.registry.admit(snapshot, hello.channel, socket) {
        Ok(live) => live,
        Err(NotAdmitted::TrustChanged) => {
            return refuse(reader, address, "trust was changed meanwhile".into()).await;
        }
        Err(NotAdmitted::TooManyTransfers) => {
            let reason = format!("{SYNC_CONNECTIONS_MAX} transfers of `ipicsha sync` are open");
            return refuse(reader, address, reason).await;
        }
    };
    frame::send(reader.stream(), &HelloAnswer::Accepted, FRAME_BYTES_MAX_HELLO)
        .await
        .map_err(|error| Error::frame(address, error))?;
    let limit = frame_bytes_max(hello.channel);
    place.send(if hello.channel.is_duplex() {
        let (tcp, tls) = reader.into_stream().into_inner();
        Incoming::Duplex { hello, duplex: Duplex::new(tcp, tls, ends, Some(live))? }
    } else {
        reader.set_limit(limit);
        Incoming::Connection { hello, receiver: FrameReceiver::new(reader, ends, live) }
    });
    Ok(())
}

fn judge(hello: &Hello, partner: Option<&Partner>) -> Result<(), String> {
    let Some(partner) = partner else { return Err("this server trusts no partner".into()) };
    if hello.protocol != PROTOCOL {
        return Err(format!(
            "it speaks protocol {}, this server {PROTOCOL}; install the same version on both",
            hello.protocol
        ));
    }
    if hello.server != partner.server {
        return Err(format!(
            "it says it is server {}, the trusted partner is {}; set trust again",
            hello.server, partner.server
        ));
    }
    Ok(())
}

async fn refuse(
    mut reader: FrameReader<TlsStream<TcpStream>>,
    address: SocketAddr,
    reason: String,
) -> Result<(), Error> {
    let answer = HelloAnswer::Refused(reason.clone());
    // The other end may be gone; the refusal is logged here in any case.
    let _ = frame::send(reader.stream(), &answer, FRAME_BYTES_MAX_HELLO).await;
    let _ = reader.stream().shutdown().await;
    Err(not_accepted(address, reason))
}

fn not_accepted(address: SocketAddr, reason: impl Into<String>) -> Error {
    Error::HelloNotAccepted { address, reason: reason.into() }
}

/// Lets the shell decide about somebody who has proven the password.
async fn ask_shell(shared: &Shared, proven: Box<Proven>) -> Result<(), Error> {
    let (answer, answered) = oneshot::channel();
    let incoming = Incoming::Trust {
        introduction: proven.introduction.clone(),
        partner: proven.partner.clone(),
        answer,
    };
    let decided = async {
        shared.incoming.send(incoming).await.ok()?;
        answered.await.ok()
    };
    let decided = tokio::time::timeout(ANSWER_DEADLINE, decided).await;
    let decided = decided
        .ok()
        .flatten()
        .unwrap_or_else(|| Err("the server did not decide in time; look at its log".into()));
    proven.answer(decided).await
}

/// Keeps a refused connection until the other end has read the alert: closing while its bytes are
/// unread would reset the connection, and the reason would be lost.
async fn linger(mut tcp: TcpStream) {
    let drain = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
