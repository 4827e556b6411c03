//! Each verb: what it asks for on the terminal, which request it sends, how the answer is shown.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::{path::Path, process::ExitCode, time::Duration};

use super::{
    ConfigVerb, ConflictsVerb, LicenseVerb, PastVerb, ProtectVerb, TrustVerb, UnprotectVerb, Verb,
    client, confirm, files, password, render, repairs, screen, watch,
};
use crate::{
    api::{Conflicts, Look, Request, Work},
    config::Config,
    exit::{Failure, Kind},
};

/// `config check` and `config show` need no daemon.
pub(crate) fn config(verb: &ConfigVerb, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let config = Config::load(path)?;
    match verb {
        ConfigVerb::Check if json => {
            render::raw(&serde_json::json!({ "result": "correct", "path": path }));
        }
        ConfigVerb::Show if json => {
            render::raw(&serde_json::to_value(&config.file).map_err(anyhow::Error::from)?);
        }
        ConfigVerb::Check => println!("{} is correct", path.display()),
        ConfigVerb::Show => {
            let text = toml::to_string(&config.file).map_err(anyhow::Error::from)?;
            print!("{text}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `compare`: databases and directories one after the other, report only (method 2 of spec D6).
pub(crate) fn compare(path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let request = Request::Work(Work::Repair { dry_run: true, database: None });
    let databases = watch::ask(&Config::load(path)?.file.server.socket, request)?;
    let directories = files::compare(None, path)?;
    if json {
        let both = serde_json::json!({ "databases": databases, "directories": directories });
        render::raw(&both);
        let equal = repairs::is_equal(&render::parse::<Vec<_>>(databases)?)
            && files::is_equal(&render::parse::<Vec<_>>(directories)?);
        return Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(Kind::Attention.code()) });
    }
    // Without a database only the directories count.
    let none = databases.as_array().is_some_and(Vec::is_empty);
    let records = if none { ExitCode::SUCCESS } else { repairs::verify(databases, false)? };
    let files = files::verified(directories, false)?;
    Ok(if records == ExitCode::SUCCESS { files } else { records })
}

fn ha_status(
    socket: &Path,
    json: bool,
    check: bool,
    watch: Option<Duration>,
) -> Result<ExitCode, Failure> {
    if let Some(every) = watch {
        return Ok(screen::watch(socket, every, json));
    }
    match client::ask(socket, &Request::Look(Look::Status)) {
        Ok(value) => render::status(value, json, check),
        Err(failure) if check => {
            render::failure(&failure, json);
            Ok(ExitCode::from(3))
        }
        Err(failure) => Err(failure),
    }
}

/// Verbs that the daemon answers.
pub(crate) fn remote(verb: &Verb, path: &Path, json: bool, yes: bool) -> Result<ExitCode, Failure> {
    let config = Config::load(path)?;
    if let Verb::HaStatus { check, watch } = verb {
        return ha_status(&config.file.server.socket, json, *check, *watch);
    }
    let Some(request) = request(verb, yes)? else {
        return Err(Failure::new(Kind::Usage, "this verb needs no daemon"));
    };
    let socket = &config.file.server.socket;
    let takes_its_time = matches!(verb, Verb::Repair { past: None, .. } | Verb::Verify { .. });
    let value =
        if takes_its_time { watch::ask(socket, request)? } else { client::ask(socket, &request)? };
    if let Verb::Repair { dry_run, past, .. } = verb {
        return match past {
            None => repairs::outcomes(value, json, *dry_run),
            Some(PastVerb::List { .. }) => repairs::list(value, json),
            Some(PastVerb::Undo { .. }) => repairs::undone(value, json),
            Some(PastVerb::Files(_)) => Ok(ExitCode::SUCCESS), // asked elsewhere
        };
    }
    if let Verb::Verify { .. } = verb {
        return repairs::verify(value, json);
    }
    if let Verb::Failover { .. } = verb {
        return render::failover(value, json);
    }
    if json {
        render::raw(&value);
        return Ok(ExitCode::SUCCESS);
    }
    match verb {
        Verb::History { .. } => render::history(value)?,
        Verb::Trust(TrustVerb::Show) => render::trust(value)?,
        Verb::License(LicenseVerb::Show) => render::licenses(&value),
        Verb::Conflicts(ConflictsVerb::List { .. }) => render::conflicts(&value),
        Verb::Conflicts(ConflictsVerb::Show { .. }) => render::conflict(&value),
        Verb::Protect(ProtectVerb::Dir(_)) => files::protected(value)?,
        Verb::Protect(_) if value["pattern"].is_object() => render::pattern(&value)?,
        Verb::Protect(_) => render::protected(&value),
        Verb::Barrier { .. } => render::barrier(&value),
        Verb::Daemon
        | Verb::Trust(_)
        | Verb::License(_)
        | Verb::Configure(_)
        | Verb::Update(_)
        | Verb::Unconfigure { .. }
        | Verb::Unprotect(_)
        | Verb::GoStandby
        | Verb::Repair { .. }
        | Verb::Verify { .. }
        | Verb::Compare
        | Verb::Life(_)
        | Verb::Alarms(_)
        | Verb::Witness { .. }
        | Verb::Completions { .. }
        | Verb::Man { .. }
        | Verb::Ntp(_)
        | Verb::Trash(_)
        | Verb::Conflicts(ConflictsVerb::Restore { .. })
        | Verb::HaStatus { .. }
        | Verb::Config(_)
        | Verb::Dbreplication(_)
        | Verb::Sync { .. }
        | Verb::Failover { .. }
        | Verb::Demo { .. } => render::done(&value),
    }
    Ok(ExitCode::SUCCESS)
}

/// The request of a verb, after its confirmation; `None` for verbs that ask nobody.
fn request(verb: &Verb, yes: bool) -> Result<Option<Request>, Failure> {
    if let Some((question, needed)) = question(verb) {
        confirm(yes || !needed, question)?;
    }
    Ok(Some(match verb {
        Verb::Trust(verb) => trust(verb, yes)?,
        Verb::License(LicenseVerb::Show) => Request::Look(Look::Licenses),
        Verb::License(LicenseVerb::Install { files, replace }) => {
            let texts = files.iter().map(|path| license(path)).collect::<Result<_, _>>()?;
            Request::Work(Work::LicenseInstall { texts, replace: *replace })
        }
        Verb::Configure(heartbeat) => Request::Work(Work::Configure {
            interval_seconds: heartbeat.interval,
            missed_count: heartbeat.count,
        }),
        Verb::Update(heartbeat) => Request::Work(Work::Update {
            interval_seconds: heartbeat.interval,
            missed_count: heartbeat.count,
        }),
        Verb::Unconfigure { force } => Request::Work(Work::Unconfigure { force: *force }),
        Verb::Protect(verb) => protect(verb),
        Verb::Barrier { db, timeout } => {
            Request::Barrier { database: db.clone(), timeout_seconds: *timeout }
        }
        Verb::Unprotect(UnprotectVerb::Db { name }) => Request::Unprotect { name: name.clone() },
        Verb::Unprotect(UnprotectVerb::Dir { name }) => {
            Request::UnprotectDirectory { name: name.clone() }
        }
        Verb::Failover { at: Some(at), .. } => Request::Plan { at_unix_ms: Some(*at) },
        Verb::Failover { cancel: true, .. } => Request::Plan { at_unix_ms: None },
        Verb::Failover { dry_run, accept_data_loss, .. } => {
            Request::Work(Work::Failover { dry_run: *dry_run, accept_data_loss: *accept_data_loss })
        }
        Verb::GoStandby => Request::Work(Work::GoStandby),
        Verb::Repair { past: None, dry_run, db } => {
            Request::Work(Work::Repair { dry_run: *dry_run, database: db.clone() })
        }
        Verb::Repair { past: Some(PastVerb::List { db, limit }), .. } => {
            Request::Work(Work::RepairList { database: db.clone(), limit: *limit })
        }
        Verb::Repair { past: Some(PastVerb::Undo { run }), .. } => {
            Request::Work(Work::RepairUndo { run: *run })
        }
        Verb::Verify { db, .. } => {
            Request::Work(Work::Repair { dry_run: true, database: db.clone() })
        }
        Verb::Conflicts(verb) => Request::Work(Work::Conflicts(conflicts(verb))),
        Verb::History { limit } => Request::Look(Look::History { limit: *limit }),
        Verb::HaStatus { .. }
        | Verb::Daemon
        | Verb::Repair { past: Some(PastVerb::Files(_)), .. }
        | Verb::Compare
        | Verb::Life(_)
        | Verb::Alarms(_)
        | Verb::Witness { .. }
        | Verb::Completions { .. }
        | Verb::Man { .. }
        | Verb::Ntp(_)
        | Verb::Trash(_)
        | Verb::Dbreplication(_)
        | Verb::Config(_)
        | Verb::Sync { .. }
        | Verb::Demo { .. } => {
            return Ok(None);
        }
    }))
}

fn protect(verb: &ProtectVerb) -> Request {
    match verb {
        ProtectVerb::Dir(args) => args.request(),
        ProtectVerb::Db { path, name, seed, keep_journal_mode, log_entries, log_bytes } => {
            Request::Protect {
                path: path.clone(),
                name: name.clone(),
                seed: *seed,
                keep_journal_mode: *keep_journal_mode,
                log_entries: *log_entries,
                log_bytes: *log_bytes,
            }
        }
    }
}

/// What is asked before a change, and whether it is asked at all.
fn question(verb: &Verb) -> Option<(&'static str, bool)> {
    match verb {
        Verb::Configure(_) => Some((
            "Configure HA? The standby's application is stopped and its databases become read-only.",
            true,
        )),
        Verb::Unconfigure { force: true } => Some((
            "Unconfigure HA and open the databases here? Is the other server switched off for sure?",
            true,
        )),
        Verb::Unconfigure { force: false } => {
            Some(("Unconfigure HA on both servers? The active's application goes on alone.", true))
        }
        Verb::Failover { cancel: true, .. } => None,
        Verb::Failover { at: Some(_), .. } => {
            Some(("Fail over at that time, without asking again?", true))
        }
        Verb::Failover { dry_run, accept_data_loss: true, .. } => {
            Some(("Take over without the other server's last changes?", !dry_run))
        }
        Verb::Failover { dry_run, .. } => Some(("Hand over to the other server?", !dry_run)),
        Verb::GoStandby => Some((
            "Make this server standby? Its application is stopped; the other stays active.",
            true,
        )),
        Verb::Repair { past: Some(PastVerb::Undo { .. }), .. } => {
            Some(("Write the versions that lost in that repair again?", true))
        }
        Verb::Repair { past: Some(PastVerb::List { .. } | PastVerb::Files(_)), .. } => None,
        Verb::Repair { dry_run, past: None, .. } => Some((
            "Repair? Where records differ the primary's is kept, the other goes to the journal.",
            !dry_run,
        )),
        Verb::Conflicts(ConflictsVerb::Restore { .. }) => {
            Some(("Write the version that lost again?", true))
        }
        Verb::Trust(_)
        | Verb::License(_)
        | Verb::Update(_)
        | Verb::Protect(_)
        | Verb::Unprotect(_)
        | Verb::Barrier { .. }
        | Verb::Verify { .. }
        | Verb::Compare
        | Verb::Life(_)
        | Verb::Alarms(_)
        | Verb::Witness { .. }
        | Verb::Completions { .. }
        | Verb::Man { .. }
        | Verb::Ntp(_)
        | Verb::Trash(_)
        | Verb::Conflicts(_)
        | Verb::HaStatus { .. }
        | Verb::History { .. }
        | Verb::Daemon
        | Verb::Dbreplication(_)
        | Verb::Config(_)
        | Verb::Sync { .. }
        | Verb::Demo { .. } => None,
    }
}

fn license(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Kind::Usage, format!("cannot read {}: {error}", path.display()))
            .hinted("give the license files as you received them")
    })
}

fn conflicts(verb: &ConflictsVerb) -> Conflicts {
    match verb {
        ConflictsVerb::List { db, table, limit } => {
            Conflicts::List { database: db.clone(), table: table.clone(), limit: *limit }
        }
        ConflictsVerb::Show { id } => Conflicts::Show { id: *id },
        ConflictsVerb::Restore { id } => Conflicts::Restore { id: *id },
    }
}

fn trust(verb: &TrustVerb, yes: bool) -> Result<Request, Failure> {
    Ok(match verb {
        TrustVerb::Password(args) => {
            let prompt = "New password of this server's admin user ipicsadmin: ";
            Request::Work(Work::TrustPassword { password: password::read(args, prompt, true)? })
        }
        TrustVerb::Set { address, password: args } => {
            let prompt = format!("Password of the admin user ipicsadmin of {address}: ");
            Request::Work(Work::TrustSet {
                address: address.clone(),
                password: password::read(args, &prompt, false)?,
            })
        }
        TrustVerb::Show => Request::Look(Look::Trust),
        TrustVerb::Delete { local_only: true, .. } => {
            confirm(
                yes,
                "Forget the partner here only? It keeps trusting this server until the same is done there.",
            )?;
            Request::Work(Work::TrustDelete { password: None })
        }
        TrustVerb::Delete { password: args, local_only: false } => {
            confirm(yes, "Delete the trust on both servers?")?;
            let prompt = "Password of the partner's admin user ipicsadmin: ";
            let password = Some(password::read(args, prompt, false)?);
            Request::Work(Work::TrustDelete { password })
        }
    })
}
