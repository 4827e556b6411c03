//! Connects to the partner, proves both certificates and says hello.
//!
//! Decides what counts as connected: the partner has accepted the hello. Must not decide when to try
//! again; see [`crate::Backoff`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipicsha_core::trust::Partner;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    connection::{Ends, FrameSender},
    duplex::Duplex,
    error::Error,
    frame::{self, FRAME_BYTES_MAX_HELLO, FrameReader},
    identity::Identity,
    message::{Hello, HelloAnswer, printable},
    pin::{self, ALPN_PAIR, Accepted},
};

/// Everything one outgoing connection needs.
#[derive(Clone, Debug)]
pub struct Dial<'a> {
    /// Where the partner listens.
    pub target: SocketAddr,
    /// The address of this server to connect from; `None` leaves it to the system.
    pub local: Option<IpAddr>,
    /// Whose certificate is accepted.
    pub partner: &'a Partner,
    /// Who this server is.
    pub identity: &'a Identity,
    /// What is said first; its channel decides the frame limit.
    pub hello: Hello,
    /// For everything up to the accepted hello.
    pub timeout: Duration,
    /// How long sent bytes may stay unacknowledged before the connection counts as lost
    /// (`TCP_USER_TIMEOUT`); `None` leaves it to the system.
    pub user_timeout: Option<Duration>,
}

/// Opens one connection to the partner.
///
/// # Errors
/// [`Error::Unreachable`] and [`Error::LocalAddress`] before TLS; [`Error::OtherCertificate`] and
/// [`Error::Impostor`] when it is not the partner; [`Error::NotTrustedThere`] when the partner does
/// not accept this server's certificate; [`Error::HelloRefused`] in the partner's words;
/// [`Error::Timeout`] for all of it together.
pub async fn connect(dial: &Dial<'_>) -> Result<FrameSender, Error> {
    within(dial.target, dial.timeout, "connecting", Box::pin(establish(dial))).await
}

/// Opens one connection on which both ends send.
///
/// # Errors
/// As [`connect`].
pub async fn connect_duplex(dial: &Dial<'_>) -> Result<Duplex, Error> {
    let greeted = within(dial.target, dial.timeout, "connecting", Box::pin(greet(dial))).await;
    let (stream, ends) = greeted?;
    let (tcp, tls) = stream.into_inner();
    Duplex::new(tcp, tls, ends, None)
}

async fn establish(dial: &Dial<'_>) -> Result<FrameSender, Error> {
    let (stream, ends) = greet(dial).await?;
    Ok(FrameSender::new(stream, dial.hello.channel, ends))
}

/// Up to the accepted hello.
async fn greet(dial: &Dial<'_>) -> Result<(TlsStream<TcpStream>, Ends), Error> {
    let address = dial.target;
    let tcp = tcp(address, dial.local).await?;
    let unusable = |source| Error::Lost { address, source };
    if let Some(timeout) = dial.user_timeout {
        SockRef::from(&tcp).set_tcp_user_timeout(Some(timeout)).map_err(unusable)?;
    }
    let ends = Ends { peer: address, local: tcp.local_addr().map_err(unusable)? };
    let config = pin::client_config(dial.identity, Accepted::of(dial.partner));
    let mut stream = tls(tcp, address, config, ALPN_PAIR).await?;

    let failed = |error| Error::frame(address, error);
    frame::send(&mut stream, &dial.hello, FRAME_BYTES_MAX_HELLO).await.map_err(failed)?;
    let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX_HELLO);
    match reader.recv().await.map_err(failed)? {
        Some(HelloAnswer::Accepted) => Ok((reader.into_stream(), ends)),
        Some(HelloAnswer::Refused(reason)) => {
            Err(Error::HelloRefused { address, reason: printable(&reason) })
        }
        None => Err(Error::closed_early(address, "it answered the hello")),
    }
}

/// A TCP connection without delays for small messages.
pub(crate) async fn tcp(address: SocketAddr, local: Option<IpAddr>) -> Result<TcpStream, Error> {
    let unreachable = |source| Error::Unreachable { address, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(unreachable)?;
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0)).map_err(|source| Error::LocalAddress {
            address,
            local,
            source,
        })?;
    }
    let stream = socket.connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// TLS over it, under exactly the given ALPN.
pub(crate) async fn tls(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    alpn: &'static [u8],
) -> Result<TlsStream<TcpStream>, Error> {
    // An address as the name sends no name; who it is, the pin decides.
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|source| Error::handshake(address, source))?;
    if stream.get_ref().1.alpn_protocol() != Some(alpn) {
        let protocol = String::from_utf8_lossy(alpn).into_owned();
        return Err(Error::Protocol { address, protocol });
    }
    Ok(stream)
}

/// Gives `future` this long.
pub(crate) async fn within<T>(
    address: SocketAddr,
    after: Duration,
    step: &'static str,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, future).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { address, step, after }),
    }
}
