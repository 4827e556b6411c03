//! A receiver on a thread of its own, which nothing wakes but its connection.

use std::{path::PathBuf, thread, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::{PATIENCE, Server, pair};
use crate::{Channel, Error, FrameReceiver, FrameSender};

/// So long nothing is expected unless something is wrong.
const AGES: Duration = Duration::from_hours(1);

/// A thread that receives numbers.
struct Hearing {
    /// Each number, and how it ended.
    heard: UnboundedReceiver<Result<Option<u32>, Error>>,
    /// Where the system tells what the thread does.
    status: PathBuf,
}

impl Hearing {
    /// Receives on a thread of its own, which expects something for so long.
    async fn begin(receiver: FrameReceiver, expecting: Option<Duration>) -> Self {
        let mut receiver = receiver.into_blocking().unwrap();
        let (to, heard) = unbounded_channel();
        let (tell, mut told) = unbounded_channel();
        thread::spawn(move || {
            tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            if let Some(within) = expecting {
                receiver.expect(within);
            }
            loop {
                let received = receiver.recv::<u32>();
                let more = matches!(received, Ok(Some(_)));
                if to.send(received).is_err() || !more {
                    break;
                }
            }
        });
        let thread = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        Self { heard, status: PathBuf::from("/proc").join(thread).join("status") }
    }

    async fn next(&mut self) -> Result<Option<u32>, Error> {
        timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap()
    }

    /// Waits until the thread sleeps.
    async fn sleeps(&self) {
        let asleep = async {
            while !std::fs::read_to_string(&self.status).unwrap().contains("State:\tS") {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, asleep).await.expect("it never sleeps");
    }
}

/// A connection with its sending end, the server it goes to, and the one it comes from.
async fn connection(
    expecting: Option<Duration>,
) -> (FrameSender, Hearing, super::Listening, [Server; 2]) {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let mut sender = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
    let (_, mut receiver) = listening.connection().await;
    // What was read ahead for the task is not lost for the thread.
    for number in 0..100_u32 {
        sender.send(&number).await.unwrap();
    }
    assert_eq!(receiver.recv::<u32>().await.unwrap(), Some(0));
    let mut hearing = Hearing::begin(receiver, expecting).await;
    for number in 1..100 {
        assert_eq!(hearing.next().await.unwrap(), Some(number));
    }
    (sender, hearing, listening, [alpha, bravo])
}

#[tokio::test]
async fn it_ends_when_the_partner_closes() {
    let (sender, mut hearing, _listening, _servers) = connection(None).await;
    hearing.sleeps().await;
    sender.close().await.unwrap();
    assert_eq!(hearing.next().await.unwrap(), None);

    let (sender, mut hearing, _listening, _servers) = connection(None).await;
    hearing.sleeps().await;
    drop(sender);
    let error = hearing.next().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "without an orderly close: {error}");
}

#[tokio::test]
async fn it_ends_when_a_newer_connection_replaces_it() {
    let (_sender, mut hearing, mut listening, [alpha, bravo]) = connection(None).await;
    hearing.sleeps().await;
    let partner = bravo.as_partner();
    let mut new = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
    let (_, receiver) = listening.connection().await;
    let error = hearing.next().await.unwrap_err();
    assert!(matches!(error, Error::Superseded { .. }), "{error}");
    let mut newer = Hearing::begin(receiver, None).await;
    new.send(&7_u32).await.unwrap();
    assert_eq!(newer.next().await.unwrap(), Some(7));
}

#[tokio::test]
async fn it_ends_when_trust_is_deleted_asleep_or_awake() {
    for expecting in [None, Some(AGES)] {
        let (alpha, bravo) = pair();
        let mut listening = bravo.listen(Some(alpha.as_partner()));
        let partner = bravo.as_partner();
        let _sender = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
        let (_, receiver) = listening.connection().await;
        let mut hearing = Hearing::begin(receiver, expecting).await;
        if expecting.is_none() {
            hearing.sleeps().await;
        }
        listening.listener.set_partner(None);
        let error = hearing.next().await.unwrap_err();
        assert!(matches!(error, Error::TrustChanged { .. }), "{error}");
    }
}

#[tokio::test]
async fn it_stays_awake_no_longer_than_something_is_expected() {
    // Until it has come.
    let (mut sender, mut hearing, _listening, _servers) = connection(Some(AGES)).await;
    hearing.sleeps().await;
    sender.send(&100_u32).await.unwrap();
    assert_eq!(hearing.next().await.unwrap(), Some(100));

    // Or for as long as was said, when nothing comes.
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let partner = bravo.as_partner();
    let mut sender = alpha.connect(listening.address(), &partner, Channel::Data).await.unwrap();
    let (_, receiver) = listening.connection().await;
    let mut hearing = Hearing::begin(receiver, Some(Duration::from_millis(20))).await;
    hearing.sleeps().await;
    sender.send(&1_u32).await.unwrap();
    assert_eq!(hearing.next().await.unwrap(), Some(1));
}
