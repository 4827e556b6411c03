//! `ipicsha dbreplication`: how the records of each database stand, on either server (spec C5).
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::{path::Path, process::ExitCode};

use clap::Subcommand;

use super::{client, render};
use crate::{
    api::Request,
    config::Config,
    exit::{Failure, Kind},
    replication::{Replication, RuntimeState},
    wording,
};

#[derive(Subcommand)]
pub(super) enum ReplicationVerb {
    /// Rows, queue, conflicts and mismatches of every table. Counts on a connection of its own in
    /// short reads; what is not counted within 20 s per database is shown as `>=`
    Status {
        /// Only this database
        #[arg(long)]
        db: Option<String>,
    },
    /// State number of every database on both servers: 0 being set up, 1 incomplete, 2 good,
    /// 3 suspect, 4 dropped. Exit 0 when all are 2, else 7
    Runtimestate,
}

pub(super) fn run(verb: &ReplicationVerb, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let config = Config::load(path)?;
    let request = match verb {
        ReplicationVerb::Status { db } => Request::Replication { database: db.clone() },
        ReplicationVerb::Runtimestate => Request::RuntimeState,
    };
    let value = client::ask(&config.file.server.socket, &request)?;
    if json {
        render::raw(&value);
    }
    let mut code = ExitCode::SUCCESS;
    let text = match verb {
        ReplicationVerb::Status { .. } => {
            wording::replication::status(&render::parse::<Replication>(value)?)
        }
        ReplicationVerb::Runtimestate => {
            let state: RuntimeState = render::parse(value)?;
            if !state.good {
                code = ExitCode::from(Kind::Attention.code());
            }
            wording::replication::runtime_state(&state)
        }
    };
    if !json {
        print!("{text}");
    }
    Ok(code)
}
