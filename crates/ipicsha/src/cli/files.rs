//! What is typed about watched directories, and what is shown of the answers.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use ipicsha_files::replicate::{CompareReport, DirectoryStatus};
use serde_json::Value;

use super::{client, confirm, render, watch};
use crate::{
    api::{Answer, DirectoryOutcome, FilesRequest, Request},
    config::{Config, DirectoryFile},
    exit::{Failure, Kind},
    wording,
};

/// Paths of each kind that are printed; all of them are in the JSON.
const SHOWN_MAX: usize = 20;

#[derive(Args)]
pub(super) struct DirArgs {
    /// The directory
    path: PathBuf,
    /// Name common to both servers, when the paths differ
    #[arg(long)]
    name: Option<String>,
    /// Make the directory if it is missing
    #[arg(long)]
    create: bool,
    /// What takes part, a filter rule in rsync's words such as '- *.tmp'; the first that fits counts
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    filter: Vec<String>,
    /// Name of files in it whose lines say what takes no part, such as .gitignore
    #[arg(long, value_name = "NAME", default_value = "")]
    ignore_file: String,
}

impl DirArgs {
    pub(super) fn request(&self) -> Request {
        let file = DirectoryFile {
            filter: self.filter.clone(),
            ignore_file: self.ignore_file.clone(),
            ..DirectoryFile::new(self.path.clone(), self.name.clone())
        };
        Request::ProtectDirectory { file, create: self.create }
    }
}

#[derive(Subcommand)]
pub(super) enum TrashVerb {
    /// List what is kept, newest first
    List {
        /// Only this directory
        #[arg(long)]
        dir: Option<String>,
        /// Number of entries
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Put one back where it was; what is there now is kept in its place
    Restore {
        /// Number in the list
        id: u64,
        /// Its directory, where several are protected
        #[arg(long)]
        dir: Option<String>,
    },
}

#[derive(Subcommand)]
pub(super) enum VerifyVerb {
    /// Watched directories, or one: the contents are read anew on both servers
    Dir {
        /// Name or path of the directory
        name: Option<String>,
    },
}

#[derive(Args)]
pub(super) struct RepairFilesArgs {
    /// Name or path of the directory; all of them without it
    name: Option<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Let the deletions happen that wait for an administrator, and nothing else
    #[arg(long, conflicts_with = "dry_run")]
    accept_deletions: bool,
}

/// `trash list` and `trash restore`.
pub(super) fn trash(verb: &TrashVerb, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let request = match verb {
        TrashVerb::List { dir, limit } => {
            FilesRequest::Trash { directory: dir.clone(), limit: *limit }
        }
        TrashVerb::Restore { id, dir } => FilesRequest::Restore { directory: dir.clone(), id: *id },
    };
    let value = ask(path, request)?;
    match verb {
        _ if json => render::raw(&value),
        TrashVerb::List { .. } => kept(&value),
        TrashVerb::Restore { .. } => {
            println!("{} is back.", value["path"].as_str().unwrap_or(""));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kept(rows: &Value) {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        println!("Nothing is kept.");
    }
    for row in rows {
        let kept = &row["kept"];
        let text = |key: &str| kept[key].as_str().unwrap_or("").to_owned();
        println!(
            "{:>6}  {}  {:<9} {:>10}  {} {}{}",
            kept["id"],
            wording::time(kept["kept_unix"].as_i64().unwrap_or_default() * 1000),
            text("reason"),
            wording::bytes(kept["bytes"].as_u64().unwrap_or_default()),
            row["directory"].as_str().unwrap_or(""),
            text("path"),
            if text("kind") == "directory" { "/" } else { "" },
        );
    }
}

/// `repair files`.
pub(super) fn repair(
    args: &RepairFilesArgs,
    path: &Path,
    json: bool,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let directory = args.name.clone();
    if args.accept_deletions {
        confirm(yes, "Let the deletions happen that wait? What goes is kept for a while.")?;
        let value = ask(path, FilesRequest::AcceptDeletions { directory })?;
        if json {
            render::raw(&value);
            return Ok(ExitCode::SUCCESS);
        }
        for row in value["accepted"].as_array().into_iter().flatten() {
            let name = row["directory"].as_str().unwrap_or("");
            println!("{name}: {} deletions accepted", row["accepted"]);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let question = "Repair files? What only the secondary has is deleted there, and of what both \
                    have the newer is kept; `ipicsha trash list` shows what went.";
    confirm(yes || args.dry_run, question)?;
    let value = wait(path, FilesRequest::Compare { directory, apply: !args.dry_run })?;
    compared(value, json, if args.dry_run { Purpose::Plan } else { Purpose::Repair })
}

/// `verify dir`.
pub(super) fn verify(name: Option<&String>, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    verified(compare(name, path)?, json)
}

/// Has directories compared; nothing is changed.
pub(super) fn compare(name: Option<&String>, path: &Path) -> Answer {
    wait(path, FilesRequest::Compare { directory: name.cloned(), apply: false })
}

/// Shows a comparison that changed nothing.
pub(super) fn verified(value: Value, json: bool) -> Result<ExitCode, Failure> {
    compared(value, json, Purpose::Verify)
}

/// Whether everything was compared and is equal.
pub(super) fn is_equal(outcomes: &[DirectoryOutcome]) -> bool {
    let equal = |report: &CompareReport| report.differences == 0;
    outcomes.iter().all(|outcome| outcome.report.as_ref().is_some_and(equal))
}

fn ask(path: &Path, request: FilesRequest) -> Answer {
    let config = Config::load(path)?;
    client::ask(&config.file.server.socket, &Request::Files(request))
}

fn wait(path: &Path, request: FilesRequest) -> Answer {
    let config = Config::load(path)?;
    watch::ask(&config.file.server.socket, Request::Files(request))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Verify,
    Plan,
    Repair,
}

/// Exit 7 when something differs and stays so.
fn compared(value: Value, json: bool, purpose: Purpose) -> Result<ExitCode, Failure> {
    if json {
        render::raw(&value);
    }
    let outcomes: Vec<DirectoryOutcome> = render::parse(value)?;
    let attention = match purpose {
        Purpose::Verify => !is_equal(&outcomes),
        Purpose::Plan | Purpose::Repair => outcomes.iter().any(|outcome| outcome.report.is_none()),
    };
    for outcome in outcomes.iter().filter(|_| !json) {
        print_outcome(outcome, purpose);
    }
    if !json && outcomes.is_empty() {
        println!("No directory is protected: nothing was compared.");
    }
    if !json && purpose == Purpose::Verify && attention {
        println!("Nothing was changed. To see what would be done: ipicsha repair files --dry-run");
    }
    Ok(if attention { ExitCode::from(Kind::Attention.code()) } else { ExitCode::SUCCESS })
}

fn print_outcome(outcome: &DirectoryOutcome, purpose: Purpose) {
    let name = &outcome.directory;
    let Some(report) = &outcome.report else {
        println!("{name}: not compared: {}", outcome.error.as_deref().unwrap_or(""));
        println!("  next: {}", outcome.next_step.as_deref().unwrap_or("try again"));
        return;
    };
    let size = wording::bytes(report.bytes);
    if report.differences == 0 {
        println!("{name}: equal, {} entries and {size} compared", report.entries);
    } else {
        let count = report.differences;
        println!("{name}: {} entries and {size} compared, {count} differ", report.entries);
        print_paths("only here", &report.only_here);
        print_paths("only there", &report.only_there);
        let differing: Vec<String> =
            report.differing.iter().map(|(path, what)| format!("{path} ({what})")).collect();
        print_paths("different", &differing);
    }
    if purpose != Purpose::Verify && report.differences > 0 {
        print_plan(report);
    }
    for path in report.stuck.iter().take(SHOWN_MAX) {
        println!("  not waited for: {path} (`ipicsha ha-status` on both servers says why)");
    }
    for left in report.not_compared.iter().take(SHOWN_MAX) {
        println!("  not compared: {left}");
    }
}

fn print_plan(report: &CompareReport) {
    let (done, deleted) = if report.applied { ("was", "were") } else { ("is to be", "are to be") };
    println!(
        "  {} {done} copied to the partner, {} copied here, {} {deleted} deleted on the secondary",
        report.to_partner, report.to_here, report.deletions
    );
    if !report.applied {
        println!("  Nothing was changed. To do it, on the primary: ipicsha repair files");
    }
}

fn print_paths(what: &str, paths: &[String]) {
    for path in paths.iter().take(SHOWN_MAX) {
        println!("  {what}: {path}");
    }
    if paths.len() > SHOWN_MAX {
        println!("  {what}: and {} more (all of them with --json)", paths.len() - SHOWN_MAX);
    }
}

/// `protect dir`.
pub(super) fn protected(value: Value) -> Result<(), Failure> {
    let row: DirectoryStatus = render::parse(value)?;
    println!("{} is protected as {}.", row.root.display(), row.name);
    if let Some(hold) = &row.hold {
        println!("  HOLD: {hold}");
    }
    println!("Protect the directory on the partner, too, with the same name.");
    Ok(())
}
