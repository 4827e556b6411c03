//! How contents travel.

use std::{
    fs,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use super::pair::{Pair, eventually};

/// Bytes that neither repeat nor compress.
fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_cut_transfer_goes_on_where_it_stopped() {
    let pair = Pair::running();
    pair.cut_after(10 << 20);
    pair.a.write("large", noise(32 << 20, 1));
    eventually("the cut", || pair.is_cut());
    pair.cut();
    let partial = || {
        fs::read_dir(&pair.b.root).unwrap().any(|entry| {
            let entry = entry.unwrap();
            crate::place::is_temporary(entry.file_name().as_encoded_bytes())
                && entry.metadata().unwrap().len() > 1 << 20
        })
    };
    eventually("a partial file", partial);
    let passed = pair.passed();
    pair.mend();
    pair.settle_equal();
    let more = pair.passed() - passed;
    assert!(more < 28 << 20, "{more} bytes were sent again");
}

#[test]
fn of_a_changed_file_the_difference_travels() {
    let pair = Pair::running();
    let mut content = noise(16 << 20, 2);
    pair.a.write("file", &content);
    pair.settle_equal();
    let passed = pair.passed();
    content[8 << 20..][..100].fill(7);
    pair.a.write("file", &content);
    pair.settle_equal();
    assert!(pair.passed() - passed < 1 << 20);
    assert!(pair.a.log.lock().unwrap().copied > 15 << 20);
}

#[test]
fn a_copy_needs_no_transfer() {
    let pair = Pair::running();
    pair.a.write("file", noise(4 << 20, 3));
    pair.settle_equal();
    let passed = pair.passed();
    fs::copy(pair.a.path("file"), pair.a.path("copy")).unwrap();
    pair.settle_equal();
    assert_eq!(pair.passed(), passed);
}

#[test]
fn a_file_that_changes_while_it_is_read_arrives_as_one_state() {
    let pair = Pair::running();
    let block = |number: u8| vec![number; 1 << 20];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                // Every state is eight equal blocks, written in place.
                let mut file = fs::File::create(pair.a.path("busy")).unwrap();
                for _ in 0..8 {
                    file.write_all(&block(number)).unwrap();
                }
                number = (number + 1) % 200;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(4);
        while std::time::Instant::now() < end {
            if let Ok(content) = fs::read(pair.b.path("busy")) {
                assert!(content.iter().all(|byte| Some(byte) == content.first()), "a mixture");
                seen.insert(content.first().copied());
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    pair.settle_equal();
    assert_eq!(fs::read(pair.b.path("busy")).unwrap().len(), 8 << 20);
}

#[test]
fn many_small_files_arrive() {
    let pair = Pair::running();
    for number in 0..3000_u32 {
        pair.a.write(&format!("d{}/f{number}", number % 30), noise(500, 0));
        pair.b.write(&format!("e{}/f{number}", number % 30), number.to_string());
    }
    pair.settle_equal();
}

#[test]
fn over_a_limited_link_what_gets_shorter_travels_compressed() {
    let mut pair = Pair::new();
    pair.a.bandwidth_limit = Some(1_000_000);
    pair.start();
    let words = |number: u32| format!("{number} words and words ").repeat(100_000);
    pair.a.write("large", words(1));
    pair.a.write("small", &words(2)[..100_000]);
    pair.settle_equal();
    assert!(pair.passed() < 100_000, "{} bytes", pair.passed());
    // Of a changed file, too, what the other side does not have.
    pair.a.write("large", words(1) + &words(3)[..1_000_000]);
    pair.settle_equal();
    assert!(pair.passed() < 200_000, "{} bytes", pair.passed());
    let passed = pair.passed();
    pair.a.write("noise", noise(4 << 20, 4));
    pair.settle_equal();
    assert_eq!(pair.passed() - passed, 4 << 20);
}

#[test]
fn a_file_that_vanishes_while_it_is_sent_leaves_nothing_behind() {
    let pair = Pair::running();
    pair.hold_after(4 << 20);
    pair.a.write("large", noise(16 << 20, 5));
    eventually("a part of it has passed", || pair.is_held());
    fs::remove_file(pair.a.path("large")).unwrap();
    pair.a.until("the deletion is noticed", |status| status.entries == 0);
    let passed = pair.passed();
    pair.release();
    pair.a.write("after", "1");
    pair.settle_equal();
    assert!(pair.passed() - passed < 1 << 20, "the rest of it was sent as well");
    assert_eq!(pair.b.read("after"), "1");
    let left = |entry: std::io::Result<fs::DirEntry>| {
        crate::place::is_temporary(entry.unwrap().file_name().as_encoded_bytes())
    };
    assert!(!fs::read_dir(&pair.b.root).unwrap().any(left), "a part of it stayed");
    pair.b.until("nothing is tried again", |status| status.troubles_total == 0);
}
