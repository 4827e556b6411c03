//! Verbs of the life of a pair beyond failover: fallback, recovery, maintenance, and the machine itself.

use std::process::ExitCode;

use clap::Subcommand;
use ipicsha_core::{machine, state::NodeState};

use super::{Cli, client, confirm, render};
use crate::{
    api::{LifeWork, Look, Request, ServiceOrder, ServiceRow, Work},
    config::Config,
    exit::Failure,
    wording,
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
    /// Move the service to the partner and back, and measure both ways (run it on the active server)
    Drill {
        /// Seconds the partner serves meanwhile
        #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=3600))]
        stay: u64,
    },
    /// Look at both servers and the link between them: round trip, bandwidth, certificates, clocks,
    /// licenses, replication, services; exit 0, or 7
    Check,
    /// The certificate of this server
    #[command(subcommand)]
    Certificate(CertificateVerb),
    /// Start, stop and look at the services of this server
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Show every change of state that can happen, and why
    States {
        /// As a Mermaid state diagram
        #[arg(long)]
        mermaid: bool,
    },
}

#[derive(Subcommand)]
pub(super) enum CertificateVerb {
    /// Make a new key and certificate for this server, valid for three years, while everything goes on:
    /// the partner knows both until the new one is used
    Renew,
}

#[derive(Subcommand)]
pub(super) enum ServiceVerb {
    /// Start a service; on a standby: its services were mended and may run again
    Start {
        /// Its name; all of them without one
        name: Option<String>,
    },
    /// Stop a service: it stays stopped until it is started, or the role changes
    Stop {
        /// Its name
        name: String,
    },
    /// Stop a service and start it again
    Restart {
        /// Its name
        name: String,
    },
    /// Stop all services; the role stays
    StopAll,
    /// Start all services
    StartAll,
    /// Show the services
    Status,
}

impl ServiceVerb {
    /// What is asked of the daemon; `None`: only to look.
    fn order(&self) -> Option<ServiceOrder> {
        match self {
            Self::Start { name } => Some(ServiceOrder::Start { name: name.clone() }),
            Self::Stop { name } => Some(ServiceOrder::Stop { name: Some(name.clone()) }),
            Self::Restart { name } => Some(ServiceOrder::Restart { name: Some(name.clone()) }),
            Self::StopAll => Some(ServiceOrder::Stop { name: None }),
            Self::StartAll => Some(ServiceOrder::Start { name: None }),
            Self::Status => None,
        }
    }
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
        LifeVerb::Service(verb) => return service(verb, cli),
        LifeVerb::Check => return check(cli),
        LifeVerb::Drill { stay } => return drill(*stay, cli),
        LifeVerb::Certificate(CertificateVerb::Renew) => return renew(cli),
        LifeVerb::States { mermaid } => {
            states(*mermaid, cli.json);
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
    if let LifeVerb::Fallback { .. } = verb {
        return render::failover(value, cli.json);
    }
    if cli.json {
        render::raw(&value);
        return Ok(ExitCode::SUCCESS);
    }
    render::done(&value);
    Ok(ExitCode::SUCCESS)
}

fn drill(stay_seconds: u64, cli: &Cli) -> Result<ExitCode, Failure> {
    confirm(
        cli.yes,
        "Move the service to the partner and back? Its users are disconnected twice.",
    )?;
    let config = Config::load(&cli.config)?;
    let work = Work::Drill { stay_seconds };
    let value = client::ask(&config.file.server.socket, &Request::Work(work))?;
    if cli.json {
        render::raw(&value);
    } else {
        render::drill(&value);
    }
    Ok(ExitCode::SUCCESS)
}

fn renew(cli: &Cli) -> Result<ExitCode, Failure> {
    confirm(cli.yes, "Make a new certificate for this server? Nothing stops for it.")?;
    let config = Config::load(&cli.config)?;
    let request = Request::Work(Work::CertificateRenew);
    let value = client::ask(&config.file.server.socket, &request)?;
    if cli.json {
        render::raw(&value);
    } else {
        render::done(&value);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(cli: &Cli) -> Result<ExitCode, Failure> {
    let config = Config::load(&cli.config)?;
    let value = client::ask(&config.file.server.socket, &Request::Work(Work::Site))?;
    if cli.json {
        render::raw(&value);
    }
    render::site(&value, cli.json)
}

fn service(verb: &ServiceVerb, cli: &Cli) -> Result<ExitCode, Failure> {
    let question = match verb {
        ServiceVerb::Stop { .. } | ServiceVerb::StopAll | ServiceVerb::Restart { .. } => {
            Some("Stop it? Its users are disconnected; nothing takes over for them.")
        }
        ServiceVerb::Start { .. } | ServiceVerb::StartAll | ServiceVerb::Status => None,
    };
    if let Some(question) = question {
        confirm(cli.yes, question)?;
    }
    let config = Config::load(&cli.config)?;
    let socket = &config.file.server.socket;
    let Some(order) = verb.order() else {
        let mut value = client::ask(socket, &Request::Look(Look::Status))?;
        let services = value["services"].take();
        if cli.json {
            render::raw(&services);
        } else {
            service_lines(&render::parse::<Vec<ServiceRow>>(services)?);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let value = client::ask(socket, &Request::Work(Work::Service(order)))?;
    if cli.json {
        render::raw(&value);
    } else {
        render::done(&value);
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)] // it is what was asked for
fn service_lines(rows: &[ServiceRow]) {
    for row in rows {
        println!("{}", wording::service_line(row));
    }
    if rows.is_empty() {
        println!("no service is configured");
    }
}

#[allow(clippy::print_stdout)] // it is what was asked for
fn states(mermaid: bool, json: bool) {
    if json {
        let changes: Vec<_> = machine::CHANGES
            .iter()
            .map(|change| {
                serde_json::json!({ "from": change.from, "to": change.to, "cause": change.cause })
            })
            .collect();
        return render::raw(&serde_json::json!(changes));
    }
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
