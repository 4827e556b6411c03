//! The daemon: start-up and shutdown in reading order. Everything that knows tokio and all of the
//! parts is here; what is decided is decided by the core.

mod addresses;
mod alarms;
mod barrier;
mod certificate;
mod clock;
mod compared;
mod data_link;
mod databases;
mod directories;
mod drill;
mod event;
mod event_loop;
mod execute;
mod files_link;
mod history;
mod hooks;
mod licenses;
mod limits;
mod link;
mod moments;
mod past;
mod patterns;
mod persist;
mod planned;
mod probe;
mod receive;
mod repairs;
mod replication;
mod roles;
pub(crate) mod services;
mod site;
mod socket;
mod trust;
mod verbs;
mod witness;
mod work;

use std::{collections::BTreeMap, sync::Arc};

use ipicsha_core::{
    Input, Node, Shutdown, config::NodeConfig, id::ServerId, time::WallTime, trust::Partner,
};
use ipicsha_link::{Channel, Hello, Identity, Incoming, Listener, ListenerConfig};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    config::Config,
    exit::{Failure, Kind},
    transfer::{Policy, Transfers},
};
use addresses::Addresses;
use data_link::DataQueue;
use databases::{Databases, Surroundings};
use directories::Directories;
use event::Event;
use event_loop::Daemon;
use files_link::FilesQueue;
use link::LinkContext;
use receive::Inboxes;
use roles::RoleChange;
use services::Running;

pub(crate) use addresses::AddressRow;
pub(crate) use alarms::{AlarmsView, Raised, WayRow};
pub(crate) use clock::{monotonic, time_synced, wall_seconds};
pub(crate) use event::{NotCompared, RepairOutcome, Sides};
pub(crate) use history::Entry as HistoryEntry;
pub(crate) use persist::{read as read_state, write_durably};
pub(crate) use planned::PlannedRow;

/// Version told to the partner; both servers must run the same (spec A6).
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Events that may wait; a full queue slows their sources.
const EVENT_QUEUE: usize = 1024;

/// Runs the daemon until it is told to end.
pub(crate) fn run(config: Config) -> Result<(), Failure> {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    runtime.block_on(Box::pin(serve(config)))
}

/// Every line goes to stderr, from where the service manager takes it.
pub(crate) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
}

async fn serve(config: Config) -> Result<(), Failure> {
    let (events_sender, events) = mpsc::channel(EVENT_QUEUE);
    let mut daemon = assemble(config, events_sender.clone())?;
    let socket = socket::bind(&daemon.config.file.server.socket)?;
    tokio::spawn(socket::serve(socket, events_sender.clone()));
    tokio::spawn(signals(events_sender)?);
    tracing::info!(server = daemon.config.file.server.name, version = VERSION, "started");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager is told");
    }
    let transfers = daemon.transfers.clone();
    daemon.run(events).await?;
    transfers.end().await;
    if let Err(error) = std::fs::remove_file(&daemon.config.file.server.socket) {
        tracing::debug!(%error, "the socket is left behind");
    }
    tracing::info!("ended");
    Ok(())
}

/// Builds every part; nothing runs before all of it could be built.
fn assemble(config: Config, events: mpsc::Sender<Event>) -> Result<Daemon, Failure> {
    let server = &config.file.server;
    let (store, state) = persist::Store::open(&server.state_directory)?;
    let now = clock::now();
    let identity = identity(&config, now.wall)?;
    let (incoming_sender, incoming) = mpsc::channel(64);
    let listener = listen(&config, &identity, state.partner.clone(), incoming_sender.clone())?;
    let seed = persist::random().map_err(anyhow::Error::from)?;
    let node = Node::new(node_config(&config, store.server(), &identity), state, seed, now);
    let interval = watch::Sender::new(std::time::Duration::from_secs(1));
    let link_context = LinkContext {
        identity,
        hello: hello(&config, store.server()),
        local: (!config.listen.ip().is_unspecified()).then_some(config.listen.ip()),
        interval: interval.subscribe(),
        events: events.clone(),
    };
    let witness = witness::Witness::start(config.witness.as_ref(), store.server(), &link_context);
    let data_queue = DataQueue::new();
    let databases = protected(&config, &data_queue, &events)?;
    let files_queue = FilesQueue::new(config.file.files.bandwidth_limit.map(|limit| limit.0));
    let directories = watched(&config, &files_queue, &events)?;
    let (roles, service_rows, addresses) = carrying_out(&config, store.server(), &events)?;
    let transfers = transfers(&config);
    tokio::spawn(accept(
        incoming,
        Accepting {
            inboxes: Inboxes { databases: databases.inbox(), directories: directories.inbox() },
            events: events.clone(),
            context: link_context.clone(),
            advertised: advertised(&config, Some(&listener)),
            transfers: transfers.clone(),
        },
    ));
    let mut daemon = Daemon {
        planned: planned::Planned::open(config.state_file("planned.json")),
        history: history::History::new(config.state_file("history.jsonl")),
        alarms: alarms::Alarms::new(&config, now.wall),
        hooks: hooks::Hooks::new(config.file.hooks.directory.clone(), config.hook_limit),
        config,
        node,
        store,
        listener: Some(listener),
        incoming: incoming_sender,
        link_context,
        interval,
        data_queue,
        files_queue,
        link: None,
        databases,
        directories,
        roles,
        service_rows,
        addresses,
        hooked: None,
        events,
        repairs: repairs::Repairs::default(),
        waiting: BTreeMap::new(),
        requests: 0,
        exit: false,
        transfers,
        link_error: None,
        witness,
        split: false,
        restarting: false,
        renewing: None,
    };
    daemon.connect();
    Ok(daemon)
}

fn identity(config: &Config, now: WallTime) -> Result<Arc<Identity>, Failure> {
    let server = &config.file.server;
    Identity::load_or_create(&server.state_directory, &server.name, now.0 / 1000)
        .map(Arc::new)
        .map_err(|error| trust::failure(&error))
}

/// Orders of role changes, and how the services are.
type CarryingOut = (mpsc::Sender<RoleChange>, watch::Receiver<Vec<Running>>, Addresses);

/// The task that carries out role changes, and what it moves: services and addresses.
fn carrying_out(
    config: &Config,
    server: ServerId,
    events: &mpsc::Sender<Event>,
) -> Result<CarryingOut, Failure> {
    let services = services::Services::of(config, server, events.clone());
    let service_rows = services.rows();
    let addresses = Addresses::start(&config.file.addresses).map_err(anyhow::Error::from)?;
    let (roles, role_changes) = mpsc::channel(16);
    tokio::spawn(roles::run(role_changes, services, addresses.clone(), events.clone()));
    Ok((roles, service_rows, addresses))
}

fn node_config(config: &Config, server: ServerId, identity: &Identity) -> NodeConfig {
    NodeConfig {
        server,
        name: config.file.server.name.clone(),
        version: VERSION.into(),
        initialization_timeout: config.initialization_timeout,
        automatic: config.automatic,
        certificate: identity.certificate_der().to_vec(),
        certificate_end: Some(WallTime(identity.not_after().saturating_mul(1000))),
    }
}

/// A damaged conflict journal is kept beside a new one: replication goes on, nothing is lost.
fn journal_notice(journal: &std::path::Path) -> Option<String> {
    match ipicsha_records::set_aside_if_damaged(journal) {
        Ok(None) => None,
        Ok(Some(aside)) => {
            tracing::error!(kept = %aside.display(), "the conflict journal was damaged: a new one is begun");
            Some(format!(
                "the conflict journal was damaged and is kept as {}; a new one is begun: check the disk",
                aside.display()
            ))
        }
        Err(error) => {
            tracing::error!(%error, "the conflict journal cannot be checked");
            Some(format!("the conflict journal cannot be checked: {error}"))
        }
    }
}

fn protected(
    config: &Config,
    queue: &DataQueue,
    events: &mpsc::Sender<Event>,
) -> Result<Databases, Failure> {
    let journal = config.state_file("journal.db");
    let surroundings = Surroundings {
        log: config.file.log.clone(),
        journal_notice: journal_notice(&journal),
        journal,
        data: queue.clone(),
        events: events.clone(),
    };
    let (files, patterns) = verbs::protected_files(config)?;
    let patterns = patterns::Patterns::new(patterns)?;
    Ok(Databases::new(surroundings, files, patterns, config.state_file("compared.json")))
}

fn watched(
    config: &Config,
    queue: &FilesQueue,
    events: &mpsc::Sender<Event>,
) -> Result<Directories, Failure> {
    let files = directories::watched_files(config)?;
    let state = config.state_file("directories");
    Ok(Directories::new(files, state, queue.clone(), events.clone()))
}

/// What this server says first on its connections.
pub(crate) fn hello(config: &Config, server: ServerId) -> Hello {
    Hello {
        protocol: ipicsha_link::PROTOCOL,
        version: VERSION.into(),
        server,
        name: config.file.server.name.clone(),
        channel: Channel::Control,
    }
}

/// Opens port 3444, or whatever is configured.
fn listen(
    config: &Config,
    identity: &Arc<Identity>,
    partner: Option<Partner>,
    incoming: mpsc::Sender<Incoming>,
) -> Result<Listener, Failure> {
    let server = &config.file.server;
    let mut listening = ListenerConfig::new(
        Arc::clone(identity),
        server.name.clone(),
        server.state_directory.clone(),
        incoming,
    );
    listening.partner = partner;
    Listener::bind(config.listen, listening).map_err(|error| trust::failure(&error))
}

/// Where the partner shall connect to; `None` when only the partner can see it.
fn advertised(config: &Config, listener: Option<&Listener>) -> Option<String> {
    let address = config.advertise.or_else(|| listener.map(Listener::local_address))?;
    (!address.ip().is_unspecified()).then(|| address.to_string())
}

/// The partner's `ipicsha sync` reaches what is opened to it, and watched directories of the
/// configuration: those it may change anyway.
fn transfers(config: &Config) -> Transfers {
    let sync = &config.file.sync;
    let watched = config.file.directories.iter().map(|directory| directory.path.clone());
    Transfers::new(Policy {
        server: config.file.server.name.clone(),
        allow: sync.allow.iter().cloned().chain(watched).collect(),
        deletions_max: sync.deletions_max,
    })
}

/// What is needed for what the listener accepts.
struct Accepting {
    events: mpsc::Sender<Event>,
    context: LinkContext,
    advertised: Option<String>,
    inboxes: Inboxes,
    transfers: Transfers,
}

/// Takes what the listener accepts: connections of the partner, and proven trust requests.
async fn accept(mut incoming: mpsc::Receiver<Incoming>, accepting: Accepting) {
    let Accepting { events, context, advertised, inboxes, transfers } = accepting;
    while let Some(incoming) = incoming.recv().await {
        match incoming {
            Incoming::Connection { hello, receiver } => {
                receive::spawn(hello.channel, receiver, events.clone(), inboxes.clone());
            }
            Incoming::Duplex { hello: Hello { channel: Channel::Probe, .. }, duplex } => {
                probe::answer(duplex);
            }
            Incoming::Duplex { hello, duplex } => transfers.spawn(duplex, hello.name),
            Incoming::Trust { introduction, partner, answer } => {
                let own = trust::introduction(&context, advertised.clone(), introduction.action);
                tokio::spawn(trust::answer(partner, own, answer, events.clone()));
            }
        }
    }
}

/// TERM, INT and HUP end the daemon for good, USR1 announces that it comes back.
fn signals(events: mpsc::Sender<Event>) -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::new(Kind::Failed, format!("signals: {error}")))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut restart = listen(SignalKind::user_defined1())?;
    Ok(async move {
        loop {
            let shutdown = tokio::select! {
                _ = terminate.recv() => Shutdown::Stop,
                _ = interrupt.recv() => Shutdown::Stop,
                _ = hangup.recv() => Shutdown::Stop,
                _ = restart.recv() => Shutdown::Restart,
            };
            if events.send(Event::Shutdown(shutdown)).await.is_err() {
                return;
            }
        }
    })
}

/// The facts about this server that do not come from messages.
fn environment(config: &Config) -> [Input; 2] {
    let licenses = licenses::load_readable(&config.state_file("licenses"));
    let synced = time_synced(config.file.time.source);
    [Input::Licenses(licenses), Input::TimeSynced(synced)]
}
