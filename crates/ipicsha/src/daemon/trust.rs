//! The trust exchange from both ends: the core decides whether, `ipicsha-link` proves who.

use std::{net::SocketAddr, time::Duration};

use ipicsha_core::{
    admin::{AdminCommand, AdminReply, Refusal},
    trust::Partner,
};
use ipicsha_link::{Error, Introduction, PORT_DEFAULT, TrustAction};
use tokio::sync::{mpsc, oneshot};

use super::{event::Event, link::LinkContext};
use crate::exit::{Failure, Kind};

/// The whole exchange, with the partner's time to store its decision.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(40);

/// An error of the link as an administrator reads it.
pub(crate) fn failure(error: &Error) -> Failure {
    let kind = if matches!(error, Error::PasswordWrong { .. } | Error::TrustRefused { .. }) {
        Kind::NotPermitted
    } else if matches!(error, Error::Unreachable { .. }) {
        Kind::Unreachable
    } else if matches!(error, Error::Timeout { .. }) {
        Kind::TimedOut
    } else {
        Kind::Failed
    };
    let failure = Failure::new(kind, error.to_string());
    match error.next_step() {
        Some(next_step) => failure.hinted(next_step),
        None => failure,
    }
}

/// A refusal of the core as an administrator reads it.
pub(crate) fn refused(refusal: &Refusal) -> Failure {
    let kind = match refusal {
        Refusal::NotTrusted => Kind::NotPermitted,
        Refusal::PartnerUnreachable(_) => Kind::Unreachable,
        Refusal::Unconfirmed | Refusal::NotNoted => Kind::TimedOut,
        Refusal::RolledBack(_)
        | Refusal::NotClosed(_)
        | Refusal::PartnerFailed(_)
        | Refusal::FailedAgain(_) => Kind::Failed,
        Refusal::PauseLimit => Kind::Usage,
        Refusal::AlreadyTrusted(_)
        | Refusal::Configured
        | Refusal::NotConfigured
        | Refusal::License(_)
        | Refusal::PartnerLicense(_)
        | Refusal::SameRole(_)
        | Refusal::RoleFixed
        | Refusal::VersionDiffers { .. }
        | Refusal::ClocksApart { .. }
        | Refusal::ClocksUnknown
        | Refusal::TimeNotSynced(_)
        | Refusal::Preflight(_)
        | Refusal::NotActive(_)
        | Refusal::Busy
        | Refusal::NotSplit
        | Refusal::Split
        | Refusal::NotLostYet(_)
        | Refusal::DataLoss { .. }
        | Refusal::NotInBackup
        | Refusal::NotFailed
        | Refusal::AlreadyActive
        | Refusal::NotReady(_)
        | Refusal::NotPaused
        | Refusal::NoRight(_)
        | Refusal::KeptByWitness
        | Refusal::Yields(_)
        | Refusal::ServiceDown { .. } => Kind::Refused,
    };
    Failure::new(kind, refusal.to_string()).hinted(&refusal.next_step())
}

/// Asks the core from a task.
pub(crate) async fn ask(
    events: &mpsc::Sender<Event>,
    command: AdminCommand,
) -> Result<AdminReply, Failure> {
    ask_plainly(events, command).await?.map_err(|refusal| refused(&refusal))
}

/// The same for those to whom the refusals differ.
pub(crate) async fn ask_plainly(
    events: &mpsc::Sender<Event>,
    command: AdminCommand,
) -> Result<Result<AdminReply, Refusal>, Failure> {
    let ending = || Failure::new(Kind::Unreachable, "the daemon is ending");
    let (sender, receiver) = oneshot::channel();
    events.send(Event::Ask(command, sender)).await.map_err(|_| ending())?;
    receiver.await.map_err(|_| ending())
}

/// What this server tells of itself.
pub(crate) fn introduction(
    context: &LinkContext,
    listen_address: Option<String>,
    action: TrustAction,
) -> Introduction {
    Introduction {
        protocol: context.hello.protocol,
        version: context.hello.version.clone(),
        server: context.hello.server,
        name: context.hello.name.clone(),
        listen_address,
        action,
    }
}

/// `trust set` and `trust delete`: proves the password to the server at `address` and pins, or
/// forgets, its certificate on both sides (spec A1, A2).
pub(crate) async fn request(
    context: LinkContext,
    advertised: Option<String>,
    address: String,
    password: String,
    action: TrustAction,
    events: mpsc::Sender<Event>,
) -> Result<Partner, Failure> {
    let allowed = match action {
        TrustAction::Set => AdminCommand::AskTrust,
        TrustAction::Delete => AdminCommand::AskDeleteTrust,
    };
    ask(&events, allowed).await?;
    let target = resolve(&address).await?;
    let own = introduction(&context, advertised, action);
    let exchange = ipicsha_link::request(
        target,
        context.local,
        &context.identity,
        &password,
        own,
        EXCHANGE_LIMIT,
    );
    let partner = Box::pin(exchange).await.map_err(|error| failure(&error))?;
    let command = match action {
        TrustAction::Set => AdminCommand::SetTrust(partner.clone()),
        TrustAction::Delete => AdminCommand::DeleteTrust,
    };
    ask(&events, command).await?;
    Ok(partner)
}

/// `IP`, `IP:PORT`, `name` or `name:PORT`; the port is 3444 unless given.
async fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let unknown = |why: String| {
        Failure::new(Kind::Usage, format!("{address:?} is no address of a server: {why}"))
            .hinted("give it as IP or IP:PORT, for example 10.0.0.2")
    };
    if let Ok(target) = address.parse() {
        return Ok(target);
    }
    if let Ok(ip) = address.parse() {
        return Ok(SocketAddr::new(ip, PORT_DEFAULT));
    }
    let with_port = if address.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:{PORT_DEFAULT}")
    };
    let mut found =
        tokio::net::lookup_host(with_port).await.map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("it has no address".into()))
}

/// Answers a partner that has proven this server's password.
pub(crate) async fn answer(
    partner: Partner,
    own: Introduction,
    answer: oneshot::Sender<Result<Introduction, String>>,
    events: mpsc::Sender<Event>,
) {
    let command = match own.action {
        TrustAction::Set => AdminCommand::SetTrust(partner),
        TrustAction::Delete => AdminCommand::DeleteTrust,
    };
    let result = match ask(&events, command).await {
        Ok(_) => Ok(own),
        Err(failure) => Err(failure.to_string()),
    };
    let _ = answer.send(result); // the exchange timed out
}
