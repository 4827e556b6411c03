//! Verbs of the life of a pair beyond failover: fallback, recovery, maintenance, and the machine itself.

use std::process::ExitCode;

use clap::Subcommand;
use ipicsha_core::{machine, state::NodeState};

use super::{Cli, client, confirm, render};
use crate::{
    api::{LifeWork, Request, Work},
    config::Config,
    exit::Failure,
};

#[derive(Subcommand)]
pub(super) enum LifeVerb {
    /// Make the primary active again, with nothing lost (run it on the active secondary)
    Fallback {
        /// Show the checks and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Start again what failed, on both servers (state: Running in Failed Mode)
    Recover,
    /// Suspend HA for maintenance: no role changes by itself until it ends or `resume`
    Pause {
        /// Why, for everybody who looks at the status
        #[arg(long)]
        reason: String,
        /// For how long: 90s, 30m, 2h, at most 7d
        #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = span_of)]
        span: u64,
    },
    /// End a pause
    Resume,
    /// Show every change of state that can happen, and why
    States {
        /// As a Mermaid state diagram
        #[arg(long)]
        mermaid: bool,
    },
}

/// A span of time as people write it, in seconds.
fn span_of(text: &str) -> Result<u64, String> {
    let wrong = || "write it as 90s, 30m, 2h or 1d".to_owned();
    let at = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

pub(super) fn run(verb: &LifeVerb, cli: &Cli) -> Result<ExitCode, Failure> {
    let (question, work) = match verb {
        LifeVerb::States { mermaid } => {
            states(*mermaid);
            return Ok(ExitCode::SUCCESS);
        }
        LifeVerb::Fallback { dry_run } => (
            (!dry_run).then_some("Hand over to the primary?"),
            LifeWork::Fallback { dry_run: *dry_run },
        ),
        LifeVerb::Recover => (Some("Start again what failed, on both servers?"), LifeWork::Recover),
        LifeVerb::Pause { reason, span } => (
            Some("Suspend HA? Nothing takes over meanwhile, whatever fails."),
            LifeWork::Pause { reason: reason.clone(), seconds: *span },
        ),
        LifeVerb::Resume => (None, LifeWork::Resume),
    };
    if let Some(question) = question {
        confirm(cli.yes, question)?;
    }
    let config = Config::load(&cli.config)?;
    let value = client::ask(&config.file.server.socket, &Request::Work(Work::Life(work)))?;
    if cli.json {
        render::raw(&value);
        return Ok(ExitCode::SUCCESS);
    }
    if let LifeVerb::Fallback { .. } = verb {
        return render::failover(value);
    }
    render::done(&value);
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)] // it is what was asked for
fn states(mermaid: bool) {
    if mermaid {
        print!("{}", machine::mermaid());
        return;
    }
    let list = |states: &[NodeState]| {
        let names: Vec<String> = states.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    for change in machine::CHANGES {
        println!("{}\n  -> {}\n  {}\n", list(change.from), list(change.to), change.cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_with_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(span_of(text), Ok(seconds));
        }
        for bad in ["", "30", "m", "-1m", "1.5h", "99999999999999999999d", "5w"] {
            assert!(span_of(bad).is_err(), "{bad}");
        }
    }
}
