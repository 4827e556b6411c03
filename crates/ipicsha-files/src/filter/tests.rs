//! Tables of patterns and rules, with what they mean.

use super::{wildmatch::Pattern, *};
use crate::path::RelativePath;

fn path(text: &str) -> RelativePath {
    RelativePath::new(text.as_bytes()).expect("a path")
}

/// Text, pattern, whether it fits.
const WILD: &[(&str, &str, bool)] = &[
    ("foo", "foo", true),
    ("foo", "bar", false),
    ("", "", true),
    ("foo", "???", true),
    ("foo", "??", false),
    ("foo", "*", true),
    ("foo", "f*", true),
    ("foo", "*f", false),
    ("foo", "*foo*", true),
    ("foobar", "*ob*a*r*", true),
    ("aaaaaaabababab", "*ab", true),
    ("foo*", "foo\\*", true),
    ("foobar", "foo\\*bar", false),
    ("f\\oo", "f\\\\oo", true),
    ("ball", "*[al]?", true),
    ("ten", "[ten]", false),
    ("ten", "**[!te]", true),
    ("ten", "**[!ten]", false),
    ("ten", "t[a-g]n", true),
    ("ten", "t[!a-g]n", false),
    ("ton", "t[!a-g]n", true),
    ("ton", "t[^a-g]n", true),
    ("a]b", "a[]]b", true),
    ("a-b", "a[]-]b", true),
    ("a]b", "a[]-]b", true),
    ("aab", "a[]-]b", false),
    ("aab", "a[]a-]b", true),
    ("]", "]", true),
    ("foo/baz/bar", "foo*bar", false),
    ("foo/baz/bar", "foo**bar", true),
    ("foobazbar", "foo**bar", true),
    ("foo/bar", "foo?bar", false),
    ("foo/bar", "foo[/]bar", false),
    ("foo/bar", "f[^eiu][^eiu][^eiu][^eiu][^eiu]r", false),
    ("foo-bar", "f[^eiu][^eiu][^eiu][^eiu][^eiu]r", true),
    ("foo", "**/foo", false),
    ("/foo", "**/foo", true),
    ("bar/baz/foo", "**/foo", true),
    ("bar/baz/foo", "*/foo", false),
    ("foo/bar/baz", "**/bar*", false),
    ("foo/bar/baz", "**/bar/*", true),
    ("foo/bar/baz", "**/bar/**", true),
    ("deep/foo/bar/baz", "**/bar/*", true),
    ("deep/foo/bar/baz/x", "**/bar/*", false),
    ("deep/foo/bar/baz/x", "**/bar/**", true),
    ("deep/foo/bar/baz/x", "**/bar/*/*", true),
    ("deep/foo/bar", "**/bar/*", false),
    ("acrt", "a[c-c]st", false),
    ("acrt", "a[c-c]rt", true),
    ("\\", "[\\\\]", true),
    ("-", "[,-.]", true),
    ("+", "[,-.]", false),
    ("-.]", "[,-.]", false),
    ("3", "[[:digit:][:upper:]]", true),
    ("a", "[[:digit:][:upper:][:space:]]", false),
    ("A", "[[:digit:][:upper:][:space:]]", true),
    (" ", "[[:digit:][:upper:][:space:]]", true),
    (".", "[[:digit:][:punct:][:space:]]", true),
    ("5", "[[:xdigit:]]", true),
    ("g", "[[:xdigit:]]", false),
    ("q", "[[:alpha:]-z]", true),
    ("a", "[[:nonsense:]]", false),
    ("[", "[[:]", true),
    (":", "[[:]", true),
    ("j", "[a-c-j]", true),
    ("b", "[\\a-\\c]", true),
    ("a", "[a", false),
    ("a", "a\\", false),
    (
        "-adobe-courier-bold-o-normal--12-120-75-75-m-70-iso8859-1",
        "-*-*-*-*-*-*-12-*-*-*-m-*-*-*",
        true,
    ),
    (
        "-adobe-courier-bold-o-normal--12-120-75-75-X-70-iso8859-1",
        "-*-*-*-*-*-*-12-*-*-*-m-*-*-*",
        false,
    ),
    ("abcd/abcdefg/abcdefghijk/abcdefghijklmnop.txt", "**/*a*b*g*n*t", true),
    ("abcd/abcdefg/abcdefghijk/abcdefghijklmnop.txtz", "**/*a*b*g*n*t", false),
];

#[test]
fn patterns_fit_as_the_table_says() {
    for (text, pattern, fits) in WILD {
        let pattern_fits = Pattern::new(pattern.as_bytes()).fits(text.as_bytes());
        assert_eq!(pattern_fits, *fits, "{text} with {pattern}");
    }
}

#[test]
fn no_pattern_is_slow() {
    let pattern = Pattern::new(&b"*a".repeat(1000));
    assert!(!pattern.fits(&[b'b'; 4096]));
    assert!(!pattern.fits(&[b'a'; 999]));
}

/// Rule, path, directory or not, excluded or not.
const RULES: &[(&str, &str, bool, bool)] = &[
    ("- *.o", "a/b/x.o", false, true),
    ("- *.o", "a/b/x.c", false, false),
    ("- foo", "foo", false, true),
    ("- foo", "a/foo", true, true),
    ("- foo/", "foo", false, false),
    ("- foo/", "a/foo", true, true),
    ("- /foo", "foo", false, true),
    ("- /foo", "a/foo", false, false),
    ("- /foo/*/bar", "foo/x/bar", false, true),
    ("- /foo/*/bar", "foo/x/y/bar", false, false),
    ("- /foo/**/bar", "foo/x/y/bar", false, true),
    ("- a/b", "a/b", false, true),
    ("- a/b", "x/a/b", false, true),
    ("- a/b", "xa/b", false, false),
    ("- a/*.c", "x/a/f.c", false, true),
    ("- a/*.c", "x/a/b/f.c", false, false),
    ("- a/**.c", "x/a/b/f.c", false, true),
    ("- **/f", "f", false, true),
    ("- **/f", "a/b/f", false, true),
    ("- dir/***", "dir", true, true),
    ("- dir/***", "dir/a/b", false, true),
    ("- dir/**", "dir", true, false),
    ("- dir/**", "dir/a", false, true),
    ("exclude a b", "a b", false, true),
    ("exclude,! *.c", "x.h", false, true),
    ("-! *.c", "x.c", false, false),
    ("-_foo", "foo", false, true),
    ("- a\\b", "a\\b", false, true),
    ("- a\\*b*", "a*bc", false, true),
    ("-/ /srv/tree/sub/x", "sub/x", false, true),
    ("-/ sub/x", "sub/x", false, true),
    ("H foo", "foo", false, true),
    ("P foo", "foo", false, false),
    ("-r foo", "foo", false, false),
    ("-s foo", "foo", false, true),
    ("-C", "core", false, true),
    ("-C", ".git", true, true),
    ("-C", ".git", false, false),
];

#[test]
fn rules_match_as_the_table_says() {
    for (rule, at, directory, excluded) in RULES {
        let mut rules = Rules::default();
        rules.filter(rule.as_bytes()).expect("a rule");
        let level = Level::new(&rules, Half::Sender, b"/srv/tree");
        assert_eq!(level.excludes(&path(at), *directory), *excluded, "{rule} at {at}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let mut rules = Rules::default();
    for rule in ["+ *.rs", "+ */", "- *"] {
        rules.filter(rule.as_bytes()).expect("a rule");
    }
    let level = Level::new(&rules, Half::Sender, b"/");
    assert_eq!(level.check(&path("a/x.rs"), false), Some(Verdict::Include));
    assert_eq!(level.check(&path("a"), true), Some(Verdict::Include));
    assert_eq!(level.check(&path("a/x.c"), false), Some(Verdict::Exclude));
    rules.filter(b"!").expect("a rule");
    assert_eq!(Level::new(&rules, Half::Sender, b"/").check(&path("a/x.c"), false), None);
}

#[test]
fn excluded_is_protected_unless_it_shall_be_deleted() {
    for delete_excluded in [false, true] {
        let mut rules = Rules::new(RulesConfig { delete_excluded });
        rules.pattern(Verdict::Exclude, b"*.tmp").expect("a pattern");
        rules.filter(b"P keep").expect("a rule");
        let receiver = Level::new(&rules, Half::Receiver, b"/");
        assert_eq!(receiver.excludes(&path("x.tmp"), false), !delete_excluded);
        assert!(receiver.excludes(&path("keep"), false));
        assert!(Level::new(&rules, Half::Sender, b"/").excludes(&path("x.tmp"), false));
    }
    let mut rules = Rules::default();
    rules.filter(b"-p junk").expect("a rule");
    let receiver = Level::new(&rules, Half::Receiver, b"/");
    assert!(receiver.excludes(&path("d/junk"), false));
    assert_eq!(receiver.check_inside_deleted(&path("d/junk"), false), None);
}

#[test]
fn files_of_rules_have_comments_prefixes_and_separators() {
    let mut rules = Rules::default();
    let content = b"# comment\n; another\n\n+ keep.o\n*.o\n- x y\n";
    rules.patterns(Verdict::Exclude, content, false).expect("patterns");
    let level = Level::new(&rules, Half::Sender, b"/");
    assert!(!level.excludes(&path("keep.o"), false) && level.excludes(&path("a.o"), false));
    assert!(level.excludes(&path("x y"), false) && !level.excludes(&path("# comment"), false));
    let mut rules = Rules::default();
    rules.patterns(Verdict::Exclude, b"a\nb\0c", true).expect("patterns");
    assert!(Level::new(&rules, Half::Sender, b"/").excludes(&path("a\nb"), false));
}

#[test]
fn files_in_directories_hold_below_and_newer_ones_come_first() {
    let mut rules = Rules::default();
    rules.filter(b": .rules").expect("a rule");
    rules.filter(b"- *.last").expect("a rule");
    let top = Level::new(&rules, Half::Sender, b"/");
    assert!(top.reads_directories());
    let (top, errors) = top.enter(&RelativePath::root(), |name| {
        (name.as_bytes() == b".rules").then(|| b"- *.a\n- /only\n+ x.last\n".to_vec())
    });
    assert!(errors.is_empty());
    let (below, _) = top.enter(&path("d"), |_| Some(b"+ y.a\n- /here\n".to_vec()));
    assert!(below.excludes(&path("d/x.a"), false) && !below.excludes(&path("d/y.a"), false));
    assert!(below.excludes(&path("d/here"), false) && !below.excludes(&path("d/e/here"), false));
    assert!(top.excludes(&path("only"), false) && !below.excludes(&path("d/only"), false));
    assert!(!top.excludes(&path("x.last"), false) && top.excludes(&path("y.last"), false));
    let (cleared, _) = top.enter(&path("d"), |_| Some(b"!\n- z\n".to_vec()));
    assert!(!cleared.excludes(&path("d/x.a"), false) && cleared.excludes(&path("d/z"), false));
    let (same, errors) = top.enter(&path("d"), |_| Some(b"nonsense\n".to_vec()));
    assert_eq!(errors.len(), 1);
    assert!(same.excludes(&path("d/x.a"), false));
}

#[test]
fn modifiers_of_files_in_directories() {
    let mut rules = Rules::default();
    rules.filter(b":n- .once").expect("a rule");
    rules.filter(b":Ce").expect("a rule");
    let (top, _) = Level::new(&rules, Half::Sender, b"/").enter(&RelativePath::root(), |name| {
        Some(if name.as_bytes() == b".once" { b"a\nb c".to_vec() } else { b"d e".to_vec() })
    });
    let (below, _) = top.enter(&path("x"), |_| None);
    for (at, here) in [("a", true), ("b c", true), ("d", true), ("e", true), (".cvsignore", true)] {
        assert_eq!(top.excludes(&path(at), false), here, "{at}");
    }
    assert!(!below.excludes(&path("x/a"), false) && !below.excludes(&path("x/d"), false));
    let mut rules = Rules::default();
    rules.filter(b"dir-merge /.rsync-filter").expect("a rule");
    let level = Level::new(&rules, Half::Sender, b"/srv/tree");
    let (level, _) = level.enter_above(b"tree", |_| Some(b"- /tree/x\n- y\n- /z\n".to_vec()));
    assert!(level.excludes(&path("x"), false) && level.excludes(&path("d/y"), false));
    assert!(!level.excludes(&path("z"), false) && !level.excludes(&path("tree/x"), false));
}

#[test]
fn what_is_no_rule_is_refused() {
    for rule in ["", "foo", "-", "- ", "-q foo", "! foo", ": ", "Px foo", ":+- f", "merge"] {
        let refused = Rules::default().filter(rule.as_bytes());
        assert!(refused.is_err(), "{rule}");
    }
    let missing = Rules::default().filter(b". /nowhere/at all");
    assert!(matches!(missing, Err(FilterError::File { .. })), "{missing:?}");
}
