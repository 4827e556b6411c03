//! A partner that says what no server of ours would: nothing of it is made, and the rest goes on.

use std::{fs, path::Path};

use ipicsha_core::file::{Contents, Version};

use super::{pair::eventually, scripted::Scripted};
use crate::{
    compression,
    replicate::{engine::now_us, look::now_ns},
};

fn directory() -> Version {
    Version { contents: Contents::Directory, mode: 0o755, ..Version::absent(now_ns()) }
}

fn link(target: &[u8]) -> Version {
    let target = target.to_vec();
    Version { contents: Contents::Symlink { target }, ..Version::absent(now_ns()) }
}

fn file(content: &[u8]) -> Version {
    let contents =
        Contents::File { size: content.len() as u64, hash: *blake3::hash(content).as_bytes() };
    Version { contents, mode: 0o644, ..Version::absent(now_ns()) }
}

fn names(at: &Path) -> Vec<String> {
    let names = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != ".ipicsha");
    names.sort();
    names
}

#[test]
fn a_path_that_leads_out_of_the_directory_is_not_taken() {
    let mut partner = Scripted::start();
    let absolute = partner.folder.path().join("absolute");
    let absolute = absolute.to_str().unwrap();
    let before = names(partner.folder.path());
    let outside = ["../up", "inside/../../up", "..", "", ".", "./here", "inside//twice", absolute];
    let mut paths = outside.map(|path| path.as_bytes().to_vec()).to_vec();
    paths.extend([
        b"nu\0l".to_vec(),
        vec![b'x'; 256],
        ["y/".repeat(2100), "y".into()].concat().into(),
        b"inside".to_vec(),
    ]);
    let counter = now_us();
    partner.tell(paths.into_iter().map(|path| (path, directory(), counter)).collect());
    partner.is_noted();
    eventually("what is sound is made", || partner.root.join("inside").is_dir());
    assert_eq!(names(partner.folder.path()), before);
    assert_eq!(names(&partner.root), ["inside"]);
    assert!(names(&partner.root.join("inside")).is_empty());
}

#[test]
fn an_entry_that_no_disk_could_have_is_named_and_not_taken() {
    let mut partner = Scripted::start();
    let attribute = |name: &[u8], length| {
        let attributes = vec![(name.to_vec(), vec![b'v'; length])];
        Version { attributes, ..file(b"content") }
    };
    let climbing = Version { link: Some(b"../up".to_vec()), ..file(b"content") };
    let (now, days) = (now_us(), 24 * 3600 * 1_000_000);
    let unsound = [
        ("empty", link(b""), now),
        ("nul", link(b"a\0b"), now),
        ("long", link(&[b'x'; 4096]), now),
        ("nameless", attribute(b"", 1), now),
        ("large", attribute(b"user.large", 256 * 1024), now),
        ("climbing", climbing, now),
        ("future", directory(), now + 2 * days),
    ];
    let told = unsound.clone().map(|(path, version, counter)| (path.into(), version, counter));
    eventually("all are named", || {
        // Each time the trouble stays for longer.
        partner.tell(told.to_vec());
        partner.is_noted();
        let is_named = |path| partner.trouble(path).is_some_and(|why| why.contains("not sound"));
        unsound.iter().all(|(path, ..)| is_named(path))
    });
    partner.tell(vec![(b"sound".to_vec(), link(b"anywhere"), now)]);
    eventually("what is sound is made", || partner.root.join("sound").is_symlink());
    assert_eq!(names(&partner.root), ["sound"]);
}

#[test]
fn a_content_that_is_not_compressed_though_it_is_said_to_be_is_named_and_asked_for_again() {
    let mut partner = Scripted::start();
    let content = b"words and words ".repeat(1000);
    partner.tell(vec![(b"file".to_vec(), file(&content), now_us())]);
    let is_named = || partner.trouble("file").is_some_and(|why| why.contains("cannot be unpacked"));
    partner.answer(&content, true);
    eventually("it is named", is_named);
    // More than any part has, from a few bytes.
    let bomb = compression::compress(&vec![0; 64 << 20], 1).unwrap();
    partner.answer(&bomb, true);
    partner.answer(&compression::compress(&content, 1).unwrap(), true);
    eventually("it arrives", || fs::read(partner.root.join("file")).is_ok_and(|it| it == content));
    eventually("nothing is wrong any more", || partner.trouble("file").is_none());
    assert_eq!(names(&partner.root), ["file"]);
}
