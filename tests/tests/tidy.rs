//! Rules of the house that no compiler checks, over the files of the repository.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Crates of ours that each crate may name; the picture in ARCHITECTURE.md draws the same arrows.
const ARROWS: &[(&str, &[&str])] = &[
    ("ipicsha-core", &[]),
    ("ipicsha-link", &["ipicsha-core"]),
    ("ipicsha-records", &["ipicsha-core"]),
    ("ipicsha-files", &["ipicsha-core"]),
    ("ipicsha", &["ipicsha-core", "ipicsha-files", "ipicsha-link", "ipicsha-records"]),
    ("ipicsha-e2e", &[]),
    ("ipicsha-bench", &["ipicsha-core", "ipicsha-e2e", "ipicsha-records"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files that git knows or would take in.
fn repository_files() -> Vec<String> {
    let mut list = Command::new("git");
    // The folder may belong to another user, as in a container.
    list.args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let output = list.output().expect("git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names in UTF-8");
    let files: BTreeSet<String> = text.lines().map(ToOwned::to_owned).collect();
    let files: Vec<String> = files.into_iter().filter(|name| root().join(name).is_file()).collect();
    assert!(files.len() > 20, "the list of files is too short: {files:?}");
    files
}

fn sources() -> Vec<(String, String)> {
    let rust = |name: &String| Path::new(name).extension().is_some_and(|e| e == "rs");
    repository_files().into_iter().filter(rust).map(|name| (name.clone(), read(&name))).collect()
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Names in the tables of a manifest that hold dependencies of the given kind.
fn dependencies(manifest: &str, table: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == format!("[{table}]");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn the_core_depends_on_serde_and_thiserror_only() {
    let manifest = read("crates/ipicsha-core/Cargo.toml");
    let names = dependencies(&manifest, "dependencies");
    assert_eq!(names, ["serde", "thiserror"].map(ToOwned::to_owned).into());
    assert!(!manifest.contains("[target."), "no dependency by platform either");
}

#[test]
fn crate_arrows_point_down_only_as_architecture_md_draws_them() {
    let mut found = Vec::new();
    let mut seen = 0;
    for name in repository_files().iter().filter(|name| name.ends_with("Cargo.toml")) {
        let manifest = read(name);
        let package = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = \""))
            .map(|rest| rest.trim_end_matches('"').to_owned());
        let Some(package) = package else { continue };
        let allowed = ARROWS.iter().find(|(from, _)| *from == package);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{package} is not in the picture"));
        seen += 1;
        for table in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for to in dependencies(&manifest, table) {
                if to.starts_with("ipicsha") && !allowed.contains(&to.as_str()) {
                    found.push(format!("{package} -> {to}"));
                }
            }
        }
    }
    assert!(seen >= 4, "only {seen} crates were found");
    none("arrows that are not in ARCHITECTURE.md", &found);
}

#[test]
fn no_source_file_is_over_600_lines() {
    let long = |(name, text): &(String, String)| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{name}: {lines}"))
    };
    none("files that are too long", &sources().iter().filter_map(long).collect::<Vec<_>>());
}

/// Name and length of every function, by counting braces outside strings and comments.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let prefix = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe"];
        if !words[..at].iter().all(|word| prefix.contains(word)) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let closes = |other: &&str| **other == format!("{}}}", " ".repeat(indent));
        let one_line = line.trim_end().ends_with(['}', ';']);
        let body = lines[start..].iter().position(closes).unwrap_or_default();
        let name = words.get(at + 1).map_or("", |name| name.split(['(', '<']).next().unwrap_or(""));
        found.push((name.to_owned(), if one_line { 1 } else { body + 1 }));
    }
    found
}

#[test]
fn no_function_is_over_70_lines() {
    let mut found = Vec::new();
    let mut count = 0;
    for (name, text) in sources() {
        for (function, lines) in functions(&text) {
            count += 1;
            if lines > FUNCTION_LINES_MAX {
                found.push(format!("{name}: {function} has {lines} lines"));
            }
        }
    }
    assert!(count > 300, "only {count} functions were found: the counting is wrong");
    none("functions that are too long", &found);
}

#[test]
fn the_function_counter_counts() {
    let text = "fn a() {\n    1\n}\nimpl X {\n    pub(crate) async fn b(\n        x: u8,\n    ) {\n        x\n    }\n    fn c() {}\n}\n";
    let expected = [("a".into(), 3), ("b".into(), 5), ("c".into(), 1)];
    assert_eq!(functions(text), expected);
}

/// Words that mean the other server or its role under a name we do not use, and unfinished work.
fn banned() -> [&'static str; 6] {
    ["peer", "slave", "master", "todo!(", "unimplemented!(", "#[ignore"]
}

/// Other people's terms: states of the reference, ends of sockets, kinds of network interfaces, and
/// the reference's rule of repair (on both sides the primary is ..., spec D4).
fn is_a_term(file: &str, line: &str, word: &str) -> bool {
    let any = |terms: &[&str]| terms.iter().any(|term| line.contains(term));
    let comment = line.trim_start().starts_with("//");
    match word {
        "master" => line.contains("primary"),
        "peer" if any(&["Down", "Reboot", "_addr", "_certificates", "veth"]) => true,
        "peer" => file.starts_with("crates/ipicsha-link/") && !comment, // the other end of a socket
        _ => false,
    }
}

#[test]
fn banned_words_are_not_used() {
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name != "tests/tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let bad = |word: &&str| has_word(&lower, word) && !is_a_term(name, line, word);
            if banned().iter().any(bad) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("words that the glossary does not have", &found);
}

/// `word` begins a word (letters before it would make it another one); macros match as they are.
fn has_word(line: &str, word: &str) -> bool {
    let before = |at: usize| line[..at].chars().next_back().is_some_and(char::is_alphabetic);
    line.match_indices(word).any(|(at, _)| !before(at))
}

#[test]
fn the_word_finder_finds() {
    assert!(has_word("a word here", "word") && has_word("old_word", "word"));
    assert!(!has_word("swords", "word") && !has_word("password", "word"));
}

#[test]
fn the_documents_are_there() {
    let changelog = read("CHANGELOG.md");
    assert!(
        changelog.lines().any(|line| line.starts_with("## ") && line.contains("Unreleased")),
        "no Unreleased"
    );
    for name in ["README.md", "ARCHITECTURE.md"] {
        assert!(read(name).lines().count() > 20, "{name} says too little");
    }
    let architecture = read("ARCHITECTURE.md");
    for name in repository_files().iter().filter(|name| name.starts_with("crates/")) {
        let package = name.split('/').nth(1).expect("a crate folder");
        assert!(architecture.contains(package), "{package} is not in ARCHITECTURE.md");
    }
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let absolute = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    let mut found = Vec::new();
    for name in repository_files() {
        let Ok(text) = fs::read_to_string(PathBuf::from(root()).join(&name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if absolute.iter().any(|folder| line.contains(folder.as_str())) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("paths of one machine", &found);
}

#[test]
fn every_unit_of_the_issue_has_its_script() {
    for name in ["scripts/test.sh", "scripts/demo.sh", ".ci/run"] {
        use std::os::unix::fs::PermissionsExt;
        let path = root().join(name);
        let mode = fs::metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(mode.permissions().mode() & 0o111 != 0, "{name} cannot be run");
        assert!(read(name).starts_with("#!/usr/bin/env bash\n"), "{name} is no bash script");
    }
    let ci = read(".ci/run");
    assert!(ci.contains("scripts/test.sh"), "CI runs another script: {ci}");
}

/// Ids of the reference behaviour whose parts are built, and those that are not yet.
const BUILT: [(char, u32); 4] = [('a', 13), ('b', 13), ('c', 6), ('d', 7)];
const BUILT_OF_F: [&str; 3] = ["f2", "f3", "f4"];
const LATER: [&str; 9] = ["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "f1"];

fn built() -> BTreeSet<String> {
    let numbered =
        BUILT.iter().flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")));
    numbered.chain(BUILT_OF_F.map(ToOwned::to_owned)).collect()
}

/// Parts of the names of all tests.
fn cited() -> BTreeSet<String> {
    let mut cited = BTreeSet::new();
    for (_, text) in sources() {
        let mut test = false;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("fn ").or(line.strip_prefix("async fn ")) {
                if test {
                    let name = name.split('(').next().unwrap_or_default();
                    cited.extend(name.split('_').map(ToOwned::to_owned));
                }
                test = false;
            }
            test |= line == "#[test]" || line == "#[tokio::test]";
        }
    }
    cited
}

#[test]
fn every_id_of_the_reference_behaviour_is_cited_by_a_test() {
    let cited = cited();
    let missing: Vec<String> = built().into_iter().filter(|id| !cited.contains(id)).collect();
    none("ids that no test has in its name", &missing);
}

#[test]
fn no_id_of_the_reference_behaviour_is_forgotten() {
    // The document is not part of the repository; where it is, nothing in it may be overlooked.
    let Ok(text) = fs::read_to_string(root().join("../shared/spec/README.md")) else { return };
    let ids = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let is_id = |id: &&str| {
        id.starts_with(|c: char| c.is_ascii_uppercase())
            && id.len() > 1
            && id[1..].chars().all(|c| c.is_ascii_digit())
    };
    let ids: BTreeSet<String> = ids.filter(is_id).map(str::to_lowercase).collect();
    let known: BTreeSet<String> = built().into_iter().chain(LATER.map(ToOwned::to_owned)).collect();
    assert_eq!(ids, known);
}
