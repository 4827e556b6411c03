//! What a server of a pair and its witness say to each other, over TLS with certificates that both ends
//! know by their fingerprints.
//!
//! Decides who may speak: on the witness's side by a list that is asked for anew with every connection,
//! on the server's side by one fingerprint. Must not decide what is granted.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use ipicsha_core::epoch::Epoch;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, client::TlsStream};

use crate::{
    dial::{tcp, tls, within},
    error::Error,
    frame::{self, FRAME_BYTES_MAX_HELLO, FrameReader},
    identity::{Fingerprint, Identity},
    listen::{CONNECTIONS_UNPROVEN_MAX, HANDSHAKE_DEADLINE},
    pin::{self, ALPN_WITNESS, Accepted},
};

/// Where a witness listens.
pub const WITNESS_PORT_DEFAULT: u16 = 3445;
/// Connections of known servers at a time; each pair needs two.
const CONNECTIONS_MAX: usize = 1024;
/// A server that asks nothing for so long is gone: the longest heartbeat interval is ten minutes.
const SILENCE: Duration = Duration::from_secs(1260);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WitnessQuestion {
    /// It wants the role of its pair, under this epoch and for so long from now on.
    Grant {
        /// Name of the pair.
        pair: String,
        /// Epoch of the role.
        epoch: Epoch,
        /// The newest epoch the server knows of.
        known: Epoch,
        /// For how long.
        hold: Duration,
        /// Without end besides.
        keep: bool,
    },
    /// Is the witness there, and does it know this server?
    Ping {
        /// Name of the pair.
        pair: String,
    },
    /// It does not use the role any more.
    Leave {
        /// Name of the pair.
        pair: String,
    },
}

/// What the witness says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WitnessReply {
    /// The server has the role.
    Granted,
    /// The other server has it, or had it later.
    Refused {
        /// The newest epoch that was granted.
        epoch: Epoch,
        /// For how long the other one has it still.
        left: Duration,
        /// The other one has it without end.
        kept: bool,
    },
    /// It is there, and it is noted if the role is free.
    Noted,
    /// The witness cannot decide; why, for people.
    Failed(String),
}

/// A server's way to its witness: one connection that is made when it is needed.
pub struct WitnessClient {
    address: SocketAddr,
    fingerprint: Fingerprint,
    identity: Arc<Identity>,
    stream: Option<FrameReader<TlsStream<TcpStream>>>,
}

impl WitnessClient {
    /// To the witness at `address`, whose certificate has this fingerprint.
    pub fn new(address: SocketAddr, fingerprint: Fingerprint, identity: Arc<Identity>) -> Self {
        Self { address, fingerprint, identity, stream: None }
    }

    /// Asks once, within `limit`; twice where a connection that was open before has broken, or brings no
    /// answer: something on the way may have forgotten it.
    ///
    /// # Errors
    /// As [`crate::connect`].
    pub async fn ask(
        &mut self,
        question: &WitnessQuestion,
        limit: Duration,
    ) -> Result<WitnessReply, Error> {
        let was_open = self.stream.is_some();
        let address = self.address;
        let asked = within(address, limit, "the witness's answer", Box::pin(self.once(question)));
        match asked.await {
            Err(error) if was_open => {
                self.stream = None;
                tracing::debug!(%error, "the connection to the witness broke; another try");
                let again = Box::pin(self.once(question));
                let again = within(address, limit, "the witness's answer", again).await;
                self.keep_if(again)
            }
            result => self.keep_if(result),
        }
    }

    /// After a failure an answer may still come, which would be taken for that to the next question.
    fn keep_if(&mut self, result: Result<WitnessReply, Error>) -> Result<WitnessReply, Error> {
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    async fn once(&mut self, question: &WitnessQuestion) -> Result<WitnessReply, Error> {
        let address = self.address;
        let failed = |error| Error::frame(address, error);
        if self.stream.is_none() {
            let accepted = Accepted::Known(Arc::new(BTreeSet::from([self.fingerprint])));
            let config = pin::client_config(&self.identity, accepted);
            let stream = tls(tcp(address, None).await?, address, config, ALPN_WITNESS).await?;
            self.stream = Some(FrameReader::new(stream, FRAME_BYTES_MAX_HELLO));
        }
        let reader = self.stream.as_mut().expect("it was just made");
        frame::send(reader.stream(), question, FRAME_BYTES_MAX_HELLO).await.map_err(failed)?;
        match reader.recv().await.map_err(failed)? {
            Some(reply) => Ok(reply),
            None => Err(Error::closed_early(address, "it answered")),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The certificate it showed.
    pub certificate: Fingerprint,
    /// Of the connection; a later one has a higher number.
    pub connection: u64,
}

/// What a witness does with connections.
pub struct WitnessService {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Whose certificates are known now.
    pub known: Box<dyn Fn() -> BTreeSet<Fingerprint> + Send + Sync>,
    /// The answer to a question. It may wait for the disk.
    pub answer: Box<dyn Fn(Asker, WitnessQuestion) -> WitnessReply + Send + Sync>,
}

/// Answers until it is dropped.
pub async fn serve_witness(listener: TcpListener, service: Arc<WitnessService>) {
    let unproven = Arc::new(Semaphore::new(CONNECTIONS_UNPROVEN_MAX));
    let proven = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connection = 0;
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let Ok(permit) = Arc::clone(&unproven).try_acquire_owned() else {
                    tracing::debug!(%from, "too many connections have not said who they are");
                    continue;
                };
                connection += 1;
                let (service, proven) = (Arc::clone(&service), Arc::clone(&proven));
                tokio::spawn(async move {
                    let shaken = within(
                        from,
                        HANDSHAKE_DEADLINE,
                        "the handshake",
                        shake(&service, tcp, from),
                    )
                    .await;
                    drop(permit);
                    let result = match (shaken, proven.try_acquire()) {
                        (Ok(_), Err(_)) => Err(Error::GivenUp { address: from }),
                        (Ok((reader, certificate)), Ok(_place)) => {
                            talk(&service, reader, Asker { certificate, connection }, from).await
                        }
                        (Err(error), _) => Err(error),
                    };
                    if let Err(error) = result {
                        tracing::info!(%from, %error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Up to the point where it is known who asks.
async fn shake(
    service: &WitnessService,
    tcp: TcpStream,
    from: SocketAddr,
) -> Result<(FrameReader<ServerStream>, Fingerprint), Error> {
    tcp.set_nodelay(true).map_err(|source| Error::Lost { address: from, source })?;
    let accepted = Accepted::Known(Arc::new((service.known)()));
    let config = pin::server_config(&service.identity, accepted);
    let stream = TlsAcceptor::from(config)
        .accept(tcp)
        .await
        .map_err(|source| Error::handshake(from, source))?;
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    let Some(who) = shown.map(|certificate| Fingerprint::of(certificate)) else {
        return Err(Error::OtherCertificate { address: from });
    };
    if connection.alpn_protocol() != Some(ALPN_WITNESS) {
        let protocol = String::from_utf8_lossy(ALPN_WITNESS).into_owned();
        return Err(Error::Protocol { address: from, protocol });
    }
    Ok((FrameReader::new(stream, FRAME_BYTES_MAX_HELLO), who))
}

async fn talk(
    service: &Arc<WitnessService>,
    mut reader: FrameReader<ServerStream>,
    who: Asker,
    from: SocketAddr,
) -> Result<(), Error> {
    let failed = |error| Error::frame(from, error);
    loop {
        let question = async { reader.recv::<WitnessQuestion>().await.map_err(failed) };
        let Some(question) = within(from, SILENCE, "a question", question).await? else {
            return Ok(());
        };
        // Who was struck off the list meanwhile is not answered any more.
        if !(service.known)().contains(&who.certificate) {
            return Err(Error::TrustChanged { address: from });
        }
        let answering = Arc::clone(service);
        let reply = tokio::task::spawn_blocking(move || (answering.answer)(who, question)).await;
        let reply = reply.unwrap_or_else(|_| WitnessReply::Failed("it failed".into()));
        frame::send(reader.stream(), &reply, FRAME_BYTES_MAX_HELLO).await.map_err(failed)?;
    }
}
