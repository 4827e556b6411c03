//! The options, as rsync names them.
//!
//! Decides nothing; every row is one option. Options that rsync has and we do not are rows too, so
//! that they are refused with a reason.

use clap::{Arg, ArgAction, Command};

/// What follows an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value(&'static str),
}

use Takes::{Nothing, Value};

/// One option.
pub(super) struct Row {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
    pub(super) help: &'static str,
    /// Other names, which are not shown.
    pub(super) also: &'static [&'static str],
}

const fn flag(long: &'static str, short: Option<char>, help: &'static str) -> Row {
    Row { long, short, takes: Nothing, help, also: &[] }
}

const fn value(
    long: &'static str,
    short: Option<char>,
    name: &'static str,
    help: &'static str,
) -> Row {
    Row { long, short, takes: Value(name), help, also: &[] }
}

const fn also(row: Row, also: &'static [&'static str]) -> Row {
    Row { also, ..row }
}

/// Everything that can be asked for.
pub(super) const ROWS: &[Row] = &[
    flag("verbose", Some('v'), "Tell more; twice tells even more"),
    flag("quiet", Some('q'), "Tell errors only"),
    flag("json", None, "Print one JSON object per line"),
    value(
        "info",
        None,
        "FLAGS",
        "Tell in detail: progress2, name, del, skip, stats, flist, nonreg, symsafe, all, none",
    ),
    flag("checksum", Some('c'), "Compare contents, not time and size"),
    flag("archive", Some('a'), "Keep nearly everything: -rlptgoD"),
    flag("recursive", Some('r'), "Go into directories"),
    flag("relative", Some('R'), "Use the paths as they are typed"),
    flag("no-implied-dirs", None, "With -R, do not send the directories on the way"),
    flag("backup", Some('b'), "Keep what is replaced or deleted"),
    value("backup-dir", None, "DIR", "Keep it in this directory"),
    value("suffix", None, "SUFFIX", "Keep it with this suffix (~ without --backup-dir)"),
    flag("update", Some('u'), "Skip files that are newer at the destination"),
    flag("inplace", None, "Write over files instead of replacing them"),
    flag("append", None, "Append to files that are shorter"),
    flag("append-verify", None, "Append, and compare the whole content"),
    also(flag("dirs", Some('d'), "Transfer directories without going into them"), &["old-dirs"]),
    flag("mkpath", None, "Make missing directories of the destination"),
    flag("links", Some('l'), "Copy symbolic links as links"),
    flag("copy-links", Some('L'), "Copy what symbolic links lead to"),
    flag("copy-unsafe-links", None, "Copy what links lead to that leave the tree"),
    flag("safe-links", None, "Skip links that leave the tree"),
    flag("copy-dirlinks", Some('k'), "Copy links to directories as directories"),
    flag(
        "keep-dirlinks",
        Some('K'),
        "Treat links to directories at the destination as directories",
    ),
    flag("hard-links", Some('H'), "Keep hard links"),
    flag("perms", Some('p'), "Keep permissions"),
    flag("executability", Some('E'), "Keep whether files can be executed"),
    value("chmod", None, "CHANGES", "Change permissions"),
    flag("acls", Some('A'), "Keep access lists"),
    flag("xattrs", Some('X'), "Keep extended attributes"),
    flag("owner", Some('o'), "Keep owners (root only)"),
    flag("group", Some('g'), "Keep groups"),
    flag("devices", None, "Keep devices (root only)"),
    flag("specials", None, "Keep pipes and sockets"),
    flag("D", Some('D'), "Same as --devices --specials"),
    flag("times", Some('t'), "Keep times"),
    flag("omit-dir-times", Some('O'), "Do not keep times of directories"),
    flag("omit-link-times", Some('J'), "Do not keep times of symbolic links"),
    flag("sparse", Some('S'), "Make holes where contents are zero"),
    flag("preallocate", None, "Reserve space before writing"),
    flag("dry-run", Some('n'), "Only show what would be done"),
    flag("whole-file", Some('W'), "Send whole files, not differences"),
    flag("one-file-system", Some('x'), "Do not enter other file systems"),
    value("block-size", Some('B'), "SIZE", "Compare blocks of this size"),
    also(flag("existing", None, "Skip what is not at the destination"), &["ignore-non-existing"]),
    flag("ignore-existing", None, "Skip what is at the destination"),
    flag("remove-source-files", None, "Remove files that have arrived from the source"),
    also(flag("delete", None, "Delete what is not at the source"), &["del"]),
    flag("delete-before", None, "Delete before anything is transferred"),
    flag("delete-during", None, "Same as --delete"),
    flag("delete-delay", None, "Find during, delete after the transfer"),
    flag("delete-after", None, "Find and delete after the transfer"),
    flag("delete-excluded", None, "Delete excluded entries too"),
    flag("ignore-errors", None, "Delete even if something failed"),
    flag("force", None, "Delete directories that are in the way with what they contain"),
    value("max-delete", None, "NUMBER", "Delete at most so many entries"),
    value("max-size", None, "SIZE", "Skip larger files"),
    value("min-size", None, "SIZE", "Skip smaller files"),
    flag("partial", None, "Keep files that were interrupted"),
    flag("P", Some('P'), "Same as --partial --progress"),
    flag("delay-updates", None, "Give all updated files their names at the end"),
    flag("prune-empty-dirs", Some('m'), "Leave out directories that would be empty"),
    flag("numeric-ids", None, "Keep the numbers of owners, not their names"),
    value("usermap", None, "MAP", "Give users other numbers"),
    value("groupmap", None, "MAP", "Give groups other numbers"),
    value("chown", None, "USER:GROUP", "Give everything to these"),
    flag("ignore-times", Some('I'), "Transfer files that look equal"),
    flag("size-only", None, "Compare sizes only"),
    value(
        "modify-window",
        Some('@'),
        "SECONDS",
        "Times may differ by so much; -1 compares exactly",
    ),
    value("compare-dest", None, "DIR", "Do not make what is equal there"),
    value("copy-dest", None, "DIR", "Copy what is equal there"),
    value("link-dest", None, "DIR", "Link what is equal there"),
    flag("compress", Some('z'), "Compress on the way to the partner"),
    also(
        value("compress-choice", None, "NAME", "zstd, none, or auto, which is zstd with -z"),
        &["zc"],
    ),
    also(value("compress-level", None, "NUMBER", "Level of compression"), &["zl"]),
    also(value("checksum-choice", None, "NAME", "blake3 or auto"), &["cc"]),
    flag("cvs-exclude", Some('C'), "Exclude what version control leaves out"),
    value("filter", Some('f'), "RULE", "Add a rule"),
    flag("F", Some('F'), "Rules from .rsync-filter files; twice excludes these too"),
    value("exclude", None, "PATTERN", "Exclude what fits"),
    value("exclude-from", None, "FILE", "Exclude what fits patterns in a file"),
    value("include", None, "PATTERN", "Do not exclude what fits"),
    value("include-from", None, "FILE", "Do not exclude what fits patterns in a file"),
    value("files-from", None, "FILE", "Only the names in a file"),
    flag("from0", Some('0'), "Names in files end with NUL"),
    flag("stats", None, "Show numbers at the end"),
    flag("human-readable", Some('h'), "Show numbers with units"),
    flag("progress", None, "Show progress"),
    flag("itemize-changes", Some('i'), "Show what changes"),
    also(value("out-format", None, "FORMAT", "Show changes in this format"), &["log-format"]),
    value("bwlimit", None, "RATE", "At most so many KiB per second"),
    value("timeout", None, "SECONDS", "Give up when nothing comes for so long"),
    value("contimeout", None, "SECONDS", "Give up connecting after so long"),
    value("stop-after", None, "MINUTES", "Stop after so long"),
    value("stop-at", None, "TIME", "Stop at this time: 2026-12-24T18:30, 12-24, 18:30"),
    flag("fsync", None, "Make every file survive a loss of power"),
    flag("list-only", None, "List the source"),
    flag("8-bit-output", Some('8'), "Accepted: names in UTF-8 are always shown"),
];

/// Options of rsync that we do not have, and why.
pub(super) const REFUSED: &[(Row, &str)] = &[
    (value("rsh", Some('e'), "COMMAND", ""), "the trusted link is used, not a remote shell"),
    (value("rsync-path", None, "PATH", ""), "the daemon serves the other server"),
    (flag("daemon", None, ""), "the daemon serves the other server"),
    (value("password-file", None, "FILE", ""), "the trust of the pair is used"),
    (value("port", None, "PORT", ""), "the trusted link is used"),
    (value("address", None, "ADDRESS", ""), "the trusted link is used"),
    (value("sockopts", None, "OPTIONS", ""), "the trusted link is used"),
    (flag("blocking-io", None, ""), "the trusted link is used"),
    (flag("ipv4", Some('4'), ""), "the trusted link is used"),
    (flag("ipv6", Some('6'), ""), "the trusted link is used"),
    (value("protocol", None, "NUMBER", ""), "both servers run the same version"),
    (value("checksum-seed", None, "NUMBER", ""), "contents are known by BLAKE3"),
    (flag("secluded-args", Some('s'), ""), "names never pass through a shell here"),
    (flag("protect-args", None, ""), "names never pass through a shell here"),
    (value("remote-option", Some('M'), "OPTION", ""), "both halves have the same options"),
    (value("iconv", None, "SPEC", ""), "names are bytes and stay as they are"),
    (value("write-batch", None, "FILE", ""), "batches do not exist here"),
    (value("only-write-batch", None, "FILE", ""), "batches do not exist here"),
    (value("read-batch", None, "FILE", ""), "batches do not exist here"),
    (flag("trust-sender", None, ""), "no sender is trusted with paths"),
    (flag("fake-super", None, ""), "owners are kept as they are, or not at all"),
    (flag("super", None, ""), "what root may do is tried as root"),
    (flag("munge-links", None, ""), "links stay as they are; see --safe-links"),
    (value("copy-as", None, "USER", ""), "run the command as that user"),
    (flag("copy-devices", None, ""), "contents of devices are not copied"),
    (flag("write-devices", None, ""), "contents of devices are not written"),
    (flag("crtimes", Some('N'), ""), "Linux cannot set the time of creation"),
    (flag("atimes", Some('U'), ""), "times of reading are not kept"),
    (flag("open-noatime", None, ""), "times of reading are not kept"),
    (flag("fuzzy", Some('y'), ""), "similar names are not searched for"),
    (value("temp-dir", Some('T'), "DIR", ""), "files are written where they belong, then renamed"),
    (value("partial-dir", None, "DIR", ""), "interrupted files are kept where they belong"),
    (value("log-file", None, "FILE", ""), "redirect the output, or use --json"),
    (value("log-file-format", None, "FORMAT", ""), "redirect the output, or use --json"),
    (
        value("skip-compress", None, "LIST", ""),
        "what does not become shorter is sent as it is, whatever its name",
    ),
    (value("debug", None, "FLAGS", ""), "use -vv"),
    (flag("ignore-missing-args", None, ""), "missing sources are told and the others copied"),
    (flag("delete-missing-args", None, ""), "missing sources are told and the others copied"),
    (value("outbuf", None, "MODE", ""), "lines are written at once"),
    (value("early-input", None, "FILE", ""), "there is no remote shell"),
    (value("max-alloc", None, "SIZE", ""), "memory is limited by itself"),
    (flag("stderr", None, ""), "errors go to stderr"),
    (flag("msgs2stderr", None, ""), "errors go to stderr"),
    (flag("no-motd", None, ""), "there is no greeting"),
];

/// Options that can be taken back, with the names that do it.
pub(super) const NEGATED: &[(&str, &[&str])] = &[
    ("recursive", &["no-recursive", "no-r"]),
    ("relative", &["no-relative", "no-R"]),
    ("links", &["no-links", "no-l"]),
    ("perms", &["no-perms", "no-p"]),
    ("times", &["no-times", "no-t"]),
    ("owner", &["no-owner", "no-o"]),
    ("group", &["no-group", "no-g"]),
    ("D", &["no-D"]),
    ("devices", &["no-devices"]),
    ("specials", &["no-specials"]),
    ("acls", &["no-acls", "no-A"]),
    ("xattrs", &["no-xattrs", "no-X"]),
    ("hard-links", &["no-hard-links", "no-H"]),
    ("dirs", &["no-dirs", "no-d"]),
    ("whole-file", &["no-whole-file", "no-W"]),
    ("sparse", &["no-sparse", "no-S"]),
    ("inplace", &["no-inplace"]),
    ("checksum", &["no-checksum", "no-c"]),
    ("compress", &["no-compress", "no-z"]),
    ("one-file-system", &["no-one-file-system", "no-x"]),
    ("omit-dir-times", &["no-omit-dir-times", "no-O"]),
    ("omit-link-times", &["no-omit-link-times", "no-J"]),
    ("numeric-ids", &["no-numeric-ids"]),
    ("partial", &["no-partial"]),
    ("progress", &["no-progress"]),
    ("prune-empty-dirs", &["no-prune-empty-dirs", "no-m"]),
    ("human-readable", &["no-human-readable", "no-h"]),
    ("itemize-changes", &["no-itemize-changes", "no-i"]),
    ("verbose", &["no-verbose", "no-v"]),
    ("backup", &["no-backup", "no-b"]),
    ("delay-updates", &["no-delay-updates"]),
    ("size-only", &["no-size-only"]),
    ("ignore-times", &["no-ignore-times", "no-I"]),
    ("existing", &["no-existing"]),
    ("ignore-existing", &["no-ignore-existing"]),
    ("ignore-errors", &["no-ignore-errors"]),
    ("force", &["no-force"]),
    ("update", &["no-update", "no-u"]),
    ("append", &["no-append"]),
    ("stats", &["no-stats"]),
    ("fsync", &["no-fsync"]),
    ("preallocate", &["no-preallocate"]),
    ("mkpath", &["no-mkpath"]),
    ("executability", &["no-executability", "no-E"]),
    ("keep-dirlinks", &["no-keep-dirlinks", "no-K"]),
    ("copy-links", &["no-copy-links", "no-L"]),
    ("copy-dirlinks", &["no-copy-dirlinks", "no-k"]),
    ("cvs-exclude", &["no-cvs-exclude", "no-C"]),
    ("from0", &["no-from0", "no-0"]),
    ("bwlimit", &["no-bwlimit"]),
    ("max-size", &["no-max-size"]),
    ("min-size", &["no-min-size"]),
    ("max-delete", &["no-max-delete"]),
    ("timeout", &["no-timeout"]),
    ("8-bit-output", &["no-8-bit-output", "no-8"]),
];

fn argument(row: &Row) -> Arg {
    let mut argument = Arg::new(row.long).help(row.help).action(ArgAction::Append);
    // Options like -D have no long name.
    if row.long.len() > 1 {
        argument = argument.long(row.long);
    }
    if let Some(short) = row.short {
        argument = argument.short(short);
    }
    for name in row.also {
        argument = argument.alias(*name);
    }
    match row.takes {
        Nothing => argument.num_args(0).default_missing_value("yes"),
        Value(name) => argument
            .value_name(name)
            .num_args(1)
            .allow_hyphen_values(true)
            .value_parser(clap::value_parser!(std::ffi::OsString)),
    }
}

/// The option that `id` takes back.
pub(super) fn taken_back(id: &str) -> Option<&'static str> {
    NEGATED.iter().find(|(_, names)| names.first() == Some(&id)).map(|(long, _)| *long)
}

/// The whole command.
pub(super) fn command() -> Command {
    let mut command = Command::new("ipicsha sync")
        .about("Make one tree like another, with the options of rsync")
        .override_usage("ipicsha sync [OPTIONS] SRC... [SERVER:]DST")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print help"));
    command = command.args(ROWS.iter().map(argument));
    command = command.args(REFUSED.iter().map(|(row, _)| argument(row).hide(true)));
    for (_, names) in NEGATED {
        let Some((long, others)) = names.split_first() else { continue };
        let argument = Arg::new(*long)
            .hide(true)
            .long(*long)
            .aliases(others.iter())
            .action(ArgAction::Append)
            .num_args(0)
            .default_missing_value("yes");
        command = command.arg(argument);
    }
    command.arg(
        Arg::new("paths")
            .value_name("PATH")
            .num_args(0..)
            .value_parser(clap::value_parser!(std::ffi::OsString))
            .help("Sources, and the destination; `dir/` is the content of `dir`"),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_consistent() {
        super::command().debug_assert();
    }
}
