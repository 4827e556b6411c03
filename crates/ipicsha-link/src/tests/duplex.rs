//! Connections on which both ends send.

use super::*;
use crate::{connect_duplex, registry::SYNC_CONNECTIONS_MAX};

async fn open(from: &Server, to: &Server, listening: &mut Listening) -> (Duplex, Duplex) {
    let partner = to.as_partner();
    let dialled =
        connect_duplex(&from.dial(listening.address(), &partner, Channel::Sync)).await.unwrap();
    (dialled, listening.duplex().await)
}

#[tokio::test]
async fn both_ends_send_at_once_and_one_can_finish_before_the_other() {
    let (alpha, bravo) = pair();
    let mut listening = bravo.listen(Some(alpha.as_partner()));
    let (mut here, mut there) = open(&alpha, &bravo, &mut listening).await;
    // More than the sockets hold: only two halves that work at the same time get through.
    let block = vec![7_u8; 3 << 20];
    let (sent, received) = (block.clone(), block.clone());
    let answering = tokio::spawn(async move {
        let (mut sender, mut receiver) = (there.sender, there.receiver);
        let sending = async {
            for _ in 0..8 {
                sender.send(&sent).await.unwrap();
            }
        };
        let receiving = async {
            let mut count = 0_u8;
            while receiver.recv::<Vec<u8>>().await.unwrap().is_some() {
                count += 1;
            }
            count
        };
        let ((), count) = tokio::join!(sending, receiving);
        sender.send(&vec![count]).await.unwrap();
        there = Duplex { sender, receiver };
        there.sender.finish().await.unwrap();
    });
    let sending = async {
        for _ in 0..8 {
            here.sender.send(&received).await.unwrap();
        }
        here.sender.finish().await.unwrap();
    };
    let receiving = async {
        for _ in 0..8 {
            assert_eq!(here.receiver.recv::<Vec<u8>>().await.unwrap().unwrap(), block);
        }
        // The last word comes although this end has long finished.
        assert_eq!(here.receiver.recv::<Vec<u8>>().await.unwrap().unwrap(), [8]);
        assert!(here.receiver.recv::<Vec<u8>>().await.unwrap().is_none());
    };
    timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
    answering.await.unwrap();
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
        here.sender.send(&1_u8).await.unwrap();
        assert_eq!(there.receiver.recv::<u8>().await.unwrap(), Some(1));
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
    let ended = timeout(PATIENCE, there.receiver.recv::<u8>()).await.unwrap().unwrap_err();
    assert!(matches!(ended, Error::TrustChanged { .. }), "{ended}");
}
