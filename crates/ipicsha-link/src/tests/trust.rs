//! The trust exchange, with everybody who must not get through it.

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{Listening, PATIENCE, Server, pair};
use crate::{
    AdminPassword, Channel, Error, Incoming, Introduction, PROTOCOL, TrustAction,
    attempts::ATTEMPTS_MAX,
    dial,
    frame::{self, FRAME_BYTES_MAX_HELLO, FrameReader},
    message::{TrustProof, TrustReply, TrustRequest},
    opaque::Prover,
    pin::{self, ALPN_TRUST, Accepted},
    request,
};

const PASSWORD: &str = "correct horse battery";

type Answer = oneshot::Sender<Result<Introduction, String>>;

impl Listening {
    async fn trust(&mut self) -> (Introduction, ipicsha_core::trust::Partner, Answer) {
        match timeout(PATIENCE, self.incoming.recv()).await.unwrap().unwrap() {
            Incoming::Trust { introduction, partner, answer } => (introduction, partner, answer),
            other @ (Incoming::Connection { .. } | Incoming::Duplex { .. }) => {
                panic!("unexpected {other:?}")
            }
        }
    }
}

/// Asks as `from`; runs beside the test.
fn ask(
    from: &Server,
    listening: &Listening,
    password: &'static str,
    introduction: Introduction,
) -> JoinHandle<Result<ipicsha_core::trust::Partner, Error>> {
    let (target, identity) = (listening.address(), from.identity.clone());
    tokio::spawn(
        async move { request(target, None, &identity, password, introduction, PATIENCE).await },
    )
}

fn set_password(server: &Server) {
    AdminPassword::set(server.directory.path(), PASSWORD).unwrap();
}

#[tokio::test]
async fn the_right_password_pins_both() {
    let (alpha, bravo) = pair();
    set_password(&bravo);
    let mut listening = bravo.listen(None);
    let asked = ask(&alpha, &listening, PASSWORD, alpha.introduction(Some("0.0.0.0:5000")));
    let (introduction, partner, answer) = listening.trust().await;
    assert_eq!(introduction, alpha.introduction(Some("0.0.0.0:5000")));
    assert_eq!(partner.certificate, alpha.identity.certificate_der());
    assert_eq!(partner.address, "127.0.0.1:5000");
    assert_eq!((partner.server, partner.name.as_str()), (alpha.id, "alpha"));
    listening.listener.set_partner(Some(partner));
    assert!(!asked.is_finished(), "answered before the shell did");
    answer.send(Ok(bravo.introduction(None))).unwrap();

    let partner = timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(partner.certificate, bravo.identity.certificate_der());
    assert_eq!(partner.address, listening.address().to_string());
    assert_eq!((partner.server, partner.name.as_str()), (bravo.id, "bravo"));
    // And what was pinned works.
    let mut sender = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    sender.send(&1_u32).await.unwrap();
    assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(1));
}

#[tokio::test]
async fn the_shell_may_refuse_in_words() {
    let (alpha, bravo) = pair();
    set_password(&bravo);
    let mut listening = bravo.listen(None);
    let delete = Introduction { action: TrustAction::Delete, ..alpha.introduction(None) };
    let asked = ask(&alpha, &listening, PASSWORD, delete);
    let (introduction, partner, answer) = listening.trust().await;
    assert_eq!(introduction.action, TrustAction::Delete);
    assert_eq!(partner.address, "127.0.0.1:3444");
    answer.send(Err("HA is configured;\u{7} unconfigure it first".into())).unwrap();
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TrustRefused { .. }), "{error}");
    assert!(error.to_string().ends_with("HA is configured;  unconfigure it first"), "{error}");

    let asked = ask(&alpha, &listening, PASSWORD, alpha.introduction(None));
    let (_, _, answer) = listening.trust().await;
    drop(answer);
    let error = asked.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("did not decide"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_ends_at_the_initiator() {
    let (alpha, bravo) = pair();
    set_password(&bravo);
    let mut listening = bravo.listen(None);
    let asked = ask(&alpha, &listening, "correct horse batterY", alpha.introduction(None));
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::PasswordWrong { .. }), "{error}");
    assert!(error.to_string().ends_with("password wrong, or this is not your partner"));
    assert!(error.next_step().unwrap().contains("ipicsadmin"));
    listening.nothing_came().await;
}

/// Ends TLS on both sides with its own certificate and forwards everything in between.
async fn middle(own: &Server, target: std::net::SocketAddr) -> std::net::SocketAddr {
    let acceptor = TlsAcceptor::from(pin::server_config(&own.identity, Accepted::AnyCertificate));
    let client = pin::client_config(&own.identity, Accepted::AnyCertificate);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut initiator = acceptor.accept(tcp).await.unwrap();
        let tcp = dial::tcp(target, None).await.unwrap();
        let mut responder = dial::tls(tcp, target, client, ALPN_TRUST).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut initiator, &mut responder).await;
    });
    address
}

#[tokio::test]
async fn a_server_in_the_middle_fails_with_the_right_password() {
    let (alpha, bravo) = pair();
    set_password(&bravo);
    let mut listening = bravo.listen(None);
    let mallory = Server::new("bravo", 0xb);
    let address = middle(&mallory, listening.address()).await;
    let introduction = alpha.introduction(None);
    let error = request(address, None, &alpha.identity, PASSWORD, introduction, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::PasswordWrong { .. }), "{error}");
    listening.nothing_came().await;
}

#[tokio::test]
async fn a_false_proof_is_not_reported() {
    let (alpha, bravo) = pair();
    set_password(&bravo);
    let mut listening = bravo.listen(None);
    let stream = alpha.raw(listening.address(), Accepted::AnyCertificate).await;
    let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX_HELLO);
    begin(&mut reader).await.unwrap();
    let last = TrustProof { proof: vec![0; 64], introduction: alpha.introduction(None) };
    frame::send(reader.stream(), &last, FRAME_BYTES_MAX_HELLO).await.unwrap();
    let answer = timeout(PATIENCE, reader.recv::<TrustReply>()).await.unwrap();
    assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    listening.nothing_came().await;
}

type Raw = FrameReader<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

/// The first two messages of an attempt, which cost no argon2.
async fn begin(reader: &mut Raw) -> Result<Vec<u8>, String> {
    let (_, first) = Prover::start("a guessed password").unwrap();
    let first = TrustRequest { protocol: PROTOCOL, request: first };
    frame::send(reader.stream(), &first, FRAME_BYTES_MAX_HELLO).await.unwrap();
    match reader.recv().await.unwrap().unwrap() {
        TrustReply::Challenge(challenge) => Ok(challenge),
        TrustReply::Refused(reason) => Err(reason),
    }
}

#[tokio::test]
async fn guesses_are_limited_per_minute() {
    let (alpha, bravo) = pair();
    set_password(&bravo);
    let mut listening = bravo.listen(None);
    for _ in 0..ATTEMPTS_MAX {
        let stream = alpha.raw(listening.address(), Accepted::AnyCertificate).await;
        begin(&mut FrameReader::new(stream, FRAME_BYTES_MAX_HELLO)).await.unwrap();
    }
    // Even the right password waits now.
    let asked = ask(&alpha, &listening, PASSWORD, alpha.introduction(None));
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TrustRefused { .. }), "{error}");
    let text = error.to_string();
    let wait =
        text.split("too many attempts, wait ").nth(1).and_then(|wait| wait.strip_suffix(" s"));
    let seconds: u64 = wait.and_then(|wait| wait.parse().ok()).expect(&text);
    assert!((50..=60).contains(&seconds), "{text}");
    listening.nothing_came().await;
}

#[tokio::test]
async fn without_a_password_or_a_partner_the_refusal_says_so() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(None);
    let asked = ask(&alpha, &listening, PASSWORD, alpha.introduction(None));
    let error = asked.await.unwrap().unwrap_err();
    let words = "no admin password is set on bravo; run `ipicsha trust password` there";
    assert!(error.to_string().ends_with(words), "{error}");

    let asked = ask(&bravo, &listening, PASSWORD, bravo.introduction(None));
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Itself { .. }), "{error}");
    listening.nothing_came().await;
}

#[tokio::test]
async fn a_damaged_password_record_is_not_told_to_strangers() {
    let (alpha, bravo) = pair();
    std::fs::write(bravo.directory.path().join("admin-password"), "rubbish").unwrap();
    let mut listening = bravo.listen(None);
    let asked = ask(&alpha, &listening, PASSWORD, alpha.introduction(None));
    let error = asked.await.unwrap().unwrap_err();
    assert!(error.to_string().ends_with("cannot be read; see its log"), "{error}");
    listening.nothing_came().await;
}
