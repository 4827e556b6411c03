//! A witness and its servers: only known certificates are answered, both ways.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ipicsha_core::epoch::Epoch;
use tokio::net::{TcpListener, TcpSocket};

use super::{PATIENCE, Server, pair};
use crate::{
    Error, Fingerprint, WitnessClient, WitnessQuestion, WitnessReply, WitnessService, serve_witness,
};

struct Running {
    address: SocketAddr,
    known: Arc<Mutex<BTreeSet<Fingerprint>>>,
    asked: Arc<Mutex<Vec<(Fingerprint, WitnessQuestion)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(witness: &Server, known: &[&Server]) -> Running {
    run(witness, "127.0.0.1:0".parse().unwrap(), known).await
}

async fn run(witness: &Server, at: SocketAddr, known: &[&Server]) -> Running {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let known: BTreeSet<Fingerprint> = known.iter().map(|s| s.identity.fingerprint()).collect();
    let known = Arc::new(Mutex::new(known));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (of_known, of_asked) = (Arc::clone(&known), Arc::clone(&asked));
    let service = WitnessService {
        identity: Arc::clone(&witness.identity),
        known: Box::new(move || of_known.lock().unwrap().clone()),
        answer: Box::new(move |who, question| {
            of_asked.lock().unwrap().push((who.certificate, question));
            WitnessReply::Granted
        }),
    };
    let task = tokio::spawn(serve_witness(listener, Arc::new(service)));
    Running { address, known, asked, task }
}

fn client(of: &Server, running: &Running, witness: &Server) -> WitnessClient {
    let identity = Arc::clone(&of.identity);
    WitnessClient::new(running.address, witness.identity.fingerprint(), identity)
}

fn question() -> WitnessQuestion {
    let (epoch, known, hold) = (Epoch(4), Epoch(3), Duration::from_secs(10));
    WitnessQuestion::Grant { pair: "dispatch".into(), epoch, known, hold, keep: false }
}

#[tokio::test]
async fn a_known_server_is_answered_over_one_connection() {
    let ((alpha, bravo), witness) = (pair(), Server::new("witness", 9));
    let running = start(&witness, &[&alpha, &bravo]).await;
    for server in [&alpha, &bravo] {
        let mut client = client(server, &running, &witness);
        for _ in 0..3 {
            let reply = client.ask(&question(), PATIENCE).await.unwrap();
            assert_eq!(reply, WitnessReply::Granted);
        }
    }
    let asked = running.asked.lock().unwrap();
    assert_eq!(asked.len(), 6);
    assert_eq!(asked[0], (alpha.identity.fingerprint(), question()));
    assert_eq!(asked[3].0, bravo.identity.fingerprint());
}

#[tokio::test]
async fn a_stranger_is_not_answered_nor_one_that_was_struck_off() {
    let ((alpha, bravo), witness) = (pair(), Server::new("witness", 9));
    let running = start(&witness, &[&alpha]).await;
    let error = client(&bravo, &running, &witness).ask(&question(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::NotTrustedThere { .. }), "{error}");
    let mut known = client(&alpha, &running, &witness);
    known.ask(&question(), PATIENCE).await.unwrap();
    running.known.lock().unwrap().clear();
    known.ask(&question(), PATIENCE).await.unwrap_err();
    assert_eq!(running.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn another_witness_at_the_address_is_not_asked() {
    let ((alpha, _), witness) = (pair(), Server::new("witness", 9));
    let impostor = Server::new("witness", 9);
    let running = start(&impostor, &[&alpha]).await;
    let error = client(&alpha, &running, &witness).ask(&question(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::OtherCertificate { .. }), "{error}");
    assert!(running.asked.lock().unwrap().is_empty());
}

#[test]
fn a_witness_that_restarts_is_asked_over_a_new_connection() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let ((alpha, _), witness) = (pair(), Server::new("witness", 9));
    let here = runtime();
    let there = runtime();
    let first = there.block_on(run(&witness, "127.0.0.1:0".parse().unwrap(), &[&alpha]));
    let mut asking = client(&alpha, &first, &witness);
    here.block_on(asking.ask(&question(), PATIENCE)).unwrap();
    let address = first.address;
    // All its connections end with it, as with a process.
    there.shutdown_timeout(PATIENCE);
    let there = runtime();
    let second = there.block_on(run(&witness, address, &[&alpha]));
    here.block_on(asking.ask(&question(), PATIENCE)).unwrap();
    assert_eq!(second.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_witness_that_says_nothing_costs_the_time_that_was_given() {
    let ((alpha, _), witness) = (pair(), Server::new("witness", 9));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = Arc::clone(&alpha.identity);
    let mut asking = WitnessClient::new(address, witness.identity.fingerprint(), identity);
    let error = asking.ask(&question(), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[test]
fn fingerprints_are_read_as_they_are_shown() {
    let shown = Server::new("alpha", 1).identity.fingerprint();
    assert_eq!(shown.to_string().parse::<Fingerprint>().unwrap(), shown);
    let colons = shown.to_string().replace('-', ":").to_uppercase();
    assert_eq!(colons.parse::<Fingerprint>().unwrap(), shown);
    for wrong in ["", "7f3a", &"x".repeat(64), &"0".repeat(63), &"0".repeat(65)] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}
