//! `ipicsha witness`: runs a witness, or shows what it is known by.
#![allow(clippy::print_stdout)] // data goes to stdout, talk to stderr

use std::{path::Path, process::ExitCode};

use clap::Subcommand;

use crate::{exit::Failure, witness};

/// What can be asked of a witness.
#[derive(Subcommand)]
pub(super) enum WitnessVerb {
    /// Show the certificate of the witness, and which server of each pair it granted the role last
    Show,
}

pub(super) fn run(
    verb: Option<&WitnessVerb>,
    config: &Path,
    json: bool,
) -> Result<ExitCode, Failure> {
    // Its file is another one than that of a server.
    let is_default = config == Path::new(crate::config::DEFAULT_PATH);
    let path = if is_default { Path::new(witness::DEFAULT_PATH) } else { config };
    match verb {
        None => witness::run(path)?,
        Some(WitnessVerb::Show) => {
            let shown = witness::show(path)?;
            if json {
                println!("{}", serde_json::to_value(&shown).map_err(anyhow::Error::from)?);
                return Ok(ExitCode::SUCCESS);
            }
            println!("Listens on {}", shown.listen);
            println!("Certificate {}", shown.certificate);
            for pair in shown.pairs {
                match pair.granted {
                    Some(granted) => println!(
                        "Pair {}: epoch {} granted to {}{}",
                        pair.name,
                        granted.epoch,
                        granted.certificate,
                        if granted.kept { ", without end: HA ended there alone" } else { "" }
                    ),
                    None => println!("Pair {}: nothing granted yet", pair.name),
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
