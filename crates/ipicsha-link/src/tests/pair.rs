//! Two servers that trust each other.

use std::{net::IpAddr, time::Duration};

use tokio::{net::TcpListener, time::timeout};

use super::{MOMENT, PATIENCE, Server, pair};
use crate::{
    Channel, Error, FRAME_BYTES_MAX_CONTROL, FRAME_BYTES_MAX_DATA, FrameError, Hello, PROTOCOL,
    Sent, connect,
    pin::{self, Accepted},
};

type Message = (u32, Vec<u8>);

async fn messages_arrive(from: &Server, to: &Server, channel: Channel) {
    let mut listening = to.listen(Some(from.as_partner()));
    let partner = to.as_partner();
    let mut sender = from.connect(listening.address(), &partner, channel).await.unwrap();
    let (hello, mut receiver) = listening.connection().await;
    assert_eq!(hello, from.hello(channel));
    assert_eq!(receiver.peer_address(), sender.local_address());
    assert_eq!(receiver.local_address(), sender.peer_address());
    for number in 0..200_u32 {
        let message: Message = (number, vec![1; usize::try_from(number).unwrap() * 50]);
        sender.send(&message).await.unwrap();
    }
    for number in 0..200_u32 {
        let (received, bytes): Message = receiver.recv().await.unwrap().unwrap();
        assert_eq!((received, bytes.len()), (number, usize::try_from(number).unwrap() * 50));
    }
    sender.close().await.unwrap();
    assert_eq!(receiver.recv::<Message>().await.unwrap(), None);
}

#[tokio::test]
async fn messages_arrive_in_order_both_ways() {
    let (alpha, bravo) = pair();
    messages_arrive(&alpha, &bravo, Channel::Control).await;
    messages_arrive(&bravo, &alpha, Channel::Data).await;
}

#[tokio::test]
async fn what_must_not_wait_goes_from_any_thread_and_in_order() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let mut sender = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    let message = |number: u32, bytes: usize| -> Message { (number, vec![1; bytes]) };
    let small = message(0, 10);
    // No runtime is entered there.
    let thread = std::thread::spawn(move || (sender.try_send(&small).unwrap(), sender));
    let (sent, mut sender) = thread.join().unwrap();
    assert_eq!(sent, Sent::Whole);
    assert_eq!(receiver.recv::<Message>().await.unwrap().unwrap(), message(0, 10));

    // More than the sockets take while nobody reads.
    let large = 32 << 20;
    assert_eq!(sender.try_send(&message(1, large)).unwrap(), Sent::Begun);
    assert_eq!(sender.try_send(&message(9, 1)).unwrap(), Sent::No, "it would come in between");
    assert!(timeout(MOMENT, sender.finish()).await.is_err(), "nobody reads");
    let reading = tokio::spawn(async move {
        for (number, bytes) in [(1, large), (2, 5), (3, 5)] {
            let received = receiver.recv::<Message>().await.unwrap().unwrap();
            assert!(received == message(number, bytes), "not message {number}");
        }
        receiver
    });
    // A cancelled `finish` has lost nothing, and `send` begins with it.
    sender.send(&message(2, 5)).await.unwrap();
    assert_eq!(sender.try_send(&message(3, 5)).unwrap(), Sent::Whole);
    let receiver = timeout(PATIENCE, reading).await.unwrap().unwrap();

    let too_long = message(4, FRAME_BYTES_MAX_DATA + 1);
    let error = sender.try_send(&too_long).unwrap_err();
    assert!(matches!(error, Error::Frame { source: FrameError::TooLong { .. }, .. }), "{error}");
    assert_eq!(sender.try_send(&message(4, 5)).unwrap(), Sent::Whole);
    drop(receiver);
    timeout(PATIENCE, sender.closed()).await.unwrap();
    assert!(sender.try_send(&message(5, 5)).is_err());
}

#[tokio::test]
async fn each_channel_has_its_limit() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let big = (1_u32, vec![7_u8; FRAME_BYTES_MAX_CONTROL]);

    let mut control = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    let error = control.send(&big).await.unwrap_err();
    assert!(matches!(error, Error::Frame { source: FrameError::TooLong { .. }, .. }), "{error}");
    // Nothing of it was sent, so the connection is still good.
    control.send(&5_u32).await.unwrap();
    assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(5));

    let mut data = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    let send = tokio::spawn(async move { data.send(&big).await });
    assert_eq!(receiver.recv::<Message>().await.unwrap().unwrap().1.len(), FRAME_BYTES_MAX_CONTROL);
    send.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_receiver_limits_what_a_sender_does_not() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let pinned = Accepted::of(&bravo.as_partner());
    let mut stream = alpha.raw(listening.address(), pinned).await;
    crate::frame::send(&mut stream, &alpha.hello(Channel::Control), 4096).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    let long = FRAME_BYTES_MAX_CONTROL * 2;
    crate::frame::send(&mut stream, &vec![0_u8; FRAME_BYTES_MAX_CONTROL], long).await.unwrap();
    let error = receiver.recv::<Vec<u8>>().await.unwrap_err();
    assert!(matches!(error, Error::Frame { source: FrameError::TooLong { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_connection_comes_from_the_given_local_address() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let local: IpAddr = "127.0.0.9".parse().unwrap();
    let mut dial = alpha.dial(listening.address(), &partner, Channel::Control);
    dial.local = Some(local);
    let _sender = connect(&dial).await.unwrap();
    let (_, receiver) = listening.connection().await;
    assert_eq!(receiver.peer_address().ip(), local);

    dial.local = Some("192.0.2.77".parse().unwrap());
    let error = connect(&dial).await.unwrap_err();
    assert!(matches!(error, Error::LocalAddress { .. }), "{error}");
}

#[tokio::test]
async fn each_end_notices_that_the_other_has_gone() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();

    let mut sender = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, receiver) = listening.connection().await;
    let closed = sender.closed();
    assert!(timeout(MOMENT, sender.closed()).await.is_err(), "closed too early");
    drop(receiver);
    timeout(PATIENCE, closed).await.unwrap();
    let error = sender.send(&1_u32).await.unwrap_err();
    assert!(matches!(error, Error::ClosedEarly { .. }), "{error}");

    // Without an orderly close it is an error, not an end.
    let sender = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    drop(sender);
    let error = timeout(PATIENCE, receiver.recv::<u32>()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

#[tokio::test]
async fn deleting_trust_closes_live_connections() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let mut control = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    let data = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
    let (_, _unread) = listening.connection().await;

    // Another address of the same partner changes nothing.
    let mut moved = alpha.as_partner();
    moved.address = "127.0.0.1:9".into();
    listening.listener.set_partner(Some(moved));
    control.send(&1_u32).await.unwrap();
    assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(1));

    control.send(&2_u32).await.unwrap();
    let waiting = tokio::spawn(async move {
        assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(2));
        receiver.recv::<u32>().await
    });
    tokio::time::sleep(MOMENT).await;
    listening.listener.set_partner(None);
    let error = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::TrustChanged { .. }), "{error}");
    timeout(PATIENCE, control.closed()).await.unwrap();
    // Even the one that nobody was reading.
    timeout(PATIENCE, data.closed()).await.unwrap();

    let again = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap_err();
    assert!(matches!(again, Error::NotTrustedThere { .. }), "{again}");
    listening.listener.set_partner(Some(alpha.as_partner()));
    alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
}

#[tokio::test]
async fn what_was_under_way_when_trust_ended_is_not_delivered() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let mut sender = alpha.connect(listening.address(), &partner, Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    sender.send(&1_u32).await.unwrap();
    tokio::time::sleep(MOMENT).await;
    listening.listener.set_partner(Some(Server::new("charlie", 0xc).as_partner()));
    let error = receiver.recv::<u32>().await.unwrap_err();
    assert!(matches!(error, Error::TrustChanged { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_connection_of_the_same_channel_replaces_the_older() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let address = listening.address();
    let old = alpha.connect(address, &partner, Channel::Control).await.unwrap();
    let (_, mut old_receiver) = listening.connection().await;
    let mut data = alpha.connect(address, &partner, Channel::Data).await.unwrap();
    let (_, mut data_receiver) = listening.connection().await;
    let mut new = alpha.connect(address, &partner, Channel::Control).await.unwrap();
    let (_, mut new_receiver) = listening.connection().await;

    let error = old_receiver.recv::<u32>().await.unwrap_err();
    assert!(matches!(error, Error::Superseded { .. }), "{error}");
    timeout(PATIENCE, old.closed()).await.unwrap();
    // The guard of the old one, dropped late, must not touch the new one.
    drop(old_receiver);
    new.send(&3_u32).await.unwrap();
    assert_eq!(new_receiver.recv::<u32>().await.unwrap(), Some(3));
    data.send(&4_u32).await.unwrap();
    assert_eq!(data_receiver.recv::<u32>().await.unwrap(), Some(4));
}

#[tokio::test]
async fn a_wrong_hello_is_refused_in_words() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let right = alpha.hello(Channel::Control);
    let other = format!("speaks protocol {}", PROTOCOL + 1);
    let wrong = [
        (Hello { protocol: PROTOCOL + 1, ..right.clone() }, other.as_str()),
        (Hello { server: bravo.id, ..right }, "says it is server 000000000000000b"),
    ];
    for (hello, words) in wrong {
        let mut dial = alpha.dial(listening.address(), &partner, Channel::Control);
        dial.hello = hello;
        let error = connect(&dial).await.unwrap_err();
        assert!(matches!(&error, Error::HelloRefused { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    listening.nothing_came().await;
}

#[tokio::test]
async fn a_partner_that_is_not_there_is_unreachable_or_times_out() {
    let (alpha, bravo) = pair();
    let partner = bravo.as_partner();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let mut dial = alpha.dial(address, &partner, Channel::Control);
    dial.timeout = Duration::from_millis(100);
    let error = connect(&dial).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    drop(silent);
    let error = connect(&dial).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn nothing_resumes_and_tls_1_3_is_all_there_is() {
    let (alpha, _) = pair();
    for accepted in [Accepted::Nobody, Accepted::AnyCertificate] {
        let server = pin::server_config(&alpha.identity, accepted.clone());
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        assert!(!server.session_storage.can_cache());
        let client = pin::client_config(&alpha.identity, accepted);
        assert!(!client.enable_early_data);
        assert!(format!("{:?}", client.resumption).contains("NoClientSessionStorage"));
    }
}

#[tokio::test]
async fn while_a_certificate_is_renewed_both_are_accepted_both_ways_and_then_one() {
    let (alpha, bravo) = pair();
    let renewed = Server::new("alpha", 0xa);
    let mut of_alpha = alpha.as_partner();
    let mut listening = bravo.listen(Some(of_alpha.clone()));
    let mut old =
        alpha.connect(listening.address(), &bravo.as_partner(), Channel::Control).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    of_alpha.next_certificate = Some(renewed.identity.certificate_der().to_vec());
    listening.listener.set_partner(Some(of_alpha.clone()));
    old.send(&1_u32).await.unwrap();
    assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(1), "what is open stays open");
    renewed.connect(listening.address(), &bravo.as_partner(), Channel::Control).await.unwrap();
    alpha.connect(listening.address(), &bravo.as_partner(), Channel::Control).await.unwrap();
    for server in [&alpha, &renewed] {
        let there = server.listen(Some(bravo.as_partner()));
        bravo.connect(there.address(), &of_alpha, Channel::Control).await.unwrap();
    }
    of_alpha.certificate = of_alpha.next_certificate.take().unwrap();
    listening.listener.set_partner(Some(of_alpha.clone()));
    renewed.connect(listening.address(), &bravo.as_partner(), Channel::Control).await.unwrap();
    let error = alpha
        .connect(listening.address(), &bravo.as_partner(), Channel::Control)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotTrustedThere { .. }), "{error}");
    let there = alpha.listen(Some(bravo.as_partner()));
    let error = bravo.connect(there.address(), &of_alpha, Channel::Control).await.unwrap_err();
    assert!(matches!(error, Error::OtherCertificate { .. }), "{error}");
}
