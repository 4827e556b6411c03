//! The half that makes the files.
//!
//! Decides what differs, asks for it, and puts it in its place. Never believes a path: names were
//! checked when they came, and everything is done beneath the destination by held directories. Must
//! not know the sources.

mod backup;
mod basis;
mod compare;
mod decide;
mod destination;
mod directory;
mod files;
mod incoming;
mod links;
mod make;
mod old;
mod outputs;
mod owners;
mod remove;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use self::{
    backup::Backup,
    basis::Basis,
    destination::Destination,
    directory::{Current, Retouch},
    files::Pending,
    incoming::Incoming,
    links::Group,
    outputs::Outputs,
    owners::Owners,
    remove::Removals,
};
use super::{
    Event, Report,
    channel::{Channel, Gone},
    event::{Item, Progress, Stats},
    exit::{Exit, Fatal, Troubles},
    message::{EntryId, SETTLED_TOLD, ToReceiver, ToSender, Want},
    options::{Delete, Options},
};
use crate::{error::Problem, facts::Unset, path::RelativePath, resolve::Root};

/// Files whose names were given in one go are told to the sender together.
const SAVED_MAX: usize = if cfg!(test) { 8 } else { 256 };

/// The receiving half of a transfer.
pub(super) struct Receiver<'a, C> {
    options: &'a Options,
    report: &'a dyn Report,
    channel: C,
    destination: Destination,
    /// Directories from the top to the current one.
    stack: Vec<Current>,
    outputs: Outputs,
    /// Files that are asked for.
    pending: BTreeMap<EntryId, Pending>,
    /// The file that is coming.
    incoming: Option<Incoming>,
    wants: Vec<(EntryId, Want)>,
    /// Everything below is decided.
    decided: EntryId,
    /// Of what is decided and has come the sender knows this.
    told: EntryId,
    groups: HashMap<(u64, u64), Group>,
    owners: Owners,
    backup: Option<Backup>,
    /// Backups made so far that a directory which is gone through meanwhile must not take for extra ones.
    own_backups: HashSet<RelativePath>,
    basis: Vec<Basis>,
    /// Directories whose facts are set at the end.
    retouch: Vec<Retouch>,
    removals: Removals,
    /// With `--delete-before`: everything that was told so far.
    held_back: Option<Vec<ToReceiver>>,
    /// Updates that get their names at the end.
    delayed: Vec<files::Delayed>,
    saved: Vec<EntryId>,
    scan_ended: bool,
    no_more_said: bool,
    done: bool,
    stats: Stats,
    troubles: Troubles,
    progress: Progress,
}

/// What the receiver knows at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// What the transfer was made of.
    pub stats: Stats,
    /// Problems of single entries.
    pub troubles: Troubles,
}

/// Makes at `destination` what the sender tells.
pub(super) fn run<C>(
    options: &Options,
    destination: &[u8],
    channel: C,
    report: &dyn Report,
) -> (Received, Result<(), Fatal>)
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    let mut receiver = Receiver {
        options,
        report,
        channel,
        destination: Destination::unknown(destination),
        stack: Vec::new(),
        outputs: Outputs::default(),
        pending: BTreeMap::new(),
        incoming: None,
        wants: Vec::new(),
        decided: 0,
        told: 0,
        groups: HashMap::new(),
        owners: Owners::new(options),
        backup: None,
        own_backups: HashSet::new(),
        basis: Vec::new(),
        retouch: Vec::new(),
        removals: Removals::default(),
        held_back: (options.delete == Some(Delete::Before)).then(Vec::new),
        delayed: Vec::new(),
        saved: Vec::new(),
        scan_ended: false,
        no_more_said: false,
        done: false,
        stats: Stats::default(),
        troubles: Troubles::default(),
        progress: Progress::default(),
    };
    let result = receiver.work();
    if result.is_err() {
        receiver.give_up();
    }
    receiver.outputs.flush_all(report);
    let Receiver { stats, troubles, .. } = receiver;
    (Received { stats, troubles }, result)
}

fn interrupted() -> Fatal {
    Fatal::new(Exit::Signal, "interrupted: nothing half written is left")
}

impl From<Gone> for Fatal {
    fn from(gone: Gone) -> Self {
        Self::new(Exit::Halves, gone.to_string())
    }
}

impl<C> Receiver<'_, C>
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    fn work(&mut self) -> Result<(), Fatal> {
        while !self.done {
            if self.options.cancelled.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            if self.options.stop_at.is_some_and(|at| Instant::now() >= at) {
                return Err(Fatal::new(Exit::Timeout, "the time to stop has come"));
            }
            let message = self.channel.receive().map_err(|gone| self.left_alone(gone))?;
            self.stats.sent_bytes += message.weight();
            self.hold_back_or_take(message)?;
        }
        self.finish()
    }

    /// Nothing comes any more: because it was interrupted, or who knows why.
    fn left_alone(&self, gone: Gone) -> Fatal {
        if self.options.cancelled.load(Ordering::Relaxed) { interrupted() } else { gone.into() }
    }

    /// With `--delete-before` the whole scan is needed before anything is done.
    fn hold_back_or_take(&mut self, message: ToReceiver) -> Result<(), Fatal> {
        let Some(held) = &mut self.held_back else { return self.take(message) };
        if let ToReceiver::Begin(_) = message {
            return self.take(message);
        }
        let ToReceiver::ScanEnd { complete } = message else {
            held.push(message);
            return Ok(());
        };
        let held = self.held_back.take().unwrap_or_default();
        self.removals.scan_complete = complete;
        self.remove_before(&held)?;
        held.into_iter().try_for_each(|message| self.take(message))?;
        self.take(ToReceiver::ScanEnd { complete })
    }

    fn take(&mut self, message: ToReceiver) -> Result<(), Fatal> {
        match message {
            ToReceiver::Begin(begin) => self.begin(begin)?,
            ToReceiver::Owners(names) => self.owners.learn(names),
            ToReceiver::Dir { path, itself } => self.enter_dir(path, itself.map(|d| *d))?,
            ToReceiver::Entries { first, .. } if first > EntryId::MAX / 2 => {
                return Err(Fatal::new(Exit::Protocol, "there are more entries than can be"));
            }
            ToReceiver::Entries { first, entries } => {
                for (id, entry) in (first..).zip(entries) {
                    self.entry(id, entry)?;
                    self.decided = id + 1;
                }
                self.ask()?;
            }
            ToReceiver::DirEnd { directories, listed } => self.end_dir(directories, listed)?,
            ToReceiver::ScanEnd { complete } => {
                self.removals.scan_complete = complete;
                self.scan_ended = true;
                self.progress.scan_done = true;
                self.ask()?;
            }
            ToReceiver::Pack(files) => {
                files.into_iter().try_for_each(|small| self.small(small))?;
                self.tell_settled()?;
            }
            ToReceiver::Open { id, offset } => self.open(id, offset)?,
            ToReceiver::Data(bytes) => self.data(&bytes)?,
            ToReceiver::Hole(length) => self.hole(length)?,
            ToReceiver::Copy { offset, length } => self.copy(offset, length)?,
            ToReceiver::End(hash) => {
                self.end(hash)?;
                self.tell_settled()?;
            }
            ToReceiver::Again => self.again()?,
            ToReceiver::Failed(id) => {
                self.failed(id)?;
                self.tell_settled()?;
            }
            ToReceiver::Done => self.done = true,
        }
        self.say_no_more()
    }

    fn say(&mut self, message: ToSender) -> Result<(), Fatal> {
        self.stats.received_bytes += message.weight();
        Ok(self.channel.send(message)?)
    }

    /// Tells the sender what is wanted.
    fn ask(&mut self) -> Result<(), Fatal> {
        let (wants, decided) = (std::mem::take(&mut self.wants), self.settled());
        self.told = decided;
        self.say(ToSender::Need { wants, decided })
    }

    /// Everything below is decided, and has come if it was asked for.
    fn settled(&self) -> EntryId {
        self.pending.keys().next().map_or(self.decided, |id| self.decided.min(*id))
    }

    /// The sender may wait for it before it goes on with the scan.
    fn tell_settled(&mut self) -> Result<(), Fatal> {
        let news = self.settled().saturating_sub(self.told) >= SETTLED_TOLD;
        if news { self.ask() } else { Ok(()) }
    }

    fn say_no_more(&mut self) -> Result<(), Fatal> {
        let ended = self.scan_ended && self.pending.is_empty() && self.incoming.is_none();
        if !ended || self.no_more_said {
            return Ok(());
        }
        self.no_more_said = true;
        self.say(ToSender::NoMore)
    }

    /// Everything has come: names that waited, deletions, and facts of directories.
    fn finish(&mut self) -> Result<(), Fatal> {
        self.place_delayed()?;
        self.remove_after()?;
        self.touch_directories();
        self.tell_saved()?;
        if self.removals.left > 0 {
            let left = self.removals.left;
            let guarded =
                self.options.delete_guard.is_some_and(|most| self.removals.deleted >= most);
            let which = if guarded { " (`deletions_max` in `[sync]` there)" } else { "" };
            let text = format!("the limit of deletions{which} is reached: {left} entries are left");
            self.report.event(Event::Notice(text));
            self.troubles.delete_limit = true;
        }
        Ok(())
    }

    /// It ends early: what may be kept of the file that was coming is kept.
    fn give_up(&mut self) {
        self.keep_partial();
        self.drop_delayed();
        self.touch_directories();
    }

    fn saved(&mut self, id: EntryId) -> Result<(), Fatal> {
        if self.options.remove_source_files && !self.options.dry_run {
            self.saved.push(id);
            if self.saved.len() >= SAVED_MAX && self.delayed.is_empty() {
                return self.tell_saved();
            }
        }
        Ok(())
    }

    fn tell_saved(&mut self) -> Result<(), Fatal> {
        match std::mem::take(&mut self.saved) {
            saved if saved.is_empty() => Ok(()),
            saved => self.say(ToSender::Saved(saved)),
        }
    }

    fn problem(&mut self, problem: &Problem) {
        self.trouble(problem.to_string());
    }

    fn trouble(&mut self, text: String) {
        self.troubles.failed = true;
        self.report.event(Event::Problem { text, vanished: false });
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push(event, self.report);
    }

    fn tell_item(&mut self, item: Item) {
        let linked = item.linked_to.is_some();
        if item.change.is_significant() || linked || self.options.report_unchanged {
            self.tell(Event::Item(Box::new(item)));
        }
    }

    fn root(&self) -> Option<&Arc<Root>> {
        self.destination.root.as_ref()
    }

    /// Facts that could not be set, each told by itself.
    fn tell_unset(&mut self, path: &RelativePath, unset: Vec<Unset>) {
        for (doing, errno) in unset {
            self.problem(&Problem::new(doing, path.clone(), errno));
        }
    }
}
