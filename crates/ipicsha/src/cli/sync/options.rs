//! From words to what they mean together.
//!
//! Decides which options imply or exclude others. The order of options counts: later ones win, and
//! rules are kept in their order.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use chrono::{Local, TimeZone};
use clap::{ArgMatches, error::ErrorKind};
use ipicsha_files::{
    delta::BLOCK_BYTES_MAX,
    filter::{RulesConfig, Verdict},
    path::escape,
    sync::{Append, BasisUse, Chmod, Delete, Depth, Exit, Options},
};

use super::{
    Refused,
    filters::{self, RuleOption},
    quantity,
    remote::{self, Operand},
    table,
    text::{owner_maps, owner_of},
    until,
    view::View,
};

/// What holds for the way between two servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// `--timeout`.
    pub(super) silence_max: Duration,
    /// `--contimeout`.
    pub(super) connect_max: Duration,
    /// `-z`, with its level.
    pub(super) compress: Option<i32>,
}

/// Silence of the partner that ends a transfer without `--timeout`: a partner that lives says
/// something every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Level of compression without `--compress-level`.
const COMPRESS_LEVEL: i32 = 1;

/// A transfer that can begin.
pub(super) struct Wanted {
    pub(super) options: Options,
    pub(super) view: View,
    pub(super) link: Link,
    pub(super) sources: Vec<Operand>,
    pub(super) destination: Option<Operand>,
}

/// What is typed but does not stand in the options by itself.
#[derive(Default)]
struct Typed {
    recursive: Option<bool>,
    archive: bool,
    dirs: bool,
    relative: Option<bool>,
    rules: Vec<RuleOption>,
    rules_in_directories: u8,
    cvs: bool,
    from0: bool,
    files_from: Option<Vec<u8>>,
    delete: Option<Delete>,
    delete_excluded: bool,
    suffix: Option<Vec<u8>>,
    chmod: Option<Chmod>,
    compress: bool,
    compress_level: Option<i32>,
    compress_nothing: bool,
    timeout_seconds: u64,
    connect_seconds: u64,
}

/// Reads the words; `None` when help was asked for and shown.
pub(super) fn read(
    words: Vec<OsString>,
    cancelled: &Arc<AtomicBool>,
) -> Result<Option<Wanted>, Refused> {
    let mut reader = Reader {
        options: Options { cancelled: Arc::clone(cancelled), ..Options::default() },
        view: View::new(),
        typed: Typed::default(),
    };
    let name = std::iter::once(OsString::from("ipicsha sync"));
    let matches = match table::command().try_get_matches_from(name.chain(words)) {
        Ok(matches) => matches,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if shown {
                // Nothing can be done when the terminal is gone.
                let _ = error.print();
                return Ok(None);
            }
            let text = error.render().to_string();
            return Err(Refused::usage(text.trim_start_matches("error: ").trim_end().to_owned()));
        }
    };
    for (id, value) in in_order(&matches) {
        reader.option(&id, value)?;
    }
    let paths: Vec<OsString> = matches.get_many("paths").into_iter().flatten().cloned().collect();
    reader.finish(paths).map(Some)
}

/// All options as they were typed, one after the other.
fn in_order(matches: &ArgMatches) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for id in matches.ids().filter(|id| id.as_str() != "paths") {
        let indices = matches.indices_of(id.as_str()).into_iter().flatten();
        let values = matches.get_raw(id.as_str()).into_iter().flatten();
        found.extend(indices.zip(values).map(|(at, value)| (at, id.to_string(), value)));
    }
    found.sort_by_key(|(at, ..)| *at);
    found.into_iter().map(|(_, id, value)| (id, value.as_bytes().to_vec())).collect()
}

struct Reader {
    options: Options,
    view: View,
    typed: Typed,
}

/// A value that must be text.
fn text(value: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(value).map_err(|_| Refused::usage("a value is not UTF-8"))
}

fn number<T: std::str::FromStr>(id: &str, value: &[u8]) -> Result<T, Refused> {
    let text = text(value)?;
    text.parse().map_err(|_| Refused::usage(format!("--{id}: \"{text}\" is no number")))
}

fn size(id: &str, value: &[u8], unit: u64) -> Result<u64, Refused> {
    let text = text(value)?;
    let size = quantity::bytes(text, unit);
    size.ok_or_else(|| Refused::usage(format!("--{id}: \"{text}\" is no size")))
}

impl Reader {
    fn option(&mut self, id: &str, value: Vec<u8>) -> Result<(), Refused> {
        if let Some((_, why)) = table::REFUSED.iter().find(|(row, _)| row.long == id) {
            let message = format!("rsync's option --{id} is not supported: {why}");
            return Err(Refused::new(Exit::Unsupported, message));
        }
        if let Some(long) = table::taken_back(id) {
            return self.switch_off(long);
        }
        if self.switch(id, true) || self.typed_flag(id) {
            return Ok(());
        }
        if self.rule(id, &value) || self.selection(id, &value)? {
            return Ok(());
        }
        self.setting(id, value)
    }

    fn switch_off(&mut self, id: &str) -> Result<(), Refused> {
        if self.switch(id, false) {
            return Ok(());
        }
        match id {
            "recursive" => (self.typed.recursive, self.typed.archive) = (Some(false), false),
            "relative" => self.typed.relative = Some(false),
            "dirs" => self.typed.dirs = false,
            "verbose" => self.view.verbose = 0,
            "itemize-changes" => self.view.itemize = 0,
            "human-readable" => self.view.human = 0,
            "one-file-system" => self.options.one_file_system = 0,
            "append" => self.options.append = None,
            "cvs-exclude" => self.typed.cvs = false,
            "from0" => self.typed.from0 = false,
            "compress" => self.typed.compress = false,
            "bwlimit" => self.options.bytes_per_second = None,
            "max-size" => self.options.max_size = None,
            "min-size" => self.options.min_size = None,
            "max-delete" => self.options.max_delete = None,
            "timeout" => self.typed.timeout_seconds = 0,
            "8-bit-output" => {}
            _ => return Err(Refused::usage(format!("--no-{id} is not known"))),
        }
        Ok(())
    }

    /// Options that are one switch; `false` when it is none.
    fn switch(&mut self, id: &str, on: bool) -> bool {
        let options = &mut self.options;
        let preserve = &mut options.preserve;
        *match id {
            "links" => &mut preserve.links,
            "perms" => &mut preserve.perms,
            "executability" => &mut preserve.executability,
            "times" => &mut preserve.times,
            "owner" => &mut preserve.owner,
            "group" => &mut preserve.group,
            "devices" => &mut preserve.devices,
            "specials" => &mut preserve.specials,
            "D" => {
                preserve.devices = on;
                &mut preserve.specials
            }
            "hard-links" => &mut preserve.hard_links,
            "acls" => {
                preserve.perms |= on;
                &mut preserve.access_lists
            }
            "xattrs" => &mut preserve.extended,
            "omit-dir-times" => &mut preserve.omit_dir_times,
            "omit-link-times" => &mut preserve.omit_link_times,
            "numeric-ids" => &mut preserve.numeric_ids,
            "no-implied-dirs" => &mut options.no_implied_dirs,
            "mkpath" => &mut options.make_path,
            "prune-empty-dirs" => &mut options.prune_empty_dirs,
            "copy-links" => &mut options.copy_links,
            "copy-unsafe-links" => &mut options.copy_unsafe_links,
            "safe-links" => &mut options.safe_links,
            "copy-dirlinks" => &mut options.copy_dirlinks,
            "keep-dirlinks" => &mut options.keep_dirlinks,
            "sparse" => &mut options.sparse,
            "preallocate" => &mut options.preallocate,
            "dry-run" => &mut options.dry_run,
            "list-only" => &mut options.list_only,
            "checksum" => &mut options.checksum,
            "ignore-times" => &mut options.ignore_times,
            "size-only" => &mut options.size_only,
            "update" => &mut options.update,
            "existing" => &mut options.existing,
            "ignore-existing" => &mut options.ignore_existing,
            "ignore-errors" => &mut options.ignore_errors,
            "force" => &mut options.force,
            "backup" => &mut options.backup,
            "inplace" => &mut options.inplace,
            "partial" => &mut options.partial,
            "P" => {
                (self.view.progress, self.view.progress_option) = (on, on);
                &mut options.partial
            }
            "delay-updates" => &mut options.delay_updates,
            "fsync" => &mut options.fsync,
            "remove-source-files" => &mut options.remove_source_files,
            "whole-file" => {
                options.whole_file = Some(on);
                return true;
            }
            "quiet" => &mut self.view.quiet,
            "json" => &mut self.view.json,
            "stats" => &mut self.view.stats,
            "progress" => {
                self.view.progress = on;
                &mut self.view.progress_option
            }
            _ => return false,
        } = on;
        true
    }

    /// Options without a value that do more than one switch.
    fn typed_flag(&mut self, id: &str) -> bool {
        let typed = &mut self.typed;
        match id {
            "archive" => {
                typed.archive = true;
                for switch in ["links", "perms", "times", "group", "owner", "D"] {
                    self.switch(switch, true);
                }
            }
            "recursive" => typed.recursive = Some(true),
            "dirs" => typed.dirs = true,
            "relative" => typed.relative = Some(true),
            "verbose" => self.view.verbose = self.view.verbose.saturating_add(1),
            "itemize-changes" => self.view.itemize = self.view.itemize.saturating_add(1),
            "human-readable" => self.view.human = self.view.human.saturating_add(1),
            "one-file-system" => {
                self.options.one_file_system = self.options.one_file_system.saturating_add(1);
            }
            "append" => self.options.append = Some(Append::Trust),
            "append-verify" => self.options.append = Some(Append::Verify),
            "delete" => drop(typed.delete.get_or_insert(Delete::During)),
            "delete-before" => typed.delete = Some(Delete::Before),
            "delete-during" => typed.delete = Some(Delete::During),
            "delete-delay" => typed.delete = Some(Delete::Delay),
            "delete-after" => typed.delete = Some(Delete::After),
            "delete-excluded" => typed.delete_excluded = true,
            "cvs-exclude" => typed.cvs = true,
            "from0" => typed.from0 = true,
            "compress" => typed.compress = true,
            "F" => {
                typed.rules_in_directories = typed.rules_in_directories.saturating_add(1);
                if typed.rules_in_directories <= 2 {
                    let again = RuleOption::RulesInDirectories(typed.rules_in_directories);
                    typed.rules.push(again);
                }
            }
            "8-bit-output" => {}
            _ => return false,
        }
        true
    }

    fn rule(&mut self, id: &str, value: &[u8]) -> bool {
        let value = value.to_vec();
        self.typed.rules.push(match id {
            "filter" => RuleOption::Filter(value),
            "exclude" => RuleOption::Pattern(Verdict::Exclude, value),
            "include" => RuleOption::Pattern(Verdict::Include, value),
            "exclude-from" => RuleOption::From(Verdict::Exclude, value),
            "include-from" => RuleOption::From(Verdict::Include, value),
            _ => return false,
        });
        true
    }

    /// Options with a value that select or limit.
    fn selection(&mut self, id: &str, value: &[u8]) -> Result<bool, Refused> {
        let options = &mut self.options;
        match id {
            "max-size" => options.max_size = Some(size(id, value, 1)?),
            "min-size" => options.min_size = Some(size(id, value, 1)?),
            "max-delete" => {
                let most: i64 = number(id, value)?;
                options.max_delete = u64::try_from(most).ok();
            }
            "modify-window" => options.modify_window = number(id, value)?,
            "block-size" => {
                let block = u32::try_from(size(id, value, 1)?).ok();
                let block = block.filter(|block| (1..=BLOCK_BYTES_MAX).contains(block));
                let refused = || Refused::usage("--block-size: 1 byte to 1 MiB");
                options.block_bytes = Some(block.ok_or_else(refused)?);
            }
            "bwlimit" => {
                options.bytes_per_second = Some(size(id, value, 1024)?).filter(|rate| *rate > 0);
            }
            "stop-after" => {
                let minutes: u64 = number(id, value)?;
                if minutes == 0 {
                    return Err(Refused::usage("--stop-after: 1 minute or more"));
                }
                let after = Duration::from_secs(minutes.saturating_mul(60));
                options.stop_at = Instant::now().checked_add(after);
            }
            "stop-at" => options.stop_at = Some(stop_at(text(value)?)?),
            "timeout" => self.typed.timeout_seconds = number(id, value)?,
            "contimeout" => self.typed.connect_seconds = number(id, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn setting(&mut self, id: &str, value: Vec<u8>) -> Result<(), Refused> {
        let options = &mut self.options;
        match id {
            "backup-dir" => (options.backup, options.backup_dir) = (true, Some(value)),
            "suffix" => self.typed.suffix = Some(value),
            "files-from" => self.typed.files_from = Some(value),
            "link-dest" | "copy-dest" | "compare-dest" => return self.basis(id, value),
            "chmod" => {
                let text = text(&value)?;
                let changes = Chmod::parse(text, umask()).map_err(|part| {
                    Refused::usage(format!("--chmod: \"{part}\" is not understood"))
                })?;
                let before = self.typed.chmod.take();
                self.typed.chmod = Some(match before {
                    Some(before) => before.then(changes),
                    None => changes,
                });
            }
            "chown" => {
                let (user, group) = text(&value)?.split_once(':').unwrap_or((text(&value)?, ""));
                if !user.is_empty() {
                    options.users = vec![owner_of(id, user, false)?];
                    options.preserve.owner = true;
                }
                if !group.is_empty() {
                    options.groups = vec![owner_of(id, group, true)?];
                    options.preserve.group = true;
                }
            }
            "usermap" => {
                options.users = owner_maps(id, text(&value)?, false)?;
                options.preserve.owner = true;
            }
            "groupmap" => {
                options.groups = owner_maps(id, text(&value)?, true)?;
                options.preserve.group = true;
            }
            "info" => return self.view.info(text(&value)?),
            "out-format" => self.view.out_format = Some(text(&value)?.to_owned()),
            "compress-choice" => match text(&value)? {
                choice @ ("zstd" | "none" | "auto") => {
                    self.typed.compress |= choice == "zstd";
                    self.typed.compress_nothing = choice == "none";
                }
                other => return Err(unsupported_choice(id, other, "zstd, none or auto")),
            },
            "checksum-choice" => match text(&value)? {
                "blake3" | "auto" => {}
                other => return Err(unsupported_choice(id, other, "blake3 or auto")),
            },
            "compress-level" => {
                let level = number(id, &value)?;
                let known = (0..=22).contains(&level);
                let refused = || Refused::usage("--compress-level: 1 to 22, or 0 for none");
                self.typed.compress_level = Some(known.then_some(level).ok_or_else(refused)?);
                self.typed.compress |= level > 0;
            }
            _ => return Err(Refused::usage(format!("--{id} is not known"))),
        }
        Ok(())
    }

    fn basis(&mut self, id: &str, value: Vec<u8>) -> Result<(), Refused> {
        let wanted = match id {
            "link-dest" => BasisUse::Link,
            "copy-dest" => BasisUse::Copy,
            _ => BasisUse::Compare,
        };
        match &mut self.options.basis {
            None => self.options.basis = Some((wanted, vec![value])),
            Some((used, paths)) if *used == wanted => paths.push(value),
            Some(_) => {
                let message = "--compare-dest, --copy-dest and --link-dest exclude one another";
                return Err(Refused::usage(message));
            }
        }
        Ok(())
    }

    fn finish(mut self, paths: Vec<OsString>) -> Result<Wanted, Refused> {
        self.depth();
        self.deletions()?;
        self.contents()?;
        let Typed { rules, cvs, from0, files_from, delete_excluded, .. } = &mut self.typed;
        let config = RulesConfig { delete_excluded: *delete_excluded };
        self.options.rules = filters::rules(rules, config, *from0, *cvs)?;
        if let Some(file) = files_from {
            self.options.files_from = Some(filters::names(file, *from0)?);
        }
        if self.options.backup && self.options.backup_dir.is_none() && !*delete_excluded {
            let pattern = [b"*", &self.options.suffix[..]].concat();
            self.options.rules.protect(&pattern);
        }
        self.options.report_unchanged = self.view.tells_unchanged() || self.view.itemize > 1;
        let operands: Result<Vec<Operand>, Refused> =
            paths.into_iter().map(|path| remote::read(&path.into_vec())).collect();
        let mut operands = operands?;
        let Some(last) = operands.pop() else {
            let message =
                "nothing to copy: name at least one source; `ipicsha sync --help` shows how";
            return Err(Refused::usage(message));
        };
        let (sources, destination) =
            if operands.is_empty() { (vec![last], None) } else { (operands, Some(last)) };
        if self.options.files_from.is_some() && sources.len() > 1 {
            return Err(Refused::usage("--files-from goes with one source directory"));
        }
        self.options.list_only |= destination.is_none();
        if self.options.list_only && self.options.depth == Depth::Files {
            self.options.depth = Depth::Directories;
        }
        self.view.list_only = self.options.list_only;
        self.view.dry_run = self.options.dry_run;
        self.view.recursive = self.options.depth == Depth::Recursive;
        let link = self.link();
        Ok(Wanted { options: self.options, view: self.view, link, sources, destination })
    }

    fn link(&self) -> Link {
        let typed = &self.typed;
        let seconds = |seconds: u64, default| match seconds {
            0 => default,
            seconds => Duration::from_secs(seconds),
        };
        let level = typed.compress_level.unwrap_or(COMPRESS_LEVEL);
        let compresses = typed.compress && !typed.compress_nothing && level > 0;
        Link {
            silence_max: seconds(typed.timeout_seconds, SILENCE_MAX),
            connect_max: seconds(typed.connect_seconds, CONNECT_MAX),
            compress: compresses.then_some(level),
        }
    }

    fn depth(&mut self) {
        let typed = &self.typed;
        let listed = typed.files_from.is_some();
        // With a list of names -a does not go into directories unless -r says so.
        let recursive = typed.recursive.unwrap_or(typed.archive && !listed);
        self.options.depth = match (recursive, typed.dirs || listed) {
            (true, _) => Depth::Recursive,
            (false, true) => Depth::Directories,
            (false, false) => Depth::Files,
        };
        self.options.relative = typed.relative.unwrap_or(listed);
    }

    fn deletions(&mut self) -> Result<(), Refused> {
        let wanted = self.typed.delete_excluded.then_some(Delete::During);
        self.options.delete = self.typed.delete.or(wanted);
        if self.options.delete.is_some() && self.options.depth == Depth::Files {
            let message = "--delete needs --recursive (-r) or --dirs (-d)";
            return Err(Refused::usage(message));
        }
        Ok(())
    }

    fn contents(&mut self) -> Result<(), Refused> {
        let options = &mut self.options;
        options.chmod = self.typed.chmod.take();
        let given = self.typed.suffix.take();
        let beside = options.backup_dir.is_none();
        options.suffix = given.unwrap_or_else(|| if beside { b"~".to_vec() } else { Vec::new() });
        if options.suffix.contains(&b'/') {
            return Err(Refused::usage("--suffix cannot contain a slash"));
        }
        if options.backup && beside && options.suffix.is_empty() {
            return Err(Refused::usage("--suffix cannot be empty without --backup-dir"));
        }
        if options.append.is_some() && options.whole_file == Some(true) {
            return Err(Refused::usage("--append cannot be used with --whole-file"));
        }
        if options.delay_updates && (options.inplace || options.append.is_some()) {
            return Err(Refused::usage(
                "--delay-updates cannot be used with --inplace or --append",
            ));
        }
        if options.remove_source_files && options.dry_run {
            options.remove_source_files = false;
        }
        Ok(())
    }
}

/// The moment that `--stop-at` names, in the time of this machine.
fn stop_at(text: &str) -> Result<Instant, Refused> {
    let now = Local::now();
    let found = until::next(text, now.naive_local());
    let at = found.and_then(|at| Local.from_local_datetime(&at).earliest());
    let wait = at.and_then(|at| at.signed_duration_since(now).to_std().ok());
    wait.and_then(|wait| Instant::now().checked_add(wait)).ok_or_else(|| {
        let text = escape(text.as_bytes());
        Refused::usage(format!(
            "--stop-at: \"{text}\" is no time to come: write it as 2026-12-24T18:30, 12-24 or 18:30"
        ))
    })
}

pub(super) fn unsupported_choice(id: &str, choice: &str, known: &str) -> Refused {
    Refused::new(Exit::Unsupported, format!("--{id}={choice} is not supported: use {known}"))
}

/// The permission bits that new files lose.
fn umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // No other thread runs yet, so nobody notices.
    rustix::process::umask(umask);
    umask.as_raw_mode() & 0o777
}
