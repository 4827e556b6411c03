//! `alarms`: what is raised on this server, who knows of it, and whether word of it arrives.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::{path::Path, process::ExitCode};

use clap::Subcommand;

use super::{client, render};
use crate::{
    api::{AlarmsRequest, Request},
    config::Config,
    daemon::{AlarmsView, Raised, WayRow},
    exit::{Failure, Kind},
    wording,
};

#[derive(Subcommand)]
pub(super) enum AlarmsVerb {
    /// Show the alarms that are raised, and how each way of telling them goes
    List,
    /// Say that you know of an alarm: it is not sent again
    Ack {
        /// Its number in the list; all without one
        id: Option<u64>,
        /// For everybody who looks at the list
        #[arg(long)]
        note: Option<String>,
    },
    /// Send a test on every way: exit 0, or 7 where one does not arrive
    Test,
}

pub(super) fn run(verb: &AlarmsVerb, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let request = match verb {
        AlarmsVerb::List => AlarmsRequest::List,
        AlarmsVerb::Ack { id, note } => AlarmsRequest::Acknowledge { id: *id, note: note.clone() },
        AlarmsVerb::Test => AlarmsRequest::Test,
    };
    let socket = Config::load(path)?.file.server.socket;
    let value = client::ask(&socket, &Request::Alarms(request))?;
    if json {
        render::raw(&value);
    }
    match verb {
        AlarmsVerb::List if !json => list(&render::parse(value)?),
        AlarmsVerb::Ack { .. } if !json => {
            let count = value["acknowledged"].as_array().map_or(0, Vec::len);
            println!("{count} acknowledged");
        }
        AlarmsVerb::List | AlarmsVerb::Ack { .. } => {}
        AlarmsVerb::Test => return tested(&render::parse::<Vec<_>>(value)?, json),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(view: &AlarmsView) {
    for raised in &view.alarms {
        print!("{}", entry(raised));
    }
    if view.alarms.is_empty() {
        println!("no alarm is raised on this server");
    }
    for way in &view.ways {
        println!("{}", way_line(way));
    }
    if view.ways.is_empty() {
        println!("alarms are told to nobody: see [alarms] in the configuration file");
    }
}

/// One alarm, with what to do.
fn entry(raised: &Raised) -> String {
    let Raised { id, since_unix_ms, alarm, acknowledged_unix_ms, note, .. } = raised;
    let critical = if alarm.is_critical() { "CRITICAL " } else { "" };
    let mut text =
        format!("{id:>4}  {}  {critical}{}\n", wording::time(*since_unix_ms), alarm.text());
    if let Some(at) = acknowledged_unix_ms {
        let note = note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
        text += &format!("      acknowledged {}{note}\n", wording::time(*at));
    } else if raised.told_unix_ms.is_none() {
        text += "      the partner tells it\n";
    } else if !raised.arrived {
        text += "      word of it has not arrived anywhere yet\n";
    }
    text
}

fn way_line(row: &WayRow) -> String {
    let WayRow { way, error, sent } = row;
    match error {
        Some(error) => format!("{way}: does not arrive: {error}"),
        None if *sent == 0 => format!("{way}: nothing was sent yet"),
        None => format!("{way}: {sent} sent"),
    }
}

fn tested(rows: &[WayRow], json: bool) -> Result<ExitCode, Failure> {
    if rows.is_empty() {
        return Err(Failure::new(Kind::Refused, "alarms of this server are told to nobody")
            .hinted("give a webhook or an e-mail address in [alarms] of the configuration file"));
    }
    let mut all = true;
    for WayRow { way, error, .. } in rows {
        all &= error.is_none();
        if !json {
            match error {
                None => println!("ok    {way}"),
                Some(error) => println!("FAIL  {way}: {error}"),
            }
        }
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(Kind::Attention.code()) })
}
