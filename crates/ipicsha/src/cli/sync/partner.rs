//! Transfers with the other server of the pair.
//!
//! Decides which operands are there, and connects. Whom this server trusts, and with which key it
//! proves itself, stands in the state directory of its daemon, which need not run.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use ipicsha_core::{id::ServerId, trust::Partner};
use ipicsha_files::sync::{Exit, Options, Outcome, wire::Half};
use ipicsha_link::{Channel, Dial, Duplex, Hello, Identity, connect_duplex};

use super::{
    Refused,
    options::{Link, Wanted},
    remote::Operand,
    render::{Direction, Renderer},
};
use crate::{
    config::Config,
    daemon,
    exit::Failure,
    transfer::{self, Job},
};

/// Where everything is.
pub(super) enum Route {
    /// On this machine.
    Here { sources: Vec<Vec<u8>>, destination: Option<Vec<u8>> },
    /// One side is the partner's.
    Partner(Box<There>),
}

/// A transfer with the partner.
pub(super) struct There {
    server: Server,
    theirs: Half,
    ours: Vec<Vec<u8>>,
}

/// This server, as far as it is needed to reach its partner.
struct Server {
    config: Config,
    id: ServerId,
    partner: Partner,
}

impl Route {
    pub(super) fn direction(&self) -> Direction {
        match self {
            Self::Here { .. } => Direction::Here,
            Self::Partner(there) => match there.theirs {
                Half::Receive { .. } => Direction::There,
                Half::Send { .. } | Half::List { .. } => Direction::FromThere,
            },
        }
    }
}

fn start(failure: &Failure) -> Refused {
    Refused::new(Exit::Start, failure.to_string())
}

/// Finds out what the names before the colons stand for. Paths of this machine need nothing.
pub(super) fn route(wanted: &Wanted, config: &Path) -> Result<Route, Refused> {
    let named = wanted.sources.iter().chain(&wanted.destination);
    let servers: Vec<&str> = named
        .filter_map(|operand| match operand {
            Operand::Remote { server, .. } => Some(server.as_str()),
            Operand::Local(_) => None,
        })
        .collect();
    let Some(first) = servers.first() else {
        return Ok(Route::Here {
            sources: wanted.sources.iter().map(path).collect(),
            destination: wanted.destination.as_ref().map(path),
        });
    };
    let file = Config::load(config).map_err(|failure| start(&failure))?;
    let own = file.file.server.name.clone();
    let state = daemon::read_state(&file.file.server.state_directory);
    let state = state.map_err(|failure| start(&failure))?;
    let partner = state.as_ref().and_then(|(_, state)| state.partner.as_ref());
    let is_there = |server: &str| server == "partner" || partner.is_some_and(|p| p.name == server);
    for server in &servers {
        if *server != own && !is_there(server) {
            return Err(unknown(server, &own, partner));
        }
    }
    let there =
        |operand: &Operand| matches!(operand, Operand::Remote { server, .. } if *server != own);
    let sources_there = wanted.sources.iter().filter(|source| there(source)).count();
    let destination_there = wanted.destination.as_ref().is_some_and(there);
    let (sources, destination) =
        (wanted.sources.iter().map(path).collect(), wanted.destination.as_ref().map(path));
    if sources_there == 0 && !destination_there {
        return Ok(Route::Here { sources, destination });
    }
    if sources_there > 0 && destination_there {
        return Err(Refused::usage("source and destination cannot both be on the partner"));
    }
    if sources_there > 0 && sources_there < wanted.sources.len() {
        return Err(Refused::usage("all sources must be on the same server"));
    }
    let Some((id, Some(partner))) = state.map(|(id, state)| (id, state.partner)) else {
        return Err(no_trust(first));
    };
    let (theirs, ours) = match destination {
        Some(destination) if destination_there => (Half::Receive { destination }, sources),
        Some(destination) if !wanted.options.list_only => {
            (Half::Send { sources }, vec![destination])
        }
        Some(_) | None => (Half::List { sources }, Vec::new()),
    };
    let server = Server { config: file, id, partner };
    Ok(Route::Partner(Box::new(There { server, theirs, ours })))
}

fn path(operand: &Operand) -> Vec<u8> {
    match operand {
        Operand::Local(path) | Operand::Remote { path, .. } => path.clone(),
    }
}

fn unknown(server: &str, own: &str, partner: Option<&Partner>) -> Refused {
    let known = match partner {
        Some(partner) => format!(
            "this is \"{own}\", its partner is \"{0}\": write {0}:/PATH or partner:/PATH",
            partner.name
        ),
        None => format!("this is \"{own}\", and it trusts no partner yet: `ipicsha trust set`"),
    };
    let text = format!(
        "the server \"{server}\" is not known\nnext: {known} (a path with a colon is written ./NAME)"
    );
    Refused::new(Exit::Start, text)
}

fn no_trust(server: &str) -> Refused {
    let text = format!(
        "\"{server}\" cannot be reached: this server trusts no partner\n\
         next: set trust with `ipicsha trust set ADDRESS`"
    );
    Refused::new(Exit::Start, text)
}

/// Connects, and runs the transfer to its end.
pub(super) fn transfer(
    there: There,
    options: &Options,
    link: Link,
    renderer: &Renderer,
    given_up: &Arc<AtomicBool>,
) -> Result<Outcome, Refused> {
    let There { server, theirs, ours } = there;
    let duplex = connect(&server, link)?;
    // Over a network differences are worth their while.
    let whole_file = options.whole_file.or(Some(false));
    let options = Options { whole_file, ..options.clone() };
    let job = Job {
        partner: &server.partner.name,
        theirs,
        ours,
        options: &options,
        interest: renderer.interest(),
        compress: link.compress,
        silence_max: link.silence_max,
        given_up: Arc::clone(given_up),
    };
    Ok(transfer::ask(&job, duplex, renderer))
}

fn connect(server: &Server, link: Link) -> Result<Duplex, Refused> {
    let Server { config, id, partner } = server;
    let refused = |error: &ipicsha_link::Error| {
        let fatal = transfer::fatal(error);
        Refused::new(fatal.exit, fatal.message)
    };
    let identity = Identity::load(&config.file.server.state_directory);
    let identity = identity.map_err(|error| refused(&error))?.ok_or_else(|| {
        Refused::new(Exit::Start, "this server has no key yet\nnext: start its daemon once")
    })?;
    let target = partner.address.parse().map_err(|_| {
        let text = format!(
            "the address of the partner, {:?}, cannot be used\nnext: set trust again",
            partner.address
        );
        Refused::new(Exit::Start, text)
    })?;
    let hello = Hello { channel: Channel::Sync, ..daemon::hello(config, *id) };
    let dial = Dial {
        target,
        local: (!config.listen.ip().is_unspecified()).then_some(config.listen.ip()),
        partner,
        identity: &identity,
        hello,
        timeout: link.connect_max,
        user_timeout: Some(link.silence_max),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Refused::new(Exit::Socket, format!("cannot prepare the connection: {error}"))
    })?;
    runtime.block_on(connect_duplex(&dial)).map_err(|error| refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_server_is_answered_with_those_that_are_known() {
        let partner = Partner {
            server: ServerId(2),
            name: "bravo".into(),
            address: "192.0.2.1:3444".into(),
            certificate: Vec::new(),
            next_certificate: None,
        };
        let refused = unknown("charlie", "alpha", Some(&partner));
        assert_eq!(refused.exit, Exit::Start);
        for word in ["\"charlie\"", "\"alpha\"", "bravo:/PATH", "partner:/PATH"] {
            assert!(refused.message.contains(word), "{}", refused.message);
        }
        assert!(unknown("charlie", "alpha", None).message.contains("trust set"));
    }
}
