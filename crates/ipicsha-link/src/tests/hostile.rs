//! Everybody else: impostors, old clients, scanners and slow ones. Whatever they do costs their own
//! connection only, and a good connection works afterwards.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Listening, MOMENT, PATIENCE, Server, pair};
use crate::{
    CONNECTIONS_UNPROVEN_MAX, Channel, Error, Identity, PROTOCOL,
    message::TrustRequest,
    pin::{self, Accepted},
    request,
};

async fn good_connection_works(listening: &mut Listening, from: &Server, to: &Server) {
    let partner = to.as_partner();
    let mut sender = from.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    sender.send(&42_u32).await.unwrap();
    assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(42));
}

/// Reads until the other end closes, in whatever way.
async fn is_closed<S: AsyncReadExt + Unpin>(stream: &mut S) {
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "still open after {PATIENCE:?}");
}

/// One TLS server on its own; returns how its handshake ended.
async fn tls_server(
    identity: &Identity,
    accepted: Accepted,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<bool>) {
    let acceptor = TlsAcceptor::from(pin::server_config(identity, accepted));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handshake = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor.accept(tcp).await.is_ok()
    });
    (address, handshake)
}

#[tokio::test]
async fn a_client_with_another_key_is_refused() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let other = Server::new("alpha", 0xa);
    let error = other
        .connect(listening.address(), &bravo.as_partner(), Channel::Control)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotTrustedThere { .. }), "{error}");
    listening.nothing_came().await;
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[tokio::test]
async fn a_refused_client_learns_why_even_when_it_has_much_to_say() {
    let (alpha, bravo) = pair();
    let listening = bravo.listen(Some(alpha.as_partner()));
    let pinned = Accepted::of(&bravo.as_partner());
    let mut stream = Server::new("alpha", 0xa).raw(listening.address(), pinned).await;
    // The first write after a closed socket is answered with a reset, the second one fails.
    for _ in 0..2 {
        tokio::time::sleep(MOMENT).await;
        stream.write_all(&[0; 1000]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let error = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    let (alpha, bravo) = pair();
    let other = Server::new("bravo", 0xb);
    let mut listening = other.listen(Some(alpha.as_partner()));
    let error = alpha
        .connect(listening.address(), &bravo.as_partner(), Channel::Control)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::OtherCertificate { .. }), "{error}");
    assert!(error.to_string().contains("shows another certificate than the trusted partner's"));
    assert!(error.next_step().is_some());
    listening.nothing_came().await;
}

#[tokio::test]
async fn an_impostor_with_only_the_certificate_is_no_client() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let thief = Server::new("alpha", 0xa);
    let forged = alpha.with_identity(Identity::forged(&alpha.identity, &thief.identity));
    let error = forged
        .connect(listening.address(), &bravo.as_partner(), Channel::Control)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("DecryptError"), "{error}");
    listening.nothing_came().await;

    // Nor in the trust exchange, where any certificate is welcome but not without its key.
    let introduction = forged.introduction(None);
    let error =
        request(listening.address(), None, &forged.identity, "password", introduction, PATIENCE)
            .await
            .unwrap_err();
    assert!(error.to_string().contains("DecryptError"), "{error}");
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[tokio::test]
async fn an_impostor_with_only_the_certificate_is_no_server() {
    let (alpha, bravo) = pair();
    let thief = Server::new("bravo", 0xb);
    let forged = Identity::forged(&bravo.identity, &thief.identity);
    let pinned = Accepted::of(&alpha.as_partner());
    let (address, handshake) = tls_server(&forged, pinned).await;
    let error = alpha.connect(address, &bravo.as_partner(), Channel::Control).await.unwrap_err();
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
    assert!(!handshake.await.unwrap());

    let (address, handshake) = tls_server(&forged, Accepted::AnyCertificate).await;
    let introduction = alpha.introduction(None);
    let error = request(address, None, &alpha.identity, "password", introduction, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
    assert!(!handshake.await.unwrap());
}

/// A ClientHello of TLS 1.2: no `supported_versions`, one cipher suite, our ALPN.
fn tls12_client_hello() -> Vec<u8> {
    let alpn = pin::ALPN_TRUST;
    let name = [&[u8::try_from(alpn.len()).unwrap()], alpn].concat();
    let extension = |kind: u16, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap();
        [&kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
    };
    let list = |body: &[u8]| [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    let extensions = [
        extension(16, &list(&name)),
        extension(10, &list(&[0, 23, 0, 29])),
        extension(13, &list(&[4, 3])),
        extension(11, &[1, 0]),
        extension(23, &[]),
    ]
    .concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &list(&[0xc0, 0x2b]), &[1, 0], &list(&extensions)].concat();
    let message = [&[1, 0][..], &list(&body)].concat();
    [&[0x16, 3, 1][..], &list(&message)].concat()
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let mut tcp = TcpStream::connect(listening.address()).await.unwrap();
    tcp.write_all(&tls12_client_hello()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.unwrap().unwrap();
    // A fatal alert, number 70: protocol_version.
    assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
    assert_eq!(&answer[3..], [0, 2, 2, 70]);
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Connects with a changed configuration and returns the error of the first read.
async fn first_read(
    listening: &Listening,
    config: Arc<ClientConfig>,
    change: impl FnOnce(&mut ClientConfig),
) -> Result<usize, std::io::Error> {
    let mut config = Arc::unwrap_or_clone(config);
    change(&mut config);
    let tcp = TcpStream::connect(listening.address()).await.unwrap();
    let name = listening.address().ip().into();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap()
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let pinned = Accepted::of(&bravo.as_partner());
    for accepted in [pinned, Accepted::AnyCertificate] {
        let config = pin::client_config(&alpha.identity, accepted);
        let error = first_read(&listening, config, |config| {
            config.client_auth_cert_resolver = Arc::new(NoCertificate);
        })
        .await
        .unwrap_err();
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
    }
    listening.nothing_came().await;
}

#[tokio::test]
async fn an_unknown_or_missing_alpn_is_refused() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let config = || pin::client_config(&alpha.identity, Accepted::AnyCertificate);
    let error = first_read(&listening, config(), |config| {
        config.alpn_protocols = vec![b"h2".to_vec()];
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    // Without ALPN the handshake itself succeeds, and then nothing is said.
    let read = first_read(&listening, config(), |config| config.alpn_protocols.clear()).await;
    assert!(matches!(&read, Ok(0) | Err(_)), "{read:?}");
    listening.nothing_came().await;
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[tokio::test]
async fn pair_connections_are_refused_before_there_is_trust() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(None);
    let error = alpha
        .connect(listening.address(), &bravo.as_partner(), Channel::Control)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotTrustedThere { .. }), "{error}");
    listening.nothing_came().await;
}

#[tokio::test]
async fn bad_bytes_close_the_connection_and_nothing_else() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let address = listening.address();
    for rubbish in
        [&[0xa5; 4000][..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 9]]
    {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(rubbish).await.unwrap();
        is_closed(&mut tcp).await;
    }

    let long = [&[0xff; 4][..], &[0; 100]].concat();
    let just_too_long = 4097_u32.to_be_bytes().to_vec();
    let random = [&[0, 0, 0, 60][..], &[0xc3; 60]].concat();
    let truncated = vec![0, 0, 0, 60, 1, 2, 3];
    for frame in [long, just_too_long, random, truncated] {
        for trust in [false, true] {
            let accepted =
                if trust { Accepted::AnyCertificate } else { Accepted::of(&bravo.as_partner()) };
            let mut stream = alpha.raw(address, accepted).await;
            stream.write_all(&frame).await.unwrap();
            stream.flush().await.unwrap();
            if frame.len() == 7 {
                stream.shutdown().await.unwrap();
            }
            let start = Instant::now();
            is_closed(&mut stream).await;
            // By the frame, not by the deadline.
            assert!(start.elapsed() < PATIENCE / 2);
        }
    }
    listening.nothing_came().await;
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[tokio::test]
async fn bad_bytes_after_the_hello_are_an_error_of_the_receiver() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let pinned = || Accepted::of(&bravo.as_partner());
    for frame in [&[0xff; 8][..], &[0, 0, 0, 2, 0xff, 0xff], &[0, 0, 0, 9, 1]] {
        let mut stream = alpha.raw(listening.address(), pinned()).await;
        crate::frame::send(&mut stream, &alpha.hello(Channel::Data), 4096).await.unwrap();
        let (_, mut receiver) = listening.connection().await;
        stream.write_all(frame).await.unwrap();
        stream.shutdown().await.unwrap();
        let error = timeout(PATIENCE, receiver.recv::<u32>()).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Frame { .. }), "{error}");
    }
}

#[tokio::test]
async fn slow_connections_are_dropped_at_the_deadline() {
    let (alpha, bravo) = pair();
    let deadline = Duration::from_millis(400);
    let mut listening = bravo.listen_with(Some(alpha.as_partner()), deadline);
    let start = Instant::now();
    let mut silent = TcpStream::connect(listening.address()).await.unwrap();
    let pinned = Accepted::of(&bravo.as_partner());
    let mut without_hello = alpha.raw(listening.address(), pinned).await;
    let mut without_proof = alpha.raw(listening.address(), Accepted::AnyCertificate).await;
    is_closed(&mut silent).await;
    assert!(start.elapsed() >= deadline, "closed before the deadline");
    is_closed(&mut without_hello).await;
    is_closed(&mut without_proof).await;
    assert!(start.elapsed() < deadline * 8, "closed long after the deadline");
    listening.nothing_came().await;
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[tokio::test]
async fn only_so_many_strangers_may_wait() {
    let (alpha, bravo) = pair();
    let deadline = Duration::from_secs(6);
    let mut listening = bravo.listen_with(Some(alpha.as_partner()), deadline);
    let start = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..CONNECTIONS_UNPROVEN_MAX {
        waiting.push(TcpStream::connect(listening.address()).await.unwrap());
    }
    let mut one_more = TcpStream::connect(listening.address()).await.unwrap();
    is_closed(&mut one_more).await;
    assert!(start.elapsed() < deadline, "it was accepted and waited");
    for tcp in &mut waiting {
        assert!(timeout(Duration::from_millis(1), tcp.read(&mut [0; 1])).await.is_err());
    }
    drop(waiting);
    tokio::time::sleep(MOMENT).await;
    good_connection_works(&mut listening, &alpha, &bravo).await;
}

#[tokio::test]
async fn an_accepted_connection_frees_its_place() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let mut kept = Vec::new();
    for _ in 0..=CONNECTIONS_UNPROVEN_MAX {
        let partner = bravo.as_partner();
        let sender = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
        kept.push((sender, listening.connection().await));
    }
    assert_eq!(kept.len(), CONNECTIONS_UNPROVEN_MAX + 1);
}

#[tokio::test]
async fn a_trust_request_of_another_protocol_is_refused_in_words() {
    let (alpha, bravo) = pair();
    let listening = bravo.listen(None);
    let mut stream = alpha.raw(listening.address(), Accepted::AnyCertificate).await;
    let foreign = TrustRequest { protocol: PROTOCOL + 1, request: vec![1] };
    crate::frame::send(&mut stream, &foreign, 4096).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&answer);
    let refused = format!("bravo speaks protocol {PROTOCOL}, not {}", PROTOCOL + 1);
    assert!(text.contains(&refused), "{text}");
}
