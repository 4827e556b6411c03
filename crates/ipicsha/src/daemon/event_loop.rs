//! One task owns the core: take an event, let the core decide, carry out what it says, sleep until
//! it wants to be called again.

use std::{collections::BTreeMap, time::Duration};

use ipicsha_core::{
    Input, Node, Shutdown,
    admin::{AdminReply, Refusal},
    id::RequestId,
    message::Control,
    state::Role,
};
use ipicsha_link::{Incoming, Listener};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    addresses::{Addresses, Right},
    alarms::Alarms,
    clock,
    data_link::DataQueue,
    databases::Databases,
    directories::Directories,
    environment,
    event::Event,
    files_link::FilesQueue,
    history::History,
    hooks::Hooks,
    link::{Link, LinkContext},
    persist::Store,
    planned::Planned,
    repairs::Repairs,
    roles::RoleChange,
    services::Running,
    witness::Witness,
};
use crate::{config::Config, exit::Failure, transfer::Transfers};

/// Databases and clock state are measured this often even when nothing happens.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Records that wait for longer than this go before files (spec C3).
const RECORDS_WAIT: Duration = Duration::from_secs(1);
/// An orderly end that takes longer is cut short.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Who waits for the core's answer to a request.
pub(crate) type Waiter = oneshot::Sender<Result<AdminReply, Refusal>>;

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) config: Config,
    pub(crate) node: Node,
    pub(crate) store: Store,
    /// None while the certificate is being changed.
    pub(crate) listener: Option<Listener>,
    pub(crate) incoming: mpsc::Sender<Incoming>,
    pub(crate) link_context: LinkContext,
    pub(crate) interval: watch::Sender<Duration>,
    pub(crate) data_queue: DataQueue,
    pub(crate) files_queue: FilesQueue,
    pub(crate) link: Option<Link>,
    pub(crate) databases: Databases,
    pub(crate) directories: Directories,
    pub(crate) roles: mpsc::Sender<RoleChange>,
    pub(crate) service_rows: watch::Receiver<Vec<Running>>,
    pub(crate) addresses: Addresses,
    pub(crate) planned: Planned,
    pub(crate) history: History,
    pub(crate) alarms: Alarms,
    pub(crate) hooks: Hooks,
    /// Role and epoch that hooks were last told of.
    pub(crate) hooked: Option<(Role, u64)>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) repairs: Repairs,
    pub(crate) waiting: BTreeMap<RequestId, Waiter>,
    pub(crate) requests: u64,
    pub(crate) exit: bool,
    /// Transfers of the partner's `ipicsha sync`.
    pub(crate) transfers: Transfers,
    /// Why there is no connection to the partner, as last seen.
    pub(crate) link_error: Option<String>,
    pub(crate) witness: Witness,
    /// Who waits for the certificate to be changed, which is done between two events.
    /// Both servers were active when the addresses were looked at last.
    pub(crate) split: bool,
    /// It ends to come back at once.
    pub(crate) restarting: bool,
    pub(crate) renewing: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl Daemon {
    /// Runs until the core says that the daemon may end.
    pub(crate) async fn run(&mut self, mut events: mpsc::Receiver<Event>) -> Result<(), Failure> {
        for input in environment(&self.config) {
            self.node.handle(clock::now(), input);
        }
        self.measure();
        self.execute_all().await;
        let mut ticks = interval(MEASURE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ends = None;
        while !self.exit {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                Some(event) = events.recv() => {
                    if matches!(event, Event::Shutdown(Shutdown::Stop)) {
                        ends = ends.or(Some(Instant::now() + END_LIMIT));
                    }
                    self.apply(event);
                    if let Some(done) = self.renewing.take() {
                        let _ = done.send(self.renew().await); // the command line went away
                    }
                }
                () = sleep_until(wake) => self.node.handle_timeout(clock::now()),
                _ = ticks.tick() => self.measure(),
            }
            self.execute_all().await;
            if ends.is_some_and(|limit| Instant::now() >= limit) {
                tracing::error!("the orderly end takes too long and is cut short");
                break;
            }
        }
        self.end().await;
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let far = Duration::from_secs(3600);
        let ahead = self.node.poll_timeout().map_or(far, |(at, _)| at.since(clock::now().mono));
        Instant::now() + ahead
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Request(request, answer) => self.handle_request(request, answer),
            Event::Ask(command, waiter) => self.ask(command, waiter),
            Event::Node(input) => self.handle_node(input),
            Event::Control(Control::RepairRefused { run, database, cause }) => match database {
                Some(database) => self.repair_ended(run, &database, Err(cause)),
                None => self.repair_interrupted(run, &cause),
            },
            Event::Control(Control::Databases { list, more }) => {
                self.partner_databases(list, more);
            }
            Event::Control(control) => self.input(Input::Control(Box::new(control))),
            Event::Data(data) => {
                if let Some(name) = self.databases.receive(&data) {
                    self.adopt(&name);
                }
            }
            Event::ControlUp => self.input(Input::LinkUp),
            Event::DataLink(up) => self.databases.set_link(up),
            Event::FilesLink(up) => self.directories.set_link(up),
            Event::Directory(status) => {
                self.directories.update(*status);
                self.input(Input::Directories(self.directories.reports()));
            }
            Event::LinkTrouble(trouble) => self.link_error = trouble,
            Event::TooLarge(database) => self.databases.hold_too_large(&database),
            Event::Inspected(database, inspection) => {
                self.databases.inspected(&database, inspection)
            }
            Event::NotRemoved(database, cause) => self.databases.not_removed(&database, cause),
            Event::Records(database, event) => self.handle_records(&database, event),
            Event::RepairEnded { run, database, result } => {
                if let Err(cause) = &result {
                    let (database, cause) = (Some(database.clone()), cause.clone());
                    self.send(Control::RepairRefused { run, database, cause });
                }
                self.repair_ended(run, &database, result);
            }
            Event::RepairUndone(report) => {
                let ipicsha_records::UndoReport { run, database, restored, skipped, .. } = report;
                let event = ipicsha_core::Event::RepairUndone { run, database, restored, skipped };
                self.record(event);
            }
            Event::FilesAllowed(request, answer) => self.files_request_now(request, answer),
            Event::Happened(event) => self.record(event),
            Event::Planned(result) => self.planned_ended(result),
            Event::Repair(request, waiter) => self.start_repair(request, waiter),
            Event::Protect(file, inspection, answer) => {
                let result = self.protect(file, inspection);
                let _ = answer.send(result); // the command line went away
            }
            Event::ProtectPattern(file, outcome, answer) => {
                let result = self.protect_pattern(file, *outcome);
                let _ = answer.send(result); // the command line went away
            }
            Event::Searched(outcome) => self.searched(*outcome),
            Event::LimitsSet(file, answer) => {
                let result = self.keep_limits(file);
                let _ = answer.send(result); // the command line went away
            }
            Event::LicensesChanged => {
                environment(&self.config).into_iter().for_each(|input| self.input(input));
            }
            Event::Renew(done) => self.renewing = Some(done),
            Event::Shutdown(shutdown) => self.shut_down(shutdown),
        }
    }

    fn shut_down(&mut self, shutdown: Shutdown) {
        self.restarting = shutdown == Shutdown::Restart;
        self.input(Input::Shutdown(shutdown));
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.node.handle(clock::now(), input);
    }

    fn handle_records(&mut self, database: &str, event: ipicsha_records::Event) {
        match event {
            // `databases::callback` puts these into the data queue itself.
            ipicsha_records::Event::Send(_) => {}
            ipicsha_records::Event::Status(status) => {
                if self.databases.update(*status) {
                    self.save_or_log();
                }
                self.input(Input::Data(self.databases.report()));
            }
            ipicsha_records::Event::ConflictJournaled(conflict) => {
                tracing::warn!(
                    database = %conflict.database,
                    table = conflict.table,
                    key = conflict.key,
                    kind = ?conflict.kind,
                    "a version lost and is kept: `ipicsha conflicts list`"
                );
            }
            ipicsha_records::Event::RepairFinished { run, initial, result } => {
                self.note_ended(run, database);
                if let Ok(report) = &result {
                    tracing::info!(
                        database = %report.database,
                        initial,
                        found = report.found(),
                        remaining = report.remaining(),
                        "databases compared"
                    );
                    let protected = self.databases.names(None);
                    self.databases.compared.note(report, clock::wall(), &protected);
                    if report.applied && (!initial || report.found() > 0) {
                        let (found, left) = (report.found(), report.remaining());
                        let database = database.to_owned();
                        let event = ipicsha_core::Event::Repaired { run, database, found, left };
                        self.record(event);
                    }
                }
                if !initial {
                    self.repair_ended(run, database, result);
                }
            }
        }
    }

    pub(crate) fn measure(&mut self) {
        self.databases.tick();
        self.search_patterns();
        self.adopt_all();
        self.tell_databases();
        self.end_quiet_repairs();
        let report = self.databases.report();
        self.files_queue.set_records_wait(self.databases.lag() > RECORDS_WAIT);
        self.input(Input::Data(report));
        self.directories.tick();
        self.input(Input::Directories(self.directories.reports()));
        let synced = clock::time_synced(self.config.file.time.source);
        self.input(Input::TimeSynced(synced));
        self.keep_addresses();
        self.run_planned();
        self.tell_alarms();
    }

    /// A frozen daemon does not come here: what it has runs out.
    fn keep_addresses(&mut self) {
        let split = self.node.persisted().split_brain.is_some();
        if std::mem::replace(&mut self.split, split) != split {
            self.addresses.announce(); // the network has heard two servers
        }
        let found = self.node.is_found(clock::now().mono);
        let right = match self.node.role() {
            Some(Role::Active) if found => Right::Serves,
            Some(Role::Active) => Right::Second,
            Some(Role::Standby) if self.node.is_booting() => {
                let was_active = self.node.persisted().role == Role::Active;
                if was_active { Right::WasActive } else { Right::Undecided }
            }
            Some(Role::Standby) => Right::No,
            None => Right::Unconfigured,
        };
        self.addresses.keep(right, self.address_lifetime());
        let rows = self.addresses.rows().into_iter();
        let missing = rows.filter_map(|row| row.trouble.map(|trouble| (row.address, trouble)));
        self.input(Input::Addresses(missing.collect()));
    }

    /// D: the partner may have the address from then on.
    pub(crate) fn address_lifetime(&self) -> Duration {
        let config = self.node.persisted().ha.config.as_ref();
        config.map_or(self.config.timing, |config| config.timing).takeover_after()
    }

    /// Connects to the partner of the state, and to nobody else.
    pub(crate) fn connect(&mut self) {
        self.link = None;
        self.databases.set_link(false);
        self.directories.set_link(false);
        let partner = self.node.persisted().partner.clone();
        if let Some(listener) = &self.listener {
            listener.set_partner(partner.clone());
        }
        if let Some(partner) = partner {
            self.link = Some(Link::spawn(
                &self.link_context,
                &partner,
                &self.data_queue,
                &self.files_queue,
            ));
        }
    }

    pub(crate) fn send(&self, control: Control) {
        if let Some(link) = &self.link
            && link.control.try_send(control).is_err()
        {
            tracing::debug!("the control connection is not ready for a message");
        }
    }

    async fn end(&mut self) {
        let (done, ended) = oneshot::channel();
        if self.roles.send(RoleChange::End(done)).await.is_ok()
            && tokio::time::timeout(END_LIMIT, ended).await.is_err()
        {
            tracing::error!("services do not end in time; they are left to the system");
        }
        if !self.restarting {
            // The addresses of a cloud move by a hook; after a restart the role is still here.
            self.hooks.end().await;
        }
        self.alarms.end().await;
        // The last message may still be in its queue.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
