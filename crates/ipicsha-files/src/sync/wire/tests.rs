use super::*;
use crate::{
    Hash, Kind, Name, RelativePath,
    filter::{Rules, RulesConfig},
    sync::{
        Depth,
        message::{Begin, Details, Entry, Listed, Small, Want},
    },
};

fn frames(packets: &[Packet], compress: Option<i32>) -> Vec<Vec<u8>> {
    let mut packer = Packer::new(4, compress);
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut keep = |frame: &mut [u8]| -> Result<(), ()> {
        frames.push(frame[4..].to_vec());
        Ok(())
    };
    for packet in packets {
        packer.add(packet, &mut keep).expect("kept");
    }
    packer.flush(keep).expect("kept");
    frames
}

fn heard(frames: &[Vec<u8>]) -> Vec<Packet> {
    let mut packets = Vec::new();
    for frame in frames {
        let take = |packet| {
            packets.push(packet);
            true
        };
        unpack(frame, take).expect("a frame");
    }
    packets
}

fn details() -> Details {
    Details {
        kind: Kind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: Time { seconds: 3, nanoseconds: 4 },
        size: 5,
        device: (0, 0),
        target: None,
        identity: None,
        hash: None,
        access_lists: None,
        extended: None,
    }
}

fn entry() -> Entry {
    Entry { name: Name::new(b"f").expect("a name"), details: details() }
}

fn hex(packet: Packet) -> String {
    let frames = frames(&[packet], None);
    frames.concat().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn wire_bytes_do_not_change_unnoticed() {
    let to_receiver = |message| hex(Packet::ToReceiver(message));
    let to_sender = |message| hex(Packet::ToSender(message));
    let path = RelativePath::new(b"a/b").expect("a path");
    let begin = Begin { entries: 1, directories: true };
    assert_eq!(to_receiver(ToReceiver::Begin(begin)), "0002000101");
    let dir = ToReceiver::Dir { path, itself: None };
    assert_eq!(to_receiver(dir), "00020103612f6200");
    let entries = ToReceiver::Entries { first: 7, entries: vec![entry()] };
    assert_eq!(to_receiver(entries), "0002030701016600a403010206040500000000000000");
    let end = ToReceiver::DirEnd { directories: vec![], listed: Listed::Part };
    assert_eq!(to_receiver(end), "0002040001");
    let small = Small { id: 1, content: b"xy".to_vec(), hash: Hash::of(b"xy") };
    assert!(
        to_receiver(ToReceiver::Pack(vec![small]))
            .starts_with("00020601010278 79".replace(' ', "").as_str())
    );
    assert_eq!(to_receiver(ToReceiver::Data(b"xy".to_vec())), "000208027879");
    assert_eq!(to_receiver(ToReceiver::Copy { offset: 1, length: 2 }), "00020a0102");
    assert_eq!(to_receiver(ToReceiver::Done), "00020e");
    let need = ToSender::Need { wants: vec![(1, Want::From(2))], decided: 3 };
    assert_eq!(to_sender(need), "00030001010102 03".replace(' ', ""));
    assert_eq!(to_sender(ToSender::NoMore), "000303");
    assert_eq!(hex(Packet::Answer(Ok(()))), "000100");
    let fatal = Fatal::new(Exit::Selection, "no");
    assert_eq!(hex(Packet::Answer(Err(fatal))), "00010103026e6f");
    assert_eq!(hex(Packet::Event(Event::Notice("x".into()))), "0004070178");
    assert_eq!(
        hex(Packet::Ended(Ended::Sent(Ok(Sent::default())))),
        "00050000 00000000".replace(' ', "")
    );
}

#[test]
fn small_messages_share_frames_and_contents_travel_alone() {
    let content = vec![7; ALONE_BYTES_MIN];
    let need = || Packet::ToSender(ToSender::Need { wants: vec![], decided: 1 });
    let data = |bytes: &[u8]| Packet::ToReceiver(ToReceiver::Data(bytes.to_vec()));
    let packets = [need(), need(), data(&content), data(b"little"), need()];
    let sent = frames(&packets, None);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[1].len(), 1 + content.len());
    let heard = heard(&sent);
    assert_eq!(format!("{heard:?}"), format!("{packets:?}"));
    let many: Vec<Packet> = std::iter::repeat_with(need).take(100_000).collect();
    let sent = frames(&many, None);
    assert!((5..20).contains(&sent.len()), "{} frames", sent.len());
}

#[test]
fn what_compresses_well_travels_compressed() {
    let data = |bytes: Vec<u8>| Packet::ToReceiver(ToReceiver::Data(bytes));
    let mut noise = vec![0; 200_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let packets = [data(b"words and words ".repeat(10_000)), data(noise)];
    let plain = frames(&packets, None);
    let packed = frames(&packets, Some(1));
    assert!(packed[0].len() < plain[0].len() / 20, "{}", packed[0].len());
    assert_eq!(packed[1], plain[1]);
    assert_eq!(format!("{:?}", heard(&packed)), format!("{packets:?}"));
}

#[test]
fn a_request_keeps_rules_and_options() {
    let mut rules = Rules::new(RulesConfig::default());
    rules.filter(b"- *.o").expect("a rule");
    rules.filter(b": .rules").expect("a rule");
    rules.protect(b"keep/");
    let options = Options {
        depth: Depth::Recursive,
        rules,
        suffix: b"~".to_vec(),
        max_delete: Some(3),
        ..Options::default()
    };
    let request = Request {
        protocol: PROTOCOL,
        half: Half::Send { sources: vec![b"/srv/".to_vec()] },
        options,
        interest: Interest { items: true, progress: false, every_file: false },
        compress: None,
    };
    let sent = frames(&[Packet::Request(Box::new(request.clone()))], None);
    let Some(Packet::Request(heard)) = heard(&sent).into_iter().next() else {
        panic!("no request")
    };
    // Files of rules in directories get numbers of their own at the other end.
    let told = |request: &Request| {
        let text = format!("{request:?}");
        let (before, after) = text.split_once("Spec { id: ").expect("a file of rules");
        format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    assert_eq!(told(&heard), told(&request));
}

#[test]
fn bytes_that_nobody_means_are_refused() {
    let refused = |frame: &[u8]| unpack(frame, |_| true) == Err(Malformed);
    assert!(refused(b"") && refused(&[9]) && refused(&[MESSAGES, 200]));
    assert!(refused(&[CONTENT | COMPRESSED, 1, 2]));
    // More than could ever be unpacked, from a few bytes.
    assert!(refused(&[CONTENT | COMPRESSED, 0xff, 0xff, 0xff, 0xff, 0]));
    let with = |packet| refused(&frames(&[packet], None).concat());
    let copy = |offset, length| Packet::ToReceiver(ToReceiver::Copy { offset, length });
    assert!(with(copy(u64::MAX, 1)) && with(copy(1, u64::MAX)) && !with(copy(1, 1)));
    let entries = |first, change: &dyn Fn(&mut Details)| {
        let mut entry = entry();
        change(&mut entry.details);
        Packet::ToReceiver(ToReceiver::Entries { first, entries: vec![entry] })
    };
    assert!(with(entries(u64::MAX, &|_| {})));
    assert!(with(entries(0, &|details| details.size = u64::MAX)));
    assert!(with(entries(0, &|details| details.mtime.seconds = i64::MIN)));
    assert!(with(entries(0, &|details| details.mtime.nanoseconds = u32::MAX)));
    assert!(!with(entries(0, &|_| {})));
    // Names that climb are no names.
    let good = frames(&[entries(0, &|_| {})], None).concat();
    let at = good.iter().position(|byte| *byte == b'f').expect("the name");
    let mut bad = good;
    bad[at] = b'/';
    assert!(refused(&bad));
}

#[test]
fn only_what_is_wanted_is_told_and_nothing_controls_the_terminal() {
    let quiet = Interest { items: false, progress: true, every_file: false };
    let progress = Event::Progress(Progress { file_done: true, ..Progress::default() });
    let mut told = None;
    assert!(quiet.wants(&progress, &mut told) && !quiet.wants(&progress, &mut told));
    let loud = Interest { every_file: true, ..quiet };
    assert!(loud.wants(&progress, &mut told));
    let problem = Event::Problem { text: "cannot \u{1b}[2J".into(), vanished: false };
    assert!(quiet.wants(&problem, &mut told));
    let Event::Problem { text, .. } = from_partner(problem, "bravo") else { panic!("changed") };
    assert_eq!(text, "bravo: cannot  [2J");
}
