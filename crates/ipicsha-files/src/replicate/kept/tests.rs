use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::PathBuf,
    time::Duration,
};

use ipicsha_core::{file::DirectoryName, license::LicensedRole};
use tempfile::TempDir;

use super::{
    super::{DirectoryConfig, GuardLimits},
    *,
};
use crate::meta::Kind;

const NOW: i64 = 1_000_000;
const LIMITS: KeepLimits = KeepLimits { age: Duration::from_secs(100), bytes: 1 << 30 };

/// A directory and its store, which is now and then on another file system.
struct Case {
    tree: TempDir,
    state: TempDir,
    kept: Kept,
}

impl Case {
    fn new(state: TempDir, limits: KeepLimits) -> Self {
        let tree = tempfile::tempdir().expect("a folder");
        let kept = Kept::open(state.path(), limits).expect("a store");
        Self { tree, state, kept }
    }

    fn beside() -> Self {
        Self::new(tempfile::tempdir().expect("a folder"), LIMITS)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree.path().join(name)
    }

    fn config(&self) -> DirectoryConfig {
        DirectoryConfig {
            name: DirectoryName("d".into()),
            root: self.tree.path().into(),
            state: self.state.path().into(),
            rank: LicensedRole::Primary,
            rules: Vec::new(),
            ignore_file: String::new(),
            keep: LIMITS,
            guard: GuardLimits::default(),
        }
    }

    fn parent(&self, path: &RelativePath) -> (Arc<Dir>, Name) {
        let root = Root::open(self.tree.path(), Links::Refuse, Mounts::Stay).expect("a root");
        (root.parent(path).expect("a directory"), path.name().expect("a name"))
    }

    fn put_at(&self, path: &[u8], now: i64) -> Result<KeptEntry, Errno> {
        let path = RelativePath::new(path).expect("a path");
        let (dir, name) = self.parent(&path);
        self.kept.put(&dir, &name, &path, KeptReason::Deleted, now)
    }

    fn put(&self, path: &str) -> KeptEntry {
        self.put_at(path.as_bytes(), NOW).expect("it is kept")
    }

    fn list(&self) -> Vec<KeptEntry> {
        list_kept(self.state.path()).expect("a list")
    }

    fn ids(&self) -> Vec<u64> {
        self.list().iter().map(|entry| entry.id).collect()
    }

    fn reopen(&mut self) {
        self.kept = Kept::open(self.state.path(), LIMITS).expect("a store");
    }

    /// Names in the store that are no part of an entry.
    fn rest(&self) -> Vec<String> {
        let known: Vec<String> = self
            .ids()
            .iter()
            .flat_map(|id| [format!("{id}.content"), format!("{id}.record")])
            .collect();
        let names = fs::read_dir(self.state.path().join(FOLDER)).expect("the store");
        let names =
            names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into());
        names.filter(|name: &String| !known.contains(name) && name != "totals").collect()
    }
}

/// A store on the same file system as the tree, and one in memory, which is another one wherever
/// there is one.
fn everywhere() -> Vec<Case> {
    let mut cases = vec![Case::beside()];
    if let Ok(state) = tempfile::tempdir_in("/dev/shm") {
        cases.push(Case::new(state, LIMITS));
    }
    cases
}

/// Path, kind and mode, seconds and nanoseconds of the time, owner, and content or target.
type Fact = (PathBuf, u32, i64, i64, u32, Vec<u8>);

/// Of everything beneath a path.
fn facts(path: &Path) -> Vec<Fact> {
    let meta = fs::symlink_metadata(path).expect("facts");
    let mut content = Vec::new();
    let mut below = Vec::new();
    if meta.is_symlink() {
        content = fs::read_link(path).expect("a target").as_os_str().as_bytes().to_vec();
    } else if meta.is_file() {
        content = fs::read(path).expect("a content");
    } else if meta.is_dir() {
        below = fs::read_dir(path).expect("a list").map(|e| e.expect("an entry").path()).collect();
        below.sort();
    }
    let own = (PathBuf::new(), meta.mode(), meta.mtime(), meta.mtime_nsec(), meta.uid(), content);
    let mut all = vec![own];
    for path in below {
        let name = PathBuf::from(path.file_name().expect("a name"));
        all.extend(facts(&path).into_iter().map(|mut fact| {
            fact.0 = name.join(&fact.0);
            fact
        }));
    }
    all
}

fn set_time(path: &Path, seconds: i64) {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 },
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).expect("a time is set");
}

/// A tree with everything that is easily lost on the way.
fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("a/b")).expect("directories");
    fs::write(top.join("a/file"), b"content").expect("a file");
    fs::set_permissions(top.join("a/file"), fs::Permissions::from_mode(0o4751)).expect("a mode");
    fs::write(top.join("a/b").join("x".repeat(255)), b"long").expect("a long name");
    fs::write(top.join("a/b").join(std::ffi::OsStr::from_bytes(b"\xff\n")), b"odd").expect("odd");
    symlink("/etc/passwd", top.join("a/out")).expect("a link");
    symlink("..", top.join("a/b/up")).expect("a link");
    symlink(std::ffi::OsStr::from_bytes(b"\xfe/nowhere"), top.join("a/dead")).expect("a link");
    fs::write(top.join("a/secret"), b"s").expect("a file");
    fs::set_permissions(top.join("a/secret"), fs::Permissions::from_mode(0o0)).expect("a mode");
    let pipe = top.join("a/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, 0o640.into(), 0)
        .expect("a pipe");
    for name in ["a/file", "a/out", "a/b/up", "a/b", "a/secret", "a"] {
        set_time(&top.join(name), 1_234_567);
    }
}

#[test]
fn an_entry_goes_from_the_tree_to_the_store_with_all_its_facts() {
    for case in everywhere() {
        make_tree(&case.path("top"));
        fs::write(case.path("other"), b"stays").expect("a file");
        let before = facts(&case.path("top"));
        assert!(before.len() == 11, "{before:?}");
        let entry = case.put("top");
        assert_eq!((entry.kind.as_str(), entry.path.as_str()), ("directory", "top"));
        assert_eq!((entry.bytes, entry.kept_unix, entry.reason), (15, NOW, KeptReason::Deleted));
        assert!(!case.path("top").exists() && case.path("other").exists());
        let content = case.state.path().join(FOLDER).join(format!("{}.content", entry.id));
        assert_eq!(facts(&content), before);
        assert_eq!(case.list(), [entry]);
        assert_eq!(case.kept.usage(), KeptUsage { entries: 1, bytes: 15 });
        assert_eq!(case.rest(), [""; 0]);
        let mode = fs::metadata(case.state.path().join(FOLDER)).expect("the store").mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}

#[test]
fn what_was_kept_comes_back_with_its_facts_and_new_times() {
    for case in everywhere() {
        make_tree(&case.path("top"));
        let before = facts(&case.path("top"));
        let entry = case.put("top");
        case.kept.settle().expect("it is on the disk");
        assert_eq!(restore_kept(&case.config(), entry.id), Ok("top".to_owned()));
        let after = facts(&case.path("top"));
        let timeless = |facts: &[Fact]| {
            facts
                .iter()
                .map(|(p, m, _, _, u, c)| (p.clone(), *m, *u, c.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(timeless(&after), timeless(&before));
        assert!(after.iter().all(|fact| fact.2 > 1_600_000_000), "{after:?}");
        assert_eq!(case.kept.usage(), KeptUsage::default());
        assert_eq!((case.list(), case.rest()), (vec![], vec![]));
    }
}

#[test]
fn links_and_odd_names_are_kept_as_they_are() {
    for case in everywhere() {
        let canary = tempfile::tempdir().expect("a folder");
        fs::write(canary.path().join("f"), b"outside").expect("a file");
        symlink(canary.path(), case.path("link")).expect("a link");
        let entry = case.put("link");
        assert_eq!((entry.kind.as_str(), entry.bytes), ("symlink", 0));
        assert!(canary.path().join("f").exists());
        let names = [vec![b'x'; 255], b"\xff\xfe".to_vec(), b"a\nb".to_vec(), b".record".to_vec()];
        for (at, name) in names.iter().enumerate() {
            let path = case.tree.path().join(std::ffi::OsStr::from_bytes(name));
            fs::write(&path, at.to_string()).expect("a file");
            let entry = case.put_at(name, NOW).expect("it is kept");
            assert_eq!(entry.path, crate::path::escape(name));
            restore_kept(&case.config(), entry.id).expect("it comes back");
            assert_eq!(fs::read(&path).expect("a file"), at.to_string().as_bytes());
        }
        restore_kept(&case.config(), entry.id).expect("it comes back");
        assert_eq!(fs::read_link(case.path("link")).expect("a link"), canary.path());
    }
}

#[test]
fn holes_attributes_and_large_files_survive() {
    for case in everywhere() {
        let path = case.path("large");
        let file = File::create(&path).expect("a file");
        file.write_all_at(b"begin", 0).expect("it is written");
        file.write_all_at(b"end", 3 << 20).expect("it is written");
        let attribute = rustix::fs::XattrFlags::empty();
        let has_attributes = rustix::fs::fsetxattr(&file, "user.x", b"value", attribute).is_ok();
        let entry = case.put("large");
        assert_eq!(entry.bytes, (3 << 20) + 3);
        let content = case.state.path().join(FOLDER).join(format!("{}.content", entry.id));
        assert!(fs::metadata(&content).expect("facts").blocks() < 1000, "holes are filled");
        restore_kept(&case.config(), entry.id).expect("it comes back");
        let bytes = fs::read(&path).expect("a file");
        assert!(
            bytes.len() == (3 << 20) + 3 && bytes.starts_with(b"begin") && bytes.ends_with(b"end")
        );
        if has_attributes {
            let mut value = [0; 5];
            rustix::fs::getxattr(&path, "user.x", &mut value).expect("the attribute");
            assert_eq!(&value, b"value");
        }
    }
}

#[test]
fn what_is_there_now_is_kept_when_something_comes_back() {
    for case in everywhere() {
        fs::write(case.path("f"), b"old").expect("a file");
        let old = case.put("f");
        fs::create_dir(case.path("f")).expect("a directory");
        fs::write(case.path("f/in"), b"new").expect("a file");
        restore_kept(&case.config(), old.id).expect("it comes back");
        assert_eq!(fs::read(case.path("f")).expect("a file"), b"old");
        let [aside] = &case.list()[..] else { panic!("{:?}", case.list()) };
        assert_eq!((aside.path.as_str(), aside.kind.as_str(), aside.bytes), ("f", "directory", 3));
        assert!(aside.id > old.id && aside.kept_unix > 1_600_000_000);
        restore_kept(&case.config(), aside.id).expect("it comes back");
        assert_eq!(fs::read(case.path("f/in")).expect("a file"), b"new");
    }
}

#[test]
fn missing_directories_above_are_made_again() {
    let case = Case::beside();
    fs::create_dir_all(case.path("a/b")).expect("directories");
    fs::set_permissions(case.tree.path(), fs::Permissions::from_mode(0o751)).expect("a mode");
    fs::write(case.path("a/b/f"), b"deep").expect("a file");
    let entry = case.put("a/b/f");
    let (b, a) = (case.put("a/b"), case.put("a"));
    assert_eq!(restore_kept(&case.config(), entry.id), Ok("a/b/f".to_owned()));
    assert_eq!(fs::read(case.path("a/b/f")).expect("a file"), b"deep");
    assert_eq!(fs::metadata(case.path("a/b")).expect("facts").mode() & 0o7777, 0o751);
    // The empty directories must not take the place of the ones that are in use again.
    for id in [a.id, b.id] {
        restore_kept(&case.config(), id).expect("they come back");
    }
    assert_eq!(fs::read(case.path("a/b/f")).expect("a file"), b"deep");
    assert_eq!(fs::metadata(case.path("a/b")).expect("facts").mode() & 0o7777, 0o755);
    assert_eq!(case.list(), []);
}

#[test]
fn nothing_is_put_back_through_a_link_or_over_a_file_above() {
    let case = Case::beside();
    let outside = tempfile::tempdir().expect("a folder");
    fs::create_dir(case.path("a")).expect("a directory");
    fs::write(case.path("a/f"), b"1").expect("a file");
    let entry = case.put("a/f");
    fs::remove_dir(case.path("a")).expect("it is empty");
    symlink(outside.path(), case.path("a")).expect("a link");
    let error = restore_kept(&case.config(), entry.id).expect_err("a link is no directory");
    assert_eq!(error.next_step, "move away what is in its place, then try again");
    fs::remove_file(case.path("a")).expect("a link");
    fs::write(case.path("a"), b"").expect("a file");
    let error = restore_kept(&case.config(), entry.id).expect_err("a file is no directory");
    assert_eq!(error.message, "cannot make the directory a: Not a directory (20)");
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 0);
    assert_eq!(case.ids(), [entry.id], "it is still kept");
}

#[test]
fn what_cannot_come_back_says_the_next_step() {
    let case = Case::beside();
    let error = restore_kept(&case.config(), 7).expect_err("there is none");
    assert_eq!(error.message, "nothing is kept under the number 7");
    assert_eq!(error.next_step, "see the numbers with `ipicsha trash list`");
    let config = DirectoryConfig { root: case.path("gone"), ..case.config() };
    let error = restore_kept(&config, 7).expect_err("there is no directory");
    assert_eq!(error.next_step, "mount or create it, then try again");
    let none = tempfile::tempdir().expect("a folder");
    assert_eq!(list_kept(none.path()), Ok(vec![]));
    assert!(!none.path().join(FOLDER).exists(), "listing makes nothing");
}

#[test]
fn numbers_grow_for_ever() {
    let mut case = Case::beside();
    for round in 1..=3 {
        fs::write(case.path("f"), b"").expect("a file");
        assert_eq!(case.put("f").id, round);
        assert_eq!(case.kept.expire(NOW + 101), Ok(1));
        case.reopen();
    }
    fs::write(case.path("f"), b"").expect("a file");
    assert_eq!(case.put("f").id, 4);
    // Without the totals, what is there says it.
    fs::write(case.state.path().join(FOLDER).join("totals"), b"").expect("damaged");
    case.reopen();
    assert_eq!(case.kept.usage(), KeptUsage { entries: 1, bytes: 0 });
    fs::write(case.path("f"), b"").expect("a file");
    assert_eq!(case.put("f").id, 5);
}

#[test]
fn what_is_too_old_goes() {
    let case = Case::beside();
    for (name, at) in [("a", NOW), ("b", NOW + 50), ("c", NOW + 60)] {
        make_tree(&case.path(name));
        fs::set_permissions(case.path(name).join("a/b"), fs::Permissions::from_mode(0o500))
            .expect("a mode");
        case.put_at(name.as_bytes(), at).expect("it is kept");
    }
    assert_eq!(case.kept.expire(NOW + 100), Ok(0), "not older than the limit");
    assert_eq!((case.kept.expire(NOW + 101), case.ids()), (Ok(1), vec![3, 2]));
    assert_eq!(case.kept.expire(NOW + 101), Ok(0));
    assert_eq!((case.kept.expire(NOW + 161), case.ids()), (Ok(2), vec![]));
    assert_eq!((case.kept.usage(), case.rest()), (KeptUsage::default(), vec![]));
}

#[test]
fn much_that_is_too_old_goes_piece_by_piece() {
    let case = Case::beside();
    for _ in 0..300 {
        fs::write(case.path("f"), b"").expect("a file");
        case.put("f");
    }
    assert_eq!((case.kept.expire(NOW + 101), case.kept.usage().entries), (Ok(256), 44));
    assert_eq!((case.kept.expire(NOW + 101), case.kept.usage().entries), (Ok(44), 0));
}

#[test]
fn beyond_the_limit_the_oldest_go_first_and_the_newest_stays() {
    let limits = KeepLimits { age: Duration::from_secs(1000), bytes: 100_000 };
    let case = Case::new(tempfile::tempdir().expect("a folder"), limits);
    for (name, bytes) in [("a", 30_000), ("b", 30_000), ("c", 20_000)] {
        fs::write(case.path(name), vec![7; bytes]).expect("a file");
        case.put(name);
    }
    assert_eq!((case.kept.expire(NOW), case.ids()), (Ok(0), vec![3, 2, 1]));
    fs::write(case.path("d"), vec![7; 30_000]).expect("a file");
    case.put("d");
    assert_eq!((case.kept.expire(NOW), case.ids()), (Ok(1), vec![4, 3, 2]));
    fs::write(case.path("huge"), vec![7; 500_000]).expect("a file");
    case.put("huge");
    assert_eq!((case.kept.expire(NOW), case.ids()), (Ok(3), vec![5]));
    assert_eq!((case.kept.expire(NOW), case.ids()), (Ok(0), vec![5]), "large, but the newest");
    fs::write(case.path("small"), b"").expect("a file");
    case.put("small");
    assert_eq!((case.kept.expire(NOW), case.ids()), (Ok(1), vec![6]));
    // Empty files take their room, too.
    for number in 0..40 {
        fs::write(case.path("empty"), b"").expect("a file");
        case.put_at(b"empty", NOW + number).expect("it is kept");
    }
    case.kept.expire(NOW + 40).expect("the oldest go");
    assert_eq!(case.ids().len(), 24);
}

#[test]
fn a_file_stays_in_its_place_until_it_is_kept() {
    for case in everywhere() {
        fs::write(case.path("f"), b"one").expect("a file");
        symlink("f", case.path("link")).expect("a link");
        let path = RelativePath::new(b"f").expect("a path");
        let (dir, name) = case.parent(&path);
        let entry = case.kept.put_copy(&dir, &name, &path, KeptReason::Replaced, NOW);
        assert_eq!(entry.as_ref().map(|entry| entry.bytes), Ok(3));
        assert_eq!(fs::read(case.path("f")).expect("a file"), b"one");
        let hold = place::hold_new(&dir, |new| dir.rename_new(&name, &dir, new)).expect("a hold");
        let held = case.kept.put_held(hold, &path, KeptReason::Conflict, NOW).expect("it is kept");
        assert_eq!((held.path.as_str(), held.reason), ("f", KeptReason::Conflict));
        let left: Vec<_> = fs::read_dir(case.tree.path()).expect("a folder").collect();
        assert_eq!(left.len(), 1, "only the link: {left:?}");
        restore_kept(&case.config(), held.id).expect("it comes back");
        assert_eq!(fs::read(case.path("f")).expect("a file"), b"one");
        let (dir, name) = case.parent(&RelativePath::new(b"link").expect("a path"));
        let link = case.kept.put_copy(&dir, &name, &path, KeptReason::Replaced, NOW).expect("kept");
        assert_eq!(link.kind, "symlink");
    }
}

#[test]
fn what_could_not_be_kept_stays_where_it_is() {
    let case = Case::beside();
    let path = RelativePath::new(b"f").expect("a path");
    let (dir, name) = case.parent(&path);
    assert_eq!(case.put_at(b"f", NOW), Err(Errno::NOENT));
    fs::write(case.path("f"), b"one").expect("a file");
    // The place of the next content is taken by somebody.
    fs::create_dir(case.state.path().join(FOLDER).join("1.content")).expect("a directory");
    fs::write(case.state.path().join(FOLDER).join("totals"), [0; 24]).expect("damaged");
    let hold = place::hold_new(&dir, |new| dir.rename_new(&name, &dir, new)).expect("a hold");
    let back = case.kept.put_held(hold, &path, KeptReason::Conflict, NOW).expect_err("it is taken");
    assert_eq!(back.errno, Errno::EXIST);
    dir.rename(back.hold.name(), &dir, &name).expect("it gets its name back");
    assert_eq!(fs::read(case.path("f")).expect("a file"), b"one");
    assert!(!case.state.path().join(FOLDER).join("1.record").exists());
}

#[test]
fn what_a_crash_left_is_tidied_up() {
    let mut case = Case::beside();
    for name in ["a", "b", "c"] {
        make_tree(&case.path(name));
        case.put(name);
    }
    let store = case.state.path().join(FOLDER);
    // Moved out, not forgotten yet; the record lost, or damaged; things unfinished.
    fs::remove_dir_all(store.join("1.content")).expect("a content");
    fs::remove_file(store.join("2.record")).expect("a record");
    fs::write(store.join("3.record"), b"").expect("a record");
    fs::write(store.join("9.record"), b"\x01").expect("a record");
    make_tree(&store.join(".ipicsha.0123456789abcdef0123.tmp"));
    fs::write(store.join(".ipicsha.1123456789abcdef0123.tmp"), b"").expect("a file");
    fs::write(store.join("note of an administrator"), b"").expect("a file");
    case.reopen();
    assert_eq!(case.rest(), ["note of an administrator"]);
    let paths: Vec<String> = case.list().into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths, ["recovered-3", "recovered-2"]);
    assert_eq!(case.kept.usage(), KeptUsage { entries: 2, bytes: 30 });
    assert_eq!(restore_kept(&case.config(), 2), Ok("recovered-2".to_owned()));
    assert_eq!(fs::read(case.path("recovered-2/a/file")).expect("a file"), b"content");
    fs::write(case.path("f"), b"").expect("a file");
    assert_eq!(case.put("f").id, 10, "numbers of what is gone are not used again");
}

#[test]
fn a_store_for_two_counts_right_and_loses_nothing() {
    for case in everywhere() {
        let state = case.state.path();
        let work = |who: usize| {
            let kept = Kept::open(state, LIMITS).expect("a store");
            for round in 0..40 {
                let text = format!("{who} {round}");
                let path = RelativePath::new(format!("f{who}").as_bytes()).expect("a path");
                fs::write(case.path(&format!("f{who}")), &text).expect("a file");
                let (dir, name) = case.parent(&path);
                let entry = kept.put(&dir, &name, &path, KeptReason::Deleted, NOW).expect("kept");
                if round % 4 == 0 {
                    restore_kept(&case.config(), entry.id).expect("it comes back");
                    let back = fs::read(case.path(&format!("f{who}"))).expect("a file");
                    assert_eq!(back, text.as_bytes());
                }
                kept.expire(NOW).expect("nothing to do");
                kept.settle().expect("it is on the disk");
            }
        };
        std::thread::scope(|scope| {
            for who in 0..3 {
                scope.spawn(move || work(who));
            }
        });
        assert_eq!((case.list().len(), case.rest()), (90, vec![]));
        let bytes = case.list().iter().map(|entry| entry.bytes).sum();
        assert_eq!(case.kept.usage(), KeptUsage { entries: 90, bytes });
        let mut contents: Vec<Vec<u8>> = Vec::new();
        for id in case.ids() {
            let content = state.join(FOLDER).join(format!("{id}.content"));
            contents.push(fs::read(content).expect("a content"));
        }
        contents.sort();
        contents.dedup();
        assert_eq!(contents.len(), 90, "every content once");
    }
}

#[test]
fn of_a_tree_that_changes_while_it_is_copied_nothing_is_lost() {
    let case = Case::beside();
    make_tree(&case.path("top"));
    let path = RelativePath::new(b"top").expect("a path");
    let (dir, name) = case.parent(&path);
    let store = Arc::clone(&case.kept.store);
    let (temporary, copied) = carry::copy_to(&dir, &name, &store).expect("a copy");
    fs::write(case.path("top/a/file"), b"changed").expect("a file");
    fs::write(case.path("top/a/b/new"), b"new").expect("a file");
    // What changed stays, and so do the directories above it; the copy has the rest.
    let kept = carry::remove_copied(&dir, &name, &copied);
    assert!(matches!(kept, Err(Errno::BUSY | Errno::NOTEMPTY)), "{kept:?}");
    let left: Vec<PathBuf> = facts(&case.path("top")).into_iter().map(|fact| fact.0).collect();
    for name in ["a", "a/b", "a/b/new", "a/file"] {
        assert!(left.contains(&PathBuf::from(name)), "{left:?}");
    }
    assert_eq!(store.entry(&temporary).map(|meta| meta.kind), Ok(Kind::Directory));
}
