//! Connections on which both ends send.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;
use crate::{
    DuplexReceiver, DuplexSender, FRAME_ROOM, Patience, connect_duplex,
    registry::SYNC_CONNECTIONS_MAX,
};

async fn open(from: &Server, to: &Server, listening: &mut Listening) -> (Duplex, Duplex) {
    let partner = to.as_partner();
    let dialled =
        connect_duplex(&from.dial(listening.address(), &partner, Channel::Sync)).await.unwrap();
    let mut ends = (dialled, listening.duplex().await);
    let patience = Patience { silence_max: PATIENCE, given_up: Arc::default() };
    ends.0.set_patience(&patience);
    ends.1.set_patience(&patience);
    ends
}

fn say(sender: &mut DuplexSender, body: &[u8]) -> Result<(), Error> {
    sender.send(&mut [&[0; FRAME_ROOM], body].concat())
}

fn hear(receiver: &mut DuplexReceiver) -> Result<Option<Vec<u8>>, Error> {
    receiver.recv(b"what an earlier frame has left".to_vec(), &mut || {})
}

#[tokio::test]
async fn both_ends_send_at_once_and_one_can_finish_before_the_other() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let (here, there) = open(&alpha, &bravo, &mut listening).await;
    // More than the sockets hold: only two halves that work at the same time get through.
    let block: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    let (mut sender, mut receiver) = (here.sender, here.receiver);
    let (mut answering, mut listening_there) = (there.sender, there.receiver);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..8 {
                say(&mut sender, &block).unwrap();
            }
            say(&mut sender, b"").unwrap();
            sender.finish().unwrap();
        });
        scope.spawn(|| {
            for _ in 0..8 {
                assert!(hear(&mut receiver).unwrap().unwrap() == block);
            }
            // The last word comes although this end has long finished.
            assert_eq!(hear(&mut receiver).unwrap().unwrap(), [8]);
            assert!(hear(&mut receiver).unwrap().is_none());
        });
        let counting = scope.spawn(|| {
            let mut count = 0_u8;
            while let Some(frame) = hear(&mut listening_there).unwrap() {
                count += u8::from(frame == block);
            }
            count
        });
        for _ in 0..8 {
            say(&mut answering, &block).unwrap();
        }
        let count = counting.join().unwrap();
        say(&mut answering, &[count]).unwrap();
        answering.finish().unwrap();
    });
}

#[tokio::test]
async fn transfers_stand_side_by_side_up_to_a_limit() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let mut transfers = Vec::new();
    for _ in 0..SYNC_CONNECTIONS_MAX {
        transfers.push(open(&alpha, &bravo, &mut listening).await);
    }
    let partner = bravo.as_partner();
    let dial = alpha.dial(listening.address(), &partner, Channel::Sync);
    let refused = connect_duplex(&dial).await.unwrap_err();
    assert!(matches!(refused, Error::HelloRefused { .. }), "{refused}");
    assert!(refused.to_string().contains("transfers"), "{refused}");
    for (here, there) in &mut transfers {
        say(&mut here.sender, &[1]).unwrap();
        assert_eq!(hear(&mut there.receiver).unwrap(), Some(vec![1]));
    }
    transfers.pop();
    open(&alpha, &bravo, &mut listening).await;
}

#[tokio::test]
async fn deleting_trust_ends_a_transfer() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let (_here, mut there) = open(&alpha, &bravo, &mut listening).await;
    listening.listener.set_partner(None);
    let ended = hear(&mut there.receiver).unwrap_err();
    assert!(matches!(ended, Error::TrustChanged { .. }), "{ended}");
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let (mut here, mut there) = open(&alpha, &bravo, &mut listening).await;
    let silence_max = Duration::from_millis(300);
    there.set_patience(&Patience { silence_max, given_up: Arc::default() });
    let ended = hear(&mut there.receiver).unwrap_err();
    assert!(matches!(ended, Error::Timeout { .. }), "{ended}");
    let given_up = Arc::new(AtomicBool::new(true));
    here.set_patience(&Patience { silence_max: PATIENCE, given_up: Arc::clone(&given_up) });
    let ended = hear(&mut here.receiver).unwrap_err();
    assert!(matches!(ended, Error::GivenUp { .. }), "{ended}");
    given_up.store(false, Ordering::Relaxed);
    // Nobody reads there, so that in the end nothing can be sent.
    here.set_patience(&Patience { silence_max, given_up });
    let block = vec![0; 8 << 20];
    let ended = (0..16).find_map(|_| say(&mut here.sender, &block).err()).unwrap();
    assert!(matches!(ended, Error::Timeout { .. }), "{ended}");
    // A connection that was not finished is no orderly end.
    drop(here);
    let mut last = hear(&mut there.receiver);
    while let Ok(Some(_)) = last {
        last = hear(&mut there.receiver);
    }
    assert!(matches!(last, Err(Error::Lost { .. } | Error::Frame { .. })), "{last:?}");
}
