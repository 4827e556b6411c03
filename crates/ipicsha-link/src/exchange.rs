//! The trust exchange: how two servers that know nothing of each other come to trust exactly each
//! other's certificate (spec A1, A2).
//!
//! Both show their certificates over TLS 1.3, unverified but with proven keys. The initiator then
//! proves the password of the responder's admin user, bound to this very TLS session and to both
//! certificates, so a server in the middle, which has two sessions, fails even though it forwards
//! every byte. Decides whom to believe; whether trust is wanted at all, the shell decides.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipicsha_core::trust::Partner;
use rustls::{CommonState, ConnectionCommon};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::server;

use crate::{
    attempts::AttemptLimiter,
    dial::{self, within},
    error::Error,
    frame::{self, FRAME_BYTES_MAX_HELLO, FrameReader},
    identity::Identity,
    message::{
        Introduction, PROTOCOL, TrustAnswer, TrustProof, TrustReply, TrustRequest, default_address,
        printable,
    },
    opaque::{NotProven, Prover},
    password::{AdminPassword, check_length},
    pin::{self, ALPN_TRUST, Accepted},
};

const EXPORTER_LABEL: &[u8] = b"EXPORTER-ipicsha-trust-v1";
const EXPORTER_BYTES: usize = 32;

/// Asks the server at `target` for trust, or for its deletion, with the password of its admin user.
/// Returns the partner to pin (or to forget) after the responder has agreed. `timeout` covers all of
/// it, also the time the responder needs to store its decision.
///
/// # Errors
/// [`Error::PasswordWrong`] for a wrong password and for a server in the middle alike, before
/// anything about the password or this server was sent; [`Error::TrustRefused`] in the responder's
/// words; [`Error::Itself`]; and what a connection can fail with.
pub async fn request(
    target: SocketAddr,
    local: Option<IpAddr>,
    identity: &Identity,
    password: &str,
    introduction: Introduction,
    timeout: Duration,
) -> Result<Partner, Error> {
    check_length(password)?;
    let exchange = initiate(target, local, identity, password, introduction);
    within(target, timeout, "the trust exchange", Box::pin(exchange)).await
}

async fn initiate(
    address: SocketAddr,
    local: Option<IpAddr>,
    identity: &Identity,
    password: &str,
    introduction: Introduction,
) -> Result<Partner, Error> {
    let wrong = |NotProven| Error::PasswordWrong { address };
    let failed = |error| Error::frame(address, error);
    let tcp = dial::tcp(address, local).await?;
    let config = pin::client_config(identity, Accepted::AnyCertificate);
    let mut stream = dial::tls(tcp, address, config, ALPN_TRUST).await?;
    let connection = stream.get_ref().1;
    let certificate = shown_certificate(connection, address)?;
    if certificate == identity.certificate_der() {
        return Err(Error::Itself { address });
    }
    let context = context(connection, identity.certificate_der(), &certificate, address)?;

    let (prover, first) = Prover::start(password).map_err(wrong)?;
    let first = TrustRequest { protocol: PROTOCOL, request: first };
    frame::send(&mut stream, &first, FRAME_BYTES_MAX_HELLO).await.map_err(failed)?;
    let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX_HELLO);
    let challenge = match reader.recv().await.map_err(failed)? {
        Some(TrustReply::Challenge(challenge)) => challenge,
        Some(TrustReply::Refused(reason)) => {
            return Err(Error::TrustRefused { address, reason: printable(&reason) });
        }
        None => return Err(Error::closed_early(address, "its challenge")),
    };
    // argon2 takes a fifth of a second of CPU, which a task of the runtime must not.
    let proof = tokio::task::spawn_blocking(move || prover.prove(&challenge, &context))
        .await
        .unwrap_or(Err(NotProven))
        .map_err(wrong)?;

    // From here on the other end is known to hold the record of the password.
    let last = TrustProof { proof, introduction };
    frame::send(reader.stream(), &last, FRAME_BYTES_MAX_HELLO).await.map_err(failed)?;
    let answer: TrustAnswer = reader
        .recv()
        .await
        .map_err(failed)?
        .ok_or_else(|| Error::closed_early(address, "its answer"))?;
    // The answer is here; whether the goodbye arrives does not matter.
    let _ = reader.stream().shutdown().await;
    match answer {
        Ok(partner) => Ok(pinned(&partner.shown(), address, certificate)),
        Err(reason) => Err(Error::TrustRefused { address, reason: printable(&reason) }),
    }
}

/// The responder's side, shared by all connections of a listener.
pub(crate) struct Responder {
    pub(crate) identity: Arc<Identity>,
    pub(crate) server_name: String,
    pub(crate) admin_password_directory: PathBuf,
    pub(crate) attempts: Mutex<AttemptLimiter>,
}

type Reader = FrameReader<server::TlsStream<TcpStream>>;

/// An initiator that has proven the password and waits for the answer.
pub(crate) struct Proven {
    reader: Reader,
    address: SocketAddr,
    /// As it introduced itself.
    pub(crate) introduction: Introduction,
    /// What to pin or to forget.
    pub(crate) partner: Partner,
}

impl Responder {
    /// Everything up to the verified last message of the initiator.
    pub(crate) async fn prove(
        &self,
        stream: server::TlsStream<TcpStream>,
        address: SocketAddr,
    ) -> Result<Proven, Error> {
        let failed = |error| Error::frame(address, error);
        let connection = stream.get_ref().1;
        let certificate = shown_certificate(connection, address)?;
        let context = context(connection, &certificate, self.identity.certificate_der(), address)?;

        let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX_HELLO);
        let request: TrustRequest = reader
            .recv()
            .await
            .map_err(failed)?
            .ok_or_else(|| Error::closed_early(address, "its request"))?;
        let admitted = match self.admit(&request).await {
            Ok(admitted) => admitted,
            Err(Refusal { said, logged }) => {
                let reply = TrustReply::Refused(said);
                farewell(&mut reader, &reply).await;
                return Err(Error::TrustNotAccepted { address, reason: logged });
            }
        };
        let (password, attempt) = admitted;
        let not_proven = |NotProven| Error::NotProven { address };
        let (judge, challenge) =
            password.record().challenge(&request.request, &context).map_err(not_proven)?;
        let reply = TrustReply::Challenge(challenge);
        frame::send(reader.stream(), &reply, FRAME_BYTES_MAX_HELLO).await.map_err(failed)?;

        let last: TrustProof =
            reader.recv().await.map_err(failed)?.ok_or(Error::NotProven { address })?;
        judge.decide(&last.proof, &context).map_err(not_proven)?;
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).forgive(&attempt);
        let introduction = last.introduction.shown();
        let partner = pinned(&introduction, default_address(address.ip()), certificate);
        Ok(Proven { reader, address, introduction, partner })
    }

    /// Whether an attempt may begin, and against which record.
    async fn admit(
        &self,
        request: &TrustRequest,
    ) -> Result<(AdminPassword, crate::attempts::Attempt), Refusal> {
        let name = &self.server_name;
        if request.protocol != PROTOCOL {
            return Err(Refusal::same(format!(
                "{name} speaks protocol {PROTOCOL}, not {}: install the same version on both servers",
                request.protocol
            )));
        }
        // Loaded every time, so a password that was just set counts at once.
        let directory = self.admin_password_directory.clone();
        let loaded = tokio::task::spawn_blocking(move || AdminPassword::load(&directory)).await;
        let password = match loaded {
            Ok(Ok(Some(password))) => password,
            Ok(Ok(None)) => {
                return Err(Refusal::same(format!(
                    "no admin password is set on {name}; run `ipicsha trust password` there"
                )));
            }
            Ok(Err(error)) => {
                return Err(Refusal {
                    said: format!("the admin password of {name} cannot be read; see its log"),
                    logged: error.to_string(),
                });
            }
            Err(_) => return Err(Refusal::same(format!("{name} is stopping"))),
        };
        let admitted =
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        admitted.map(|attempt| (password, attempt)).map_err(|wait| {
            let seconds = wait.as_millis().div_ceil(1000);
            Refusal::same(format!("too many attempts, wait {seconds} s"))
        })
    }
}

impl Proven {
    /// Sends the shell's decision and ends the connection.
    pub(crate) async fn answer(mut self, answer: TrustAnswer) -> Result<(), Error> {
        let answer = answer.map_err(|reason| printable(&reason));
        frame::send(self.reader.stream(), &answer, FRAME_BYTES_MAX_HELLO)
            .await
            .map_err(|error| Error::frame(self.address, error))?;
        let _ = self.reader.stream().shutdown().await;
        Ok(())
    }
}

/// Why no attempt begins: for the other end, and for the own log.
struct Refusal {
    said: String,
    logged: String,
}

impl Refusal {
    fn same(said: String) -> Self {
        Self { logged: said.clone(), said }
    }
}

/// Sends a last message to somebody who may already be gone.
async fn farewell(reader: &mut Reader, reply: &TrustReply) {
    let _ = frame::send(reader.stream(), reply, FRAME_BYTES_MAX_HELLO).await;
    let _ = reader.stream().shutdown().await;
}

/// What the proof is bound to: the TLS session, and both certificates in their roles.
fn context<D>(
    connection: &ConnectionCommon<D>,
    initiator: &[u8],
    responder: &[u8],
    address: SocketAddr,
) -> Result<Vec<u8>, Error> {
    let exported = connection
        .export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, None)
        .map_err(|error| Error::Tls { address, source: std::io::Error::other(error) })?;
    let (initiator, responder) = (Sha256::digest(initiator), Sha256::digest(responder));
    Ok([exported.as_slice(), initiator.as_slice(), responder.as_slice()].concat())
}

fn shown_certificate(connection: &CommonState, address: SocketAddr) -> Result<Vec<u8>, Error> {
    connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| certificate.as_ref().to_vec())
        .ok_or_else(|| Error::closed_early(address, "its certificate"))
}

fn pinned(introduction: &Introduction, observed: SocketAddr, certificate: Vec<u8>) -> Partner {
    Partner {
        server: introduction.server,
        name: introduction.name.clone(),
        address: introduction.address(observed).to_string(),
        certificate,
        next_certificate: None,
    }
}
