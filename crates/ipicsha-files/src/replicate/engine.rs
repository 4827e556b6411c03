//! The turns of one directory's thread.
//!
//! Decides the order within a turn: what was heard, what is on the disk, what the partner is to
//! hear, what is to be made here; then everything is made durable, and only then told. Must not wait
//! for the partner.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipicsha_core::{
    file::{File, Known, Version},
    file_policy::{FileDecision, decide},
};

use super::{
    Command, DirectoryConfig, Event, Gate, Refused,
    clear::HeldTrees,
    compare::Comparing,
    durable::Unsettled,
    exchange::Exchange,
    fetch::Fetch,
    guard::Guard,
    index::{Index, IndexError},
    kept::Kept,
    look,
    reader::{Read_, Reader},
    report::Report,
    rescue::Rescue,
    row::{HELD_HERE, LEFT, Own, Row, Want},
    scan::Scan,
    serve::Server,
    sieve::Sieve,
    troubles::Troubles,
};
use crate::{path::RelativePath, resolve::Root, sync::Names, watch::Watcher};

/// Messages of one turn; more wait for the next.
const MESSAGES_MAX: usize = 1024;
/// Longest time without a turn.
const IDLE: Duration = Duration::from_millis(500);
/// So often everything is looked at, for what no method notices.
const FULL_EVERY: Duration = Duration::from_secs(3600);
/// After the index could not be written.
const INDEX_RETRY: Duration = Duration::from_secs(5);

/// What reaches the thread.
pub(super) enum Message {
    /// From outside.
    Command(Command),
    /// Hints are there.
    Watch,
    /// Something was read.
    Read(Read_),
    /// A file was not what the index says.
    Changed(RelativePath),
    /// The end.
    Stop,
}

/// Results of everything that touches the index.
pub(super) type Step<T> = Result<T, IndexError>;

/// Everything one directory's thread knows.
pub(super) struct Engine {
    pub(super) config: DirectoryConfig,
    pub(super) events: Box<dyn Fn(Event) + Send>,
    pub(super) inbox: Sender<Message>,
    pub(super) index: Index,
    pub(super) sieve: Sieve,
    pub(super) owners: Arc<Names>,
    pub(super) kept: Kept,
    /// Of deletions that the partner tells.
    pub(super) guard: Guard,
    /// Of deletions that are told to the partner.
    pub(super) guard_here: Guard,
    pub(super) server: Server,
    pub(super) reader: Reader,
    pub(super) root: Option<Arc<Root>>,
    pub(super) watcher: Option<Watcher>,
    pub(super) hold: Option<String>,
    /// The marker in the root is missing, and an administrator may say that this is right.
    pub(super) marker_missing: bool,
    pub(super) gate: Gate,
    pub(super) link: bool,
    pub(super) scan: Scan,
    pub(super) exchange: Exchange,
    pub(super) fetch: Fetch,
    pub(super) troubles: Troubles,
    pub(super) left: BTreeMap<RelativePath, String>,
    pub(super) report: Report,
    pub(super) flushes: Vec<super::flush::Waiting>,
    pub(super) comparing: Comparing,
    /// Told when everything is durable.
    pub(super) outbox: Vec<File>,
    /// What the disk has not for good yet.
    pub(super) unsettled: Unsettled,
    /// Deletions wait to be judged: how few entries were to be made at least, and since when.
    pub(super) undecided: Option<(u64, Instant)>,
    pub(super) held_trees: HeldTrees,
    pub(super) rescue: Rescue,
    pub(super) next_root: Instant,
    /// Everything is looked at again then, whatever was noticed.
    next_full: Instant,
    /// After a failure of the index nothing is done before.
    paused_until: Option<Instant>,
    forgotten: bool,
}

impl Engine {
    /// Opens what the directory needs.
    ///
    /// # Errors
    /// The state folder or a filter rule cannot be used.
    pub(super) fn new(
        config: DirectoryConfig,
        events: Box<dyn Fn(Event) + Send>,
        inbox: Sender<Message>,
        server: Server,
        reader: Reader,
        owners: Arc<Names>,
    ) -> Result<Self, Refused> {
        std::fs::create_dir_all(&config.state).map_err(|error| Refused {
            message: format!("cannot make {}: {error}", config.state.display()),
            next_step: "make the folder above it writable".into(),
        })?;
        let now = Instant::now();
        Ok(Self {
            index: Index::open(&config.state)?,
            sieve: Sieve::new(&config)?,
            kept: Kept::open(&config.state, config.keep)?,
            guard: Guard::new(config.guard),
            undecided: None,
            held_trees: HeldTrees::default(),
            rescue: Rescue::default(),
            guard_here: Guard::new(config.guard),
            config,
            events,
            inbox,
            owners,
            server,
            reader,
            root: None,
            watcher: None,
            hold: None,
            marker_missing: false,
            gate: Gate::Closed,
            link: false,
            scan: Scan::default(),
            exchange: Exchange::default(),
            fetch: Fetch::default(),
            troubles: Troubles::default(),
            left: BTreeMap::new(),
            report: Report::new(now),
            flushes: Vec::new(),
            comparing: Comparing::default(),
            outbox: Vec::new(),
            unsettled: Unsettled::default(),
            next_root: now,
            next_full: now + FULL_EVERY,
            paused_until: None,
            forgotten: false,
        })
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let first = match inbox.recv_timeout(self.patience()) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match self.turn(first, inbox) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.recover(&error),
            }
        }
        self.keep_partials();
        // What is not committed is found again on the disk or told again by the partner.
        let _ = self.make_durable();
    }

    /// How long nothing has to be done, if nothing is heard.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        if let Some(until) = self.paused_until {
            return until.saturating_duration_since(now).min(IDLE);
        }
        if self.scan.has_work(now) || self.fetch.has_work() {
            return Duration::ZERO;
        }
        let due = [
            self.troubles.next_due(),
            self.scan.next_due(),
            self.exchange.next_due(),
            self.judged_at(),
        ];
        let due = due.into_iter().flatten().map(|due| due.saturating_duration_since(now)).min();
        due.unwrap_or(IDLE).min(IDLE)
    }

    /// One turn; `false` at the end.
    fn turn(&mut self, first: Option<Message>, inbox: &Receiver<Message>) -> Step<bool> {
        let mut next = first;
        let mut count = 0;
        while let Some(message) = next {
            if matches!(message, Message::Stop) {
                return Ok(false);
            }
            self.handle(message)?;
            count += 1;
            next = if count < MESSAGES_MAX { inbox.try_recv().ok() } else { None };
        }
        let now = Instant::now();
        if self.forgotten || self.paused_until.is_some_and(|until| now < until) {
            return Ok(true);
        }
        self.paused_until = None;
        self.see_root(now)?;
        self.work(now)?;
        self.make_durable()?;
        self.after(now)?;
        Ok(true)
    }

    fn work(&mut self, now: Instant) -> Step<()> {
        if let Some(root) = &self.root {
            // Held directories may have been moved; they are found again by their paths.
            root.forget(&RelativePath::root());
        }
        if self.hold.is_none() && self.root.is_some() {
            self.scan_some(now)?;
        }
        self.see_counters()?;
        self.say_hello(now);
        self.tell_entries()?;
        if self.may_make() {
            self.fetch_some(now)?;
        }
        Ok(())
    }

    /// Whether what the partner has may be made here.
    pub(super) fn may_make(&self) -> bool {
        self.hold.is_none() && self.root.is_some() && self.gate == Gate::Open
    }

    fn after(&mut self, now: Instant) -> Step<()> {
        self.see_flushes()?;
        self.see_comparison()?;
        // Answers of these may have to be told at once.
        if self.index.is_dirty() || !self.outbox.is_empty() {
            self.make_durable()?;
        }
        self.report_status(now)
    }

    fn recover(&mut self, error: &IndexError) {
        self.outbox.clear();
        // Where even this fails, the next try will tell.
        let _ = self.index.roll_back();
        self.hold_for(format!("{error}; free space on the disk of the state folder, or check it"));
        self.paused_until = Some(Instant::now() + INDEX_RETRY);
        self.next_root = Instant::now() + INDEX_RETRY;
        self.root = None;
        self.watcher = None;
        self.keep_partials();
        self.fetch.forget();
        self.scan = Scan::default();
        self.fail_flushes();
        self.audit_anew();
        self.begin_exchange();
        self.send_status();
    }

    /// What was under way is void, and the partner hears so, if it can be talked to.
    pub(super) fn begin_exchange(&mut self) {
        self.exchange.begin(self.is_connected(), Instant::now());
        self.server.begin(self.exchange.round);
    }

    pub(super) fn hold_for(&mut self, why: String) {
        self.hold = Some(why);
        self.refuse_comparison();
        self.fail_flushes();
    }

    fn see_root(&mut self, now: Instant) -> Step<()> {
        if self.root.is_none() && now >= self.next_root && !self.unsettled.has_failed() {
            self.next_root = now + Duration::from_secs(1);
            self.enter_root()?;
        }
        if now >= self.next_full && self.root.is_some() && self.scan.is_idle() {
            self.next_full = now + FULL_EVERY;
            self.scan.everything();
        }
        Ok(())
    }

    /// The root is to be entered at once.
    pub(super) fn enter_root_soon(&mut self) {
        self.root = None;
        self.next_root = Instant::now();
    }

    fn handle(&mut self, message: Message) -> Step<()> {
        match message {
            Message::Command(command) => self.command(command),
            Message::Watch => {
                let hints = self.watcher.as_ref().map(Watcher::take).unwrap_or_default();
                hints.into_iter().try_for_each(|hint| self.hint(hint))
            }
            Message::Read(Read_::Looked { path, seen }) => self.looked(&path, seen),
            Message::Read(Read_::Signed { id, signature }) => {
                self.signed(id, signature);
                Ok(())
            }
            Message::Changed(path) => {
                self.scan.look_at(path);
                Ok(())
            }
            Message::Stop => Ok(()),
        }
    }

    fn command(&mut self, command: Command) -> Step<()> {
        match command {
            Command::SetGate(gate) => {
                self.connect(gate, self.link);
                Ok(())
            }
            Command::Link(link) => {
                self.connect(self.gate, false);
                self.connect(self.gate, link);
                Ok(())
            }
            Command::Received(file, ticket) => {
                let result = if self.is_connected() && !self.forgotten {
                    self.received(file)
                } else {
                    Ok(())
                };
                drop(ticket);
                result
            }
            Command::Flush { done } => self.flush(done),
            Command::AcceptDeletions { done } => {
                let accepted = self.accept_deletions()?;
                done(Ok(accepted));
                Ok(())
            }
            Command::Compare { apply, asker, done } => self.compare(apply, asker, done),
            Command::Forget { done } => {
                done(self.forget());
                Ok(())
            }
        }
    }

    /// Gate and link are so from now on. What was under way over another connection is void.
    fn connect(&mut self, gate: Gate, link: bool) {
        let was = self.gate == Gate::Open && self.link;
        (self.gate, self.link) = (gate, link);
        let is = gate == Gate::Open && link;
        if was == is {
            return;
        }
        self.keep_partials();
        self.begin_exchange();
        self.fetch.wake();
        if !is {
            self.fail_flushes();
            self.fail_comparison();
        }
    }

    /// Whether the partner can be talked to.
    pub(super) fn is_connected(&self) -> bool {
        self.gate == Gate::Open && self.link
    }

    fn forget(&mut self) -> Result<(), Refused> {
        self.forgotten = true;
        self.root = None;
        self.watcher = None;
        self.outbox.clear();
        let result = self.index.clear().map_err(|error| error.to_string());
        let removed = super::index::remove(&self.config.state).map_err(|error| error.to_string());
        result.and(removed).map_err(|message| Refused {
            message,
            next_step: format!("remove index.db in {}", self.config.state.display()),
        })
    }

    /// Stores a row after one of its sides changed, and decides what is to be done.
    pub(super) fn store(
        &mut self,
        path: &RelativePath,
        old: Option<&Row>,
        mut row: Row,
    ) -> Step<()> {
        row.want = Want::Nothing;
        self.held_trees.remove(path);
        if let Some(told) = row.told.clone() {
            let nothing = Version::absent(0);
            let (own, known) = match &row.own {
                Some(own) => (&own.version, own.known),
                None => (&nothing, Known::default()),
            };
            let decision = decide((own, known), (&told.version, told.known), self.config.rank);
            match decision {
                FileDecision::Same => self.same(&mut row, told.known),
                FileDecision::Take | FileDecision::Lose if row.has(LEFT) => {
                    self.acknowledge(&mut row);
                }
                FileDecision::Take | FileDecision::Lose => row.want = wanted(&row),
                FileDecision::Keep | FileDecision::Win => {}
            }
        }
        let known = row.known();
        row.pending = row.own.is_some() && !row.told_known().covers(known);
        if row.told.is_none() && row.own.is_some() {
            row.pending = true;
        }
        let was_wanted = old.is_some_and(|old| old.want != Want::Nothing || old.has(HELD_HERE));
        if row.want != Want::Nothing || was_wanted {
            // What waited for this one, above or beneath it, may go on.
            self.fetch.wake();
        }
        self.index.put(path.as_written(), old, &row)
    }

    /// Both have the same: both know what either knows.
    fn same(&mut self, row: &mut Row, theirs: Known) {
        let joined = row.known().join(theirs);
        match &mut row.own {
            Some(own) if own.known == joined => {}
            Some(own) => {
                own.known = joined;
                own.seq = self.index.next_seq();
            }
            None => {
                let version = Version::absent(look::now_ns());
                let seq = self.index.next_seq();
                row.own = Some(Own { seq, known: joined, version, quick: None });
            }
        }
    }

    /// The partner's version counts as here, because it takes no part here.
    pub(super) fn acknowledge(&mut self, row: &mut Row) {
        let Some(told) = &row.told else { return };
        let known = row.known().join(told.known);
        let seq = self.index.next_seq();
        row.own = Some(Own { seq, known, version: told.version.clone(), quick: None });
        row.bits |= LEFT;
    }

    /// A change of an own entry, told from now on.
    pub(super) fn changed_here(
        &mut self,
        path: &RelativePath,
        old: Option<&Row>,
        version: Version,
        quick: Option<super::row::Quick>,
    ) -> Step<()> {
        let mut row = old.cloned().unwrap_or_default();
        let counter = self.index.next_counter(now_us());
        let known = row.known().changed(self.config.rank, counter);
        let seq = self.index.next_seq();
        row.own = Some(Own { seq, known, version, quick });
        row.bits &= !(HELD_HERE | LEFT | super::row::SILENT | super::row::REPAIR);
        self.report.changed();
        self.store(path, old, row)
    }
}

/// What is to be done to have what the partner has.
fn wanted(row: &Row) -> Want {
    let is_removal = row.told.as_ref().is_some_and(|told| told.version.contents.is_absent());
    let is_directory = row.own.as_ref().is_some_and(|own| own.version.contents.is_directory());
    match (is_removal, is_directory) {
        (false, _) => Want::Take,
        (true, true) => Want::RemoveDirectory,
        (true, false) => Want::Remove,
    }
}

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
pub(super) fn now_unix() -> i64 {
    i64::try_from(now_us() / 1_000_000).unwrap_or(i64::MAX)
}
