//! `ipicsha`: two Linux servers as one high availability pair. Daemon and command line in one.

mod api;
mod cli;
mod config;
mod daemon;
mod demo;
mod exit;
mod memory;
mod pattern;
mod replication;
mod size;
mod transfer;
mod witness;
mod wording;

use std::process::ExitCode;

fn main() -> ExitCode {
    memory::keep_what_is_freed();
    cli::run()
}
