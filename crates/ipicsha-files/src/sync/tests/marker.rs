//! The marker of a watched directory, which is of one server alone.

use super::*;

const MARKER: &str = ".ipicsha/root";

fn mark(at: &Path, text: &str) {
    fs::create_dir_all(at.join(".ipicsha")).expect("a directory");
    fs::write(at.join(MARKER), text).expect("a file");
}

fn marker(at: &Path) -> String {
    fs::read_to_string(at.join(MARKER)).expect("the marker is there")
}

fn deleting(delete: Delete) -> Options {
    Options { delete: Some(delete), ..archive() }
}

#[test]
fn a_marker_is_neither_deleted_nor_copied_over_another() {
    for delete in [Delete::Before, Delete::During, Delete::Delay, Delete::After] {
        let folders = folders();
        mark(&folders.destination, "there");
        fs::write(folders.destination.join("extra"), "x").expect("a file");
        fs::write(folders.source.join("f"), "x").expect("a file");
        let (outcome, _) = folders.sync(&deleting(delete));
        assert_eq!((outcome.exit, folders.names()), (Exit::Success, names(&[".ipicsha", "f"])));
        mark(&folders.source, "here");
        let (outcome, heard) = folders.sync(&Options { force: true, ..deleting(delete) });
        // The marker has changed the time of the source itself.
        let told: Vec<String> =
            heard.items().into_iter().filter(|item| item != ".d..t...... .").collect();
        assert_eq!((outcome.exit, told), (Exit::Success, Vec::<String>::new()));
        assert_eq!(marker(&folders.destination), "there");
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_marker_is_left_where_it_is_wherever_a_watched_directory_lies() {
    let folders = folders();
    mark(&folders.source.join("a/watched"), "here");
    mark(&folders.destination.join("b/watched"), "there");
    fs::write(folders.destination.join("b/watched/f"), "x").expect("a file");
    let (outcome, _) = folders.sync(&deleting(Delete::During));
    assert_eq!(outcome.exit, Exit::Success);
    assert!(!folders.destination.join("a/watched/.ipicsha").exists());
    // What is in the watched directory goes, the marker does not.
    assert!(!folders.destination.join("b/watched/f").exists());
    assert_eq!(marker(&folders.destination.join("b/watched")), "there");
}

#[test]
fn no_entry_of_a_hostile_sender_takes_the_place_of_a_marker() {
    let inside = vec![
        begin(),
        dir(""),
        dir_end(),
        dir(".ipicsha"),
        entries(Kind::File, &["root"]),
        dir_end(),
        ToReceiver::ScanEnd { complete: true },
    ];
    let whole = |kind| {
        let scan = [begin(), dir(""), entries(kind, &[".ipicsha"]), dir_end()];
        scan.into_iter().chain([ToReceiver::ScanEnd { complete: true }]).collect()
    };
    for messages in [inside, whole(Kind::File), whole(Kind::Symlink)] {
        let folders = folders();
        mark(&folders.destination, "there");
        let options = Options { force: true, ..deleting(Delete::During) };
        let (answers, _, _) = play(&options, &folders.destination, messages);
        assert_eq!(wants(&answers), []);
        assert_eq!(marker(&folders.destination), "there");
    }
}

#[test]
fn a_marker_is_no_destination() {
    let folders = folders();
    mark(&folders.destination, "there");
    fs::write(folders.source.join("root"), "here").expect("a file");
    let source = folders.source.join("root");
    for to in [".ipicsha", ".ipicsha/", ".ipicsha/root"] {
        let to = folders.destination.join(to);
        let outcome = local(&archive(), &[bytes(&source)], &bytes(&to), &Heard::default());
        assert_eq!(outcome.exit, Exit::Selection, "{}", to.display());
        assert_eq!(marker(&folders.destination), "there");
    }
}

#[test]
fn a_directory_of_that_name_without_a_marker_is_an_ordinary_one() {
    let folders = folders();
    fs::create_dir_all(folders.source.join(".ipicsha/root")).expect("directories");
    fs::write(folders.source.join(".ipicsha/f"), "x").expect("a file");
    fs::create_dir_all(folders.destination.join("d/.ipicsha")).expect("directories");
    fs::write(folders.destination.join("d/.ipicsha/g"), "x").expect("a file");
    let (outcome, _) = folders.sync(&deleting(Delete::During));
    assert_eq!((outcome.exit, folders.names()), (Exit::Success, names(&[".ipicsha"])));
    assert!(folders.destination.join(".ipicsha/f").is_file());
}
