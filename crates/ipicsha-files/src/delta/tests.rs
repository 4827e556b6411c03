//! A difference applied to the old content gives the new one, whatever both are.

use proptest::prelude::*;

use super::*;
use crate::Hash;

/// Small blocks, so that small contents have many.
const BLOCK: u32 = 64;

/// The new content as the receiver makes it, and how many of its bytes were sent.
fn transfer(old: &[u8], new: &[u8], block: u32, piece: usize) -> (Vec<u8>, u64) {
    let signature = Signature::of(old, block);
    let mut matcher = Matcher::new(&signature);
    let (mut made, mut sent, mut parts) = (Vec::new(), 0, Parts::default());
    let mut take = |op: Op<'_>| match op {
        Op::Copy { offset, length } => {
            let from = usize::try_from(offset).expect("small");
            let copied = &old[from..from + usize::try_from(length).expect("small")];
            copied.chunks(block as usize).for_each(|b| parts.add_old(&Hash::of(b), b.len() as u64));
            made.extend_from_slice(copied);
        }
        Op::Literal(bytes) => {
            sent += bytes.len() as u64;
            parts.add_new(bytes);
            made.extend_from_slice(bytes);
        }
    };
    for part in new.chunks(piece.max(1)) {
        matcher.add(part, &mut take);
    }
    let hash = matcher.finish(&mut take);
    assert_eq!(hash, parts.finish());
    (made, sent)
}

/// Bytes without repetition.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Overwrite(usize, Vec<u8>),
    Move(usize, usize, usize),
    Double(usize, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = || 0..6000usize;
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let one = prop_oneof![
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at(), 0..800usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite(at, bytes)),
        (at(), 0..800usize, at()).prop_map(|(at, length, to)| Edit::Move(at, length, to)),
        (at(), 0..800usize).prop_map(|(at, length)| Edit::Double(at, length)),
    ];
    prop::collection::vec(one, 0..6)
}

fn edit(content: &mut Vec<u8>, edit: &Edit) {
    let range = |content: &Vec<u8>, at: usize, length: usize| {
        let at = at.min(content.len());
        at..(at + length).min(content.len())
    };
    match edit {
        Edit::Insert(at, bytes) => {
            let at = (*at).min(content.len());
            drop(content.splice(at..at, bytes.iter().copied()));
        }
        Edit::Remove(at, length) => drop(content.drain(range(content, *at, *length))),
        Edit::Overwrite(at, bytes) => {
            drop(content.splice(range(content, *at, bytes.len()), bytes.iter().copied()));
        }
        Edit::Move(at, length, to) => {
            let part: Vec<u8> = content.drain(range(content, *at, *length)).collect();
            let to = (*to).min(content.len());
            drop(content.splice(to..to, part));
        }
        Edit::Double(at, length) => {
            let part = content[range(content, *at, *length)].to_vec();
            content.extend(part);
        }
    }
}

fn old_content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..6000usize, any::<u64>()).prop_map(|(length, seed)| noise(length, seed)),
        // Full of repetition: every block is like many others.
        prop::collection::vec(0..3u8, 0..3000),
        (0..6000usize).prop_map(|length| vec![0; length]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_difference_applied_to_the_old_content_gives_the_new_one(
        old in old_content(), edits in edits(), piece in 1..5000usize,
        block in prop::sample::select(vec![BLOCK, 1024]),
    ) {
        let mut new = old.clone();
        edits.iter().for_each(|one| edit(&mut new, one));
        let (made, _) = transfer(&old, &new, block, piece);
        prop_assert!(made == new);
    }

    #[test]
    fn contents_that_have_nothing_in_common_arrive_too(
        old in prop::collection::vec(any::<u8>(), 0..2000),
        new in prop::collection::vec(any::<u8>(), 0..2000), block in 1..400u32,
    ) {
        prop_assert!(transfer(&old, &new, block, 777).0 == new);
    }

    #[test]
    fn a_signature_does_not_depend_on_the_pieces(
        content in prop::collection::vec(any::<u8>(), 0..3000), piece in 1..500usize,
    ) {
        let mut signer = Signer::new(BLOCK);
        content.chunks(piece).for_each(|part| signer.add(part));
        let signature = signer.finish();
        prop_assert!(signature.is_consistent());
        prop_assert_eq!(signature, Signature::of(&content, BLOCK));
    }
}

#[test]
fn what_did_not_change_is_not_sent() {
    let old = noise(1_000_000, 1);
    let block = 16 * 1024;
    assert_eq!(transfer(&old, &old, block, 100_000).1, 0);
    let mut paged = old.clone();
    for page in [3, 40, 100] {
        paged[page * 4096] ^= 1;
    }
    assert_eq!(transfer(&old, &paged, block, 100_000).1, 3 * u64::from(block));
    let inserted = [&noise(300_000, 2)[..], &old].concat();
    let (made, sent) = transfer(&old, &inserted, block, 65_536);
    assert!(made == inserted && sent == 300_000, "{sent} bytes were sent");
    let removed = [&old[..100_000], &old[150_001..]].concat();
    let (_, sent) = transfer(&old, &removed, block, 65_536);
    assert!(sent <= 2 * u64::from(block), "{sent} bytes were sent");
    let grown = [&old[..], b"more"].concat();
    assert!(transfer(&old, &grown, block, 65_536).1 <= u64::from(block));
}

/// Blocks that differ in their last bytes only, and zeros that are like many of them but none.
#[test]
fn repetition_does_not_mislead() {
    let mut old = Vec::new();
    for number in 0..2000u32 {
        old.extend_from_slice(&[0; 60]);
        old.extend_from_slice(&number.wrapping_add(1).to_be_bytes());
    }
    let new = vec![0; 400_000];
    let (made, _) = transfer(&old, &new, BLOCK, 65_536);
    assert!(made == new);
    let zeros = vec![0; 100_000];
    let (made, sent) = transfer(&zeros, &new, BLOCK, 65_536);
    assert!(made == new && sent < u64::from(BLOCK) * 2, "{sent}");
}

#[test]
fn sizes_decide_blocks_and_whether_to_begin() {
    assert_eq!((block_bytes(0), block_bytes(4 * GIB)), (16 * 1024, 16 * 1024));
    assert_eq!((block_bytes(16 * GIB), block_bytes(64 * GIB)), (32 * 1024, 64 * 1024));
    assert_eq!(block_bytes(u64::MAX), 1024 * 1024);
    assert!(is_worthwhile(700_000, 100_000) && !is_worthwhile(900_000, 100_000));
    // What has come of a large file before a cut.
    assert!(is_worthwhile(100_000, 1 << 40));
    assert!(!is_worthwhile(60_000, 70_000) && !is_worthwhile(0, 100_000));
}

#[test]
fn a_signature_that_lies_is_not_used() {
    let mut signature = Signature::of(&noise(1000, 3), BLOCK);
    signature.size = u64::MAX;
    let mut literal = 0;
    let mut matcher = Matcher::new(&signature);
    matcher.add(&noise(1000, 3), |op| match op {
        Op::Literal(bytes) => literal += bytes.len(),
        Op::Copy { .. } => panic!("nothing may be copied"),
    });
    matcher.finish(|_| ());
    assert_eq!(literal, 1000);
    let content = noise(5000, 3);
    assert!(Signature::of(&content, 1 << 20).is_consistent());
    assert!(!Signature::of(&content, 1 << 21).is_consistent(), "nobody holds so much in memory");
}
