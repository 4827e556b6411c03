//! A process that puts things aside and back is killed: everything is in its place or kept, whole.

use std::{
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{KeepLimits, KeptReason},
    FOLDER, Kept, list_kept,
};
use crate::{
    path::RelativePath,
    resolve::{Links, Mounts, Root},
};

const TREE: &str = "IPICSHA_TEST_KEPT_TREE";
const STATE: &str = "IPICSHA_TEST_KEPT_STATE";
const KILLS: u64 = 24;
const ENTRIES: usize = 40;
const LIMITS: KeepLimits = KeepLimits { age: Duration::from_secs(100), bytes: 1 << 40 };

/// As a process of its own this is the one that is killed.
#[test]
fn a_kill_at_any_moment_loses_nothing() {
    if let (Some(tree), Some(state)) = (env::var_os(TREE), env::var_os(STATE)) {
        return work(Path::new(&tree), Path::new(&state));
    }
    let mut most = 0;
    for round in 0..KILLS {
        let tree = tempfile::tempdir().expect("a folder");
        let memory = (round % 2 == 1).then(|| tempfile::tempdir_in("/dev/shm").ok()).flatten();
        let state = memory.unwrap_or_else(|| tempfile::tempdir().expect("a folder"));
        for number in 0..ENTRIES {
            make(tree.path(), number);
        }
        kill(tree.path(), state.path(), Duration::from_micros(round * 700));
        let kept = Kept::open(state.path(), LIMITS).expect("the store opens");
        let listed = list_kept(state.path()).expect("a list");
        assert_eq!(kept.usage().entries, listed.len() as u64);
        assert!(listed.iter().all(|entry| !entry.path.starts_with("recovered")), "{listed:?}");
        most = most.max(listed.len());
        let contents = |id: u64| state.path().join(FOLDER).join(format!("{id}.content"));
        for number in 0..ENTRIES {
            let name = format!("d{number}");
            let places: Vec<PathBuf> =
                listed.iter().filter(|e| e.path == name).map(|e| contents(e.id)).collect();
            for place in &places {
                assert!(
                    place.is_file() || files().all(|name| place.join(name).is_file()),
                    "not whole"
                );
            }
            let own = tree.path().join(&name);
            for file in files() {
                let text = format!("{number} {file}").repeat(1000);
                let is_in =
                    |place: &PathBuf| fs::read_to_string(place.join(file)).is_ok_and(|t| t == text);
                assert!(is_in(&own) || places.iter().any(is_in), "{name}/{file} is lost");
            }
        }
    }
    assert!(most > 0, "every kill was too early");
}

fn files() -> impl Iterator<Item = &'static str> {
    ["a", "b/c", "b/d"].into_iter()
}

fn make(tree: &Path, number: usize) {
    let directory = tree.join(format!("d{number}"));
    fs::create_dir_all(directory.join("b")).expect("directories");
    for file in files() {
        fs::write(directory.join(file), format!("{number} {file}").repeat(1000)).expect("a file");
    }
}

fn kill(tree: &Path, state: &Path, after: Duration) {
    let mut child = Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "replicate::kept::kills::a_kill_at_any_moment_loses_nothing"])
        .arg("--nocapture")
        .envs([(TREE, tree), (STATE, state)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = child.stdout.take().expect("it is piped");
    let mut byte = [0];
    while byte != *b"!" {
        said.read_exact(&mut byte).expect("it says that it begins");
    }
    // The moment is the test; nothing is waited for.
    std::thread::sleep(after);
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

/// Puts everything aside and back, for ever.
fn work(tree: &Path, state: &Path) {
    let kept = Kept::open(state, LIMITS).expect("a store");
    let root = Root::open(tree, Links::Refuse, Mounts::Stay).expect("a root");
    rustix::io::write(std::io::stdout(), b"!").expect("somebody listens");
    let now = crate::meta::Time { seconds: 2_000_000_000, nanoseconds: 0 };
    loop {
        let mut ids = Vec::new();
        for number in 0..ENTRIES {
            let path = RelativePath::new(format!("d{number}").as_bytes()).expect("a path");
            let (dir, name) = (Arc::clone(root.top()), path.name().expect("a name"));
            let entry = kept.put(&dir, &name, &path, KeptReason::Deleted, 0).expect("it is kept");
            ids.push(entry.id);
        }
        for id in ids {
            let mut locked = kept.lock().expect("the lock");
            locked.restore(&root, id, now).expect("it comes back");
        }
    }
}
