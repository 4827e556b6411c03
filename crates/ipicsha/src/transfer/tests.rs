//! Both sides over real connections, and each against another side that does not behave.

mod trees;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
    thread,
    time::Duration,
};

use ipicsha_core::{id::ServerId, trust::Partner};
use ipicsha_files::sync::{
    Delete, Depth, Event, Exit, Options, Outcome, Report,
    message::{ToReceiver, ToSender},
    wire::{Half, Interest, Packer, Packet},
};
use ipicsha_link::{
    Channel, Dial, Duplex, Hello, Identity, Incoming, Listener, ListenerConfig, PROTOCOL, Patience,
    connect_duplex,
};
use tokio::sync::mpsc;

use super::{Job, Policy, Transfers, answer::first, ask};

const PATIENCE: Duration = Duration::from_secs(20);

struct Heard(Mutex<Vec<Event>>);

impl Report for Heard {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// Two ends of one connection, as alpha dials bravo.
fn connection(runtime: &tokio::runtime::Runtime, folder: &Path) -> (Duplex, Duplex) {
    let identity = |name: &str| {
        Arc::new(Identity::load_or_create(&folder.join(name), name, 1_700_000_000).unwrap())
    };
    let (alpha, bravo) = (identity("alpha"), identity("bravo"));
    let partner = |id, name: &str, identity: &Identity| Partner {
        server: ServerId(id),
        name: name.into(),
        address: "127.0.0.1:3444".into(),
        certificate: identity.certificate_der().to_vec(),
        next_certificate: None,
    };
    let (sender, mut incoming) = mpsc::channel(1);
    let mut ends = runtime.block_on(async {
        let mut config = ListenerConfig::new(Arc::clone(&bravo), "bravo", folder, sender);
        config.partner = Some(partner(1, "alpha", &alpha));
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), config).unwrap();
        let dial = Dial {
            target: listener.local_address(),
            local: None,
            partner: &partner(2, "bravo", &bravo),
            identity: &alpha,
            hello: Hello {
                protocol: PROTOCOL,
                version: "0".into(),
                server: ServerId(1),
                name: "alpha".into(),
                channel: Channel::Sync,
            },
            timeout: PATIENCE,
            user_timeout: None,
        };
        let here = connect_duplex(&dial).await.unwrap();
        match incoming.recv().await.unwrap() {
            Incoming::Duplex { duplex, .. } => (here, duplex),
            other @ (Incoming::Connection { .. } | Incoming::Trust { .. }) => panic!("{other:?}"),
        }
    });
    let patience = Patience { silence_max: PATIENCE, given_up: Arc::default() };
    ends.0.set_patience(&patience);
    ends.1.set_patience(&patience);
    ends
}

fn recursive() -> Options {
    Options { depth: Depth::Recursive, ..Options::default() }
}

struct Place {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["here", "there"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Self { folder, runtime }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        self.at(path).as_os_str().as_bytes().to_vec()
    }

    fn connection(&self) -> (Duplex, Duplex) {
        connection(&self.runtime, self.folder.path())
    }

    fn transfers(&self) -> Transfers {
        let allow = vec![self.at("there")];
        Transfers::new(Policy { server: "bravo".into(), allow, deletions_max: 9 })
    }

    fn ask(&self, theirs: Half, ours: &str, duplex: Duplex) -> (Outcome, Vec<Event>) {
        self.ask_for(&recursive(), theirs, ours, duplex)
    }

    fn ask_for(
        &self,
        options: &Options,
        theirs: Half,
        ours: &str,
        duplex: Duplex,
    ) -> (Outcome, Vec<Event>) {
        let job = Job {
            partner: "bravo",
            theirs,
            ours: vec![self.bytes(ours)],
            options,
            interest: Interest { items: true, progress: true, every_file: true },
            compress: None,
            silence_max: PATIENCE,
            given_up: Arc::new(AtomicBool::new(false)),
        };
        let heard = Heard(Mutex::default());
        let outcome = ask(&job, duplex, &heard);
        (outcome, heard.0.into_inner().unwrap())
    }

    fn pull(&self) -> Half {
        Half::Send { sources: vec![self.bytes("there/")] }
    }

    fn push(&self) -> Half {
        Half::Receive { destination: self.bytes("there/") }
    }
}

fn say(duplex: &mut Duplex, packets: &[Packet]) {
    let mut packer = Packer::new(None);
    for packet in packets {
        packer.add(packet, |parts| duplex.sender.send(parts)).unwrap();
        packer.flush(|parts| duplex.sender.send(parts)).unwrap();
    }
}

#[test]
fn files_and_what_is_told_of_them_arrive_in_both_directions() {
    let place = Place::new();
    let transfers = place.transfers();
    let content = vec![7; 3_000_000];
    std::fs::write(place.at("here/f"), &content).unwrap();
    for (theirs, ours) in [(place.push(), "here/"), (place.pull(), "back")] {
        let (here, there) = place.connection();
        transfers.spawn(there, "alpha".into());
        let (outcome, heard) = place.ask(theirs, ours, here);
        assert_eq!((outcome.exit, outcome.fatal), (Exit::Success, None));
        assert_eq!(outcome.stats.literal_bytes, 3_000_000);
        let items = heard.iter().filter(|event| matches!(event, Event::Item(_))).count();
        let progress = heard.iter().any(|event| matches!(event, Event::Progress(_)));
        assert!(items >= 1 && progress, "{heard:?}");
    }
    assert_eq!(std::fs::read(place.at("back/f")).unwrap(), content);
    place.runtime.block_on(transfers.end());
}

#[test]
fn a_partner_that_says_what_nobody_asked_for_is_told_apart_from_a_lost_one() {
    let place = Place::new();
    let turns: [(&[Packet], Exit); 5] = [
        (&[Packet::ToSender(ToSender::NoMore)], Exit::Protocol),
        (&[Packet::Answer(Ok(())), Packet::ToSender(ToSender::NoMore)], Exit::Protocol),
        (&[Packet::Answer(Ok(())), Packet::Answer(Ok(()))], Exit::Protocol),
        (&[Packet::Answer(Ok(())), Packet::ToReceiver(ToReceiver::Done)], Exit::Stream),
        (&[], Exit::Stream),
    ];
    for (said, exit) in turns {
        let (here, mut there) = place.connection();
        let (outcome, _) = thread::scope(|scope| {
            let partner = scope.spawn(move || {
                first(&mut there.receiver).unwrap();
                say(&mut there, said);
                // Closed with something unread it could be lost before it is understood.
                (exit == Exit::Protocol).then_some(there)
            });
            let asked = place.ask(place.pull(), "back", here);
            drop(partner.join());
            asked
        });
        assert_eq!(outcome.exit, exit, "{said:?}: {:?}", outcome.fatal);
        assert!(outcome.fatal.is_some());
    }
    assert!(!place.at("back/f").exists());
}

#[test]
fn a_daemon_outlives_whatever_is_said_to_it() {
    let place = Place::new();
    let transfers = place.transfers();
    let mut noise = vec![0; 100_000];
    for (at, byte) in noise.iter_mut().enumerate() {
        *byte = (at * at / 7) as u8;
    }
    for length in [0, 1, 2, 5, 100, 100_000] {
        let (mut here, there) = place.connection();
        transfers.spawn(there, "alpha".into());
        here.sender.send(&[&noise[..length]]).unwrap();
        // It hangs up, or says nothing more: in any case it does not answer.
        assert!(!matches!(first(&mut here.receiver), Ok(Packet::Answer(Ok(())))));
    }
    // Right words, then wrong ones, in the middle of a transfer.
    let (mut here, there) = place.connection();
    transfers.spawn(there, "alpha".into());
    let request = ipicsha_files::sync::wire::Request {
        protocol: ipicsha_files::sync::wire::PROTOCOL,
        half: place.push(),
        options: Options::default(),
        interest: Interest { items: false, progress: false, every_file: false },
        compress: None,
    };
    say(&mut here, &[Packet::Request(Box::new(request))]);
    assert!(matches!(first(&mut here.receiver), Ok(Packet::Answer(Ok(())))));
    say(&mut here, &[Packet::ToReceiver(ToReceiver::Data(vec![1; 10]))]);
    let ended = loop {
        match first(&mut here.receiver) {
            Ok(Packet::Ended(ended)) => break ended,
            Ok(_) => {}
            Err(fatal) => panic!("{fatal}"),
        }
    };
    assert!(format!("{ended:?}").contains("belong to no file"), "{ended:?}");
    drop(here);
    // And it still serves.
    std::fs::write(place.at("here/f"), "x").unwrap();
    let (here, there) = place.connection();
    transfers.spawn(there, "alpha".into());
    assert_eq!(place.ask(place.push(), "here/", here).0.exit, Exit::Success);
    place.runtime.block_on(transfers.end());
}

/// What is said of an option, and how that ends.
type Said = (fn(&mut Options), Exit);

#[test]
fn a_daemon_outlives_whatever_options_are_said_to_it() {
    let place = Place::new();
    let transfers = place.transfers();
    // Long enough, on both sides, for a difference.
    std::fs::write(place.at("here/f"), vec![1; 300_000]).unwrap();
    let changes: [Said; 8] = [
        (|o| o.block_bytes = Some(0), Exit::Usage),
        (|o| o.block_bytes = Some(u32::MAX), Exit::Usage),
        (|o| o.bytes_per_second = Some(0), Exit::Usage),
        (|o| o.block_bytes = Some(1), Exit::Success),
        (|o| (o.update, o.modify_window) = (true, i64::MIN), Exit::Success),
        (|o| (o.update, o.modify_window) = (true, i64::MAX), Exit::Success),
        (|o| (o.min_size, o.max_size) = (Some(u64::MAX), Some(0)), Exit::Success),
        (|o| (o.delete, o.max_delete) = (Some(Delete::After), Some(u64::MAX)), Exit::Success),
    ];
    for (change, exit) in changes {
        let mut options = Options { whole_file: Some(false), preallocate: true, ..recursive() };
        change(&mut options);
        for (theirs, ours) in [(place.push(), "here/"), (place.pull(), "back")] {
            std::fs::write(place.at("there/f"), vec![2; 299_000]).unwrap();
            let (here, there) = place.connection();
            transfers.spawn(there, "alpha".into());
            let (outcome, _) = place.ask_for(&options, theirs, ours, here);
            assert_eq!(outcome.exit, exit, "{options:?}: {:?}", outcome.fatal);
        }
    }
    // And it still serves.
    let (here, there) = place.connection();
    transfers.spawn(there, "alpha".into());
    assert_eq!(place.ask(place.push(), "here/", here).0.exit, Exit::Success);
    assert_eq!(std::fs::read(place.at("there/f")).unwrap(), vec![1; 300_000]);
    place.runtime.block_on(transfers.end());
}

#[test]
fn another_version_is_refused_in_words() {
    let place = Place::new();
    let transfers = place.transfers();
    let (mut here, there) = place.connection();
    transfers.spawn(there, "alpha".into());
    let request = ipicsha_files::sync::wire::Request {
        protocol: 9,
        half: place.push(),
        options: Options::default(),
        interest: Interest { items: false, progress: false, every_file: false },
        compress: None,
    };
    say(&mut here, &[Packet::Request(Box::new(request))]);
    let Ok(Packet::Answer(Err(refused))) = first(&mut here.receiver) else { panic!("accepted") };
    assert_eq!(refused.exit, Exit::Protocol);
    assert!(refused.message.contains("same version"), "{refused}");
    place.runtime.block_on(transfers.end());
}
