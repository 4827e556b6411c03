//! The command line: what can be typed, and which verb it becomes.

mod alarms;
mod client;
pub(crate) use client::ask;
mod files;
mod generate;
mod life;
mod moment;
mod ntp;
mod password;
mod render;
mod repairs;
mod replication;
mod screen;
mod sync;
mod verbs;
mod watch;
mod witness;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Config, DEFAULT_PATH},
    exit::{Failure, Kind},
    size::ByteSize,
};

/// Two Linux servers as one high availability pair
#[derive(Parser)]
#[command(name = "ipicsha", version, arg_required_else_help = true)]
struct Cli {
    /// Configuration file of the server
    #[arg(long, global = true, default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Do not ask for confirmation
    #[arg(long, short = 'y', global = true)]
    yes: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the server's daemon in the foreground
    Daemon,
    /// Set up, show or delete the trust between the two servers
    #[command(subcommand)]
    Trust(TrustVerb),
    /// Show or install the licenses that decide the first role
    #[command(subcommand)]
    License(LicenseVerb),
    /// Configure high availability on both servers
    Configure(HeartbeatArgs),
    /// Change the heartbeat while HA is configured
    Update(HeartbeatArgs),
    /// Unconfigure high availability on both servers
    Unconfigure {
        /// Under policy `witness`: also where neither the partner nor the witness confirms it; the other
        /// server has to be switched off
        #[arg(long)]
        force: bool,
    },
    /// Protect a database or a directory: replicate its records or files
    #[command(subcommand)]
    Protect(ProtectVerb),
    /// Stop protecting a database or a directory, and remove every trace from a database
    #[command(subcommand)]
    Unprotect(UnprotectVerb),
    /// Wait until the partner durably has everything that was committed before: exit 0, or 8
    Barrier {
        /// Only this database, by name or path
        #[arg(long)]
        db: Option<String>,
        /// How long to wait, for example 5s or 500ms
        #[arg(long, default_value = "5s", value_parser = seconds_of)]
        timeout: f64,
    },
    /// Swap active and standby in a planned way, with nothing lost
    Failover {
        /// Show the checks and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Take over although the active cannot be asked for its last changes
        #[arg(long)]
        accept_data_loss: bool,
        /// Not now but at this time: 03:00 (the next one), '2026-12-01 03:00', or with a zone as in
        /// RFC 3339
        #[arg(long, value_name = "TIME", value_parser = moment::of, conflicts_with_all = ["dry_run", "accept_data_loss"])]
        at: Option<i64>,
        /// Forget a failover planned with --at
        #[arg(long, conflicts_with_all = ["dry_run", "accept_data_loss", "at"])]
        cancel: bool,
    },
    #[command(flatten)]
    Life(life::LifeVerb),
    /// End a split brain: this server becomes standby
    GoStandby,
    /// Compare the databases of both servers and repair differences (the primary is master)
    #[command(args_conflicts_with_subcommands = true)]
    Repair {
        #[command(subcommand)]
        past: Option<PastVerb>,
        /// Show the plan and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Only this database
        #[arg(long)]
        db: Option<String>,
    },
    /// Prove that the databases of both servers, or watched directories, are equal, and change
    /// nothing: exit 0, or 7
    #[command(args_conflicts_with_subcommands = true)]
    Verify {
        #[command(subcommand)]
        files: Option<files::VerifyVerb>,
        /// Only this database
        #[arg(long)]
        db: Option<String>,
    },
    /// Compare databases and directories of both servers and only report: exit 0, or 7
    Compare,
    /// Files that the partner deleted, and versions that lost, kept for a while
    #[command(subcommand)]
    Trash(files::TrashVerb),
    /// Replication of every database and table, and its state on both servers
    #[command(subcommand)]
    Dbreplication(replication::ReplicationVerb),
    /// Versions of records that lost against newer ones
    #[command(subcommand)]
    Conflicts(ConflictsVerb),
    /// State of the pair, and what to do
    #[command(alias = "status")]
    HaStatus {
        /// Exit code only: 0 healthy, 1 degraded, 2 critical, 3 unknown
        #[arg(long)]
        check: bool,
        /// Show it again every so many seconds, until Ctrl-C
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = screen::every, conflicts_with = "check")]
        watch: Option<std::time::Duration>,
    },
    /// Alarms of this server: what is wrong, since when, who knows, and whether word of it arrives
    #[command(subcommand)]
    Alarms(alarms::AlarmsVerb),
    /// Time synchronisation of this server
    #[command(subcommand)]
    Ntp(ntp::NtpVerb),
    /// Role changes and alarms of the past
    History {
        /// Number of entries
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Make one tree like another, with the options of rsync (`ipicsha sync --help`)
    #[command(disable_help_flag = true)]
    Sync {
        /// Options, sources and destination
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SRC... DST")]
        words: Vec<std::ffi::OsString>,
    },
    /// Run a witness on a third machine: it decides for pairs whose servers do not hear each other
    #[command(args_conflicts_with_subcommands = true)]
    Witness {
        #[command(subcommand)]
        verb: Option<witness::WitnessVerb>,
    },
    /// Print what a shell completes: `ipicsha completions bash > /etc/bash_completion.d/ipicsha`
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write one for every verb into a directory
    Man { folder: Option<PathBuf> },
    /// Run a whole pair on this machine and show what it does
    Demo {
        /// Leave the pair running and print how to talk to it
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Args)]
struct PasswordArgs {
    /// Read the password from this file instead of the terminal
    #[arg(long)]
    password_file: Option<PathBuf>,
}

#[derive(Subcommand)]
enum TrustVerb {
    /// Set the password of this server's admin user `ipicsadmin`, which the partner will ask for
    Password(PasswordArgs),
    /// Trust the server at ADDRESS, with the password of its admin user
    Set {
        /// IP or IP:PORT of the partner
        address: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Show both certificates
    Show,
    /// Delete the trust on both servers, with the password of the partner's admin user
    Delete {
        #[command(flatten)]
        password: PasswordArgs,
        /// Only here, when the partner is gone for good
        #[arg(long)]
        local_only: bool,
    },
}

#[derive(Subcommand)]
enum LicenseVerb {
    /// Show the licenses and the role they give
    Show,
    /// Install license files
    Install {
        /// License files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Remove the licenses that are installed now
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Args)]
struct HeartbeatArgs {
    /// Heartbeat interval in seconds: 5 to 600
    #[arg(long)]
    interval: Option<f64>,
    /// Missed heartbeat count: 5 to 30
    #[arg(long)]
    count: Option<u32>,
}

#[derive(Subcommand)]
enum ProtectVerb {
    /// An SQLite database
    Db {
        /// Its file, or a pattern in quotes such as '/srv/app/data/*.db' (`**` is any number of
        /// directories): every database that matches it, now and later
        path: PathBuf,
        /// Name common to both servers, when the paths differ; that of a pattern comes before the
        /// names of its files
        #[arg(long)]
        name: Option<String>,
        /// The file does not exist here yet: get it from the partner
        #[arg(long)]
        seed: bool,
        /// Leave the file in its rollback-journal mode instead of switching it to WAL. An
        /// application without a busy timeout can see `SQLITE_BUSY` then
        #[arg(long)]
        keep_journal_mode: bool,
        /// Changes its transaction log holds: 4096 to 1000000000; also for a protected database
        #[arg(long, value_name = "N")]
        log_entries: Option<u64>,
        /// Size its transaction log may have, for example 256MiB; also for a protected database
        #[arg(long, value_name = "SIZE")]
        log_bytes: Option<ByteSize>,
    },
    /// A directory with everything beneath it; databases in it are left to `protect db`
    Dir(files::DirArgs),
}

#[derive(Subcommand)]
enum UnprotectVerb {
    /// An SQLite database, by name or path, or a pattern with all its databases
    Db {
        /// Name, path or pattern
        name: String,
    },
    /// A directory, by name or path; nothing in it changes
    Dir {
        /// Name or path
        name: String,
    },
}

#[derive(Subcommand)]
enum ConflictsVerb {
    /// List the newest entries
    List {
        /// Only this database
        #[arg(long)]
        db: Option<String>,
        /// Only this table
        #[arg(long)]
        table: Option<String>,
        /// Number of entries
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one entry with both versions
    Show {
        /// Number in the list
        id: i64,
    },
    /// Write the version that lost again, as an ordinary change
    Restore {
        /// Number in the list
        id: i64,
    },
}

#[derive(Subcommand)]
enum PastVerb {
    /// Show the repairs of the past with their numbers
    List {
        /// Only this database
        #[arg(long)]
        db: Option<String>,
        /// Number of entries
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Repair watched directories, on the primary: what only it has is copied, what only the
    /// secondary has is deleted there, of what both have the newer is kept
    Files(files::RepairFilesArgs),
    /// Write the versions that lost in a repair again, on the active server
    Undo {
        /// Number of the repair
        run: u64,
    },
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Check the file
    Check,
    /// Print the file with every default filled in
    Show,
}

/// A span of time as people write it, in seconds.
fn seconds_of(text: &str) -> Result<f64, String> {
    let at = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        _ => return Err("write it as 5s, 500ms or 2m".into()),
    };
    let number: f64 =
        number.trim().parse().map_err(|_| "write it as 5s, 500ms or 2m".to_owned())?;
    let seconds = number * factor;
    if (0.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("0 to 3600 seconds".into()) }
}

/// Parses the arguments, runs the verb and gives the exit code.
pub(crate) fn run() -> ExitCode {
    if let Some(typed) = sync::words() {
        return sync::run(typed);
    }
    let cli = Cli::parse();
    let json = cli.json;
    match dispatch(&cli) {
        Ok(code) => code,
        Err(failure) => {
            render::failure(&failure, json);
            ExitCode::from(failure.kind.code())
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode, Failure> {
    match &cli.verb {
        Verb::Daemon => crate::daemon::run(Config::load(&cli.config)?).map(|()| ExitCode::SUCCESS),
        Verb::Sync { words } => {
            let typed = sync::Words { words: words.clone(), config: cli.config.clone() };
            Ok(sync::run(typed))
        }
        Verb::Witness { verb } => witness::run(verb.as_ref(), &cli.config, cli.json),
        Verb::Completions { shell } => generate::completions(*shell),
        Verb::Man { folder } => generate::man(folder.as_deref()),
        Verb::Demo { keep } => crate::demo::run(*keep).map(|()| ExitCode::SUCCESS),
        Verb::Dbreplication(verb) => replication::run(verb, &cli.config, cli.json),
        Verb::Config(verb) => verbs::config(verb, &cli.config, cli.json),
        Verb::Trash(verb) => files::trash(verb, &cli.config, cli.json),
        Verb::Repair { past: Some(PastVerb::Files(args)), .. } => {
            files::repair(args, &cli.config, cli.json, cli.yes)
        }
        Verb::Verify { files: Some(files::VerifyVerb::Dir { name }), .. } => {
            files::verify(name.as_ref(), &cli.config, cli.json)
        }
        Verb::Compare => verbs::compare(&cli.config, cli.json),
        Verb::Life(verb) => life::run(verb, cli),
        Verb::Ntp(verb) => ntp::run(verb, cli.json),
        Verb::Alarms(verb) => alarms::run(verb, &cli.config, cli.json),
        Verb::Update(HeartbeatArgs { interval: None, count: None }) => {
            Err(Failure::new(Kind::Usage, "nothing to update")
                .hinted("give --interval, --count or both"))
        }
        Verb::Trust(_)
        | Verb::License(_)
        | Verb::Configure(_)
        | Verb::Update(_)
        | Verb::Unconfigure { .. }
        | Verb::Protect(_)
        | Verb::Unprotect(_)
        | Verb::Barrier { .. }
        | Verb::Failover { .. }
        | Verb::GoStandby
        | Verb::Repair { .. }
        | Verb::Verify { .. }
        | Verb::Conflicts(_)
        | Verb::HaStatus { .. }
        | Verb::History { .. } => verbs::remote(&cli.verb, &cli.config, cli.json, cli.yes),
    }
}

/// Asks on the terminal, unless `--yes`.
fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    use std::io::{BufRead, IsTerminal, Write};
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Kind::Usage,
            "this verb asks for confirmation, and there is no terminal",
        )
        .hinted("add --yes"));
    }
    let mut terminal = std::io::stderr().lock();
    let asked = write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if asked.is_ok() && read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Kind::Refused, "not confirmed, nothing was changed"))
}
