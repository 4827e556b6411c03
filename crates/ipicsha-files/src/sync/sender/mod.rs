//! The half that has the files.
//!
//! Decides what comes first: what the receiver waits for, then the scan. Must not know the
//! destination, and reads nothing that the sources do not contain.

mod details;
mod offers;
mod operand;
mod pace;
mod serve;
mod tree;

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use serde::{Deserialize, Serialize};

pub(super) use self::tree::read_merge_file;
use self::{
    offers::Offers,
    operand::plan,
    pace::Pace,
    tree::{Place, Step, Tree},
};
use super::{
    Event, Report,
    channel::{Channel, Gone},
    event::Item,
    exit::{Exit, Fatal, Troubles},
    message::{
        AHEAD_MAX, Begin, Details, ENTRIES_MAX, Entry, EntryId, Listed, OwnerKind, OwnerName,
        Small, ToReceiver, ToSender, Want,
    },
    names::Names,
    options::{Delete, Options},
};
use crate::{
    delta::{self, Signature},
    meta::Kind,
    path::Name,
};

/// One file that is wanted.
struct Job {
    id: EntryId,
    want: Want,
    /// Sums of the old content, when the difference is wanted.
    signature: Option<Signature>,
}

impl Job {
    /// All that is needed to serve it has come.
    fn is_ready(&self) -> bool {
        self.signature.as_ref().is_none_or(Signature::is_consistent)
    }
}

/// A directory whose entries are told.
struct Telling {
    files: std::vec::IntoIter<(Entry, Arc<Place>)>,
    directories: Vec<Name>,
    listed: Listed,
}

/// What the sender knows at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Problems of single sources.
    pub troubles: Troubles,
    /// Bytes that were said to the receiver.
    pub bytes: u64,
}

/// The sending half of a transfer.
pub(super) struct Sender<'a, C> {
    options: &'a Options,
    report: &'a dyn Report,
    channel: C,
    tree: Tree<'a>,
    telling: Option<Telling>,
    offers: Offers,
    jobs: VecDeque<Job>,
    pack: Vec<Small>,
    pack_bytes: usize,
    pace: Pace,
    names: Names,
    told_owners: HashSet<(OwnerKind, u32)>,
    next_id: EntryId,
    /// Everything below is decided and has come, as far as the receiver has told.
    settled: EntryId,
    scanning: bool,
    more_wanted: bool,
    troubles: Troubles,
    sent_bytes: u64,
    /// Sources that were removed because they have arrived.
    removed: u64,
    /// Sources that are left because of the limit.
    left: u64,
}

/// Sends what `sources` name, until the receiver wants nothing more.
pub(super) fn run<C>(
    options: &Options,
    sources: &[Vec<u8>],
    channel: C,
    report: &dyn Report,
) -> Result<Sent, Fatal>
where
    C: Channel<Out = ToReceiver, In = ToSender>,
{
    report.event(Event::Begun);
    let planned = plan(options, sources, report)?;
    let mut sender = Sender {
        options,
        report,
        channel,
        troubles: planned.troubles,
        tree: Tree::new(options, report, planned.top),
        telling: None,
        offers: Offers::default(),
        jobs: VecDeque::new(),
        pack: Vec::new(),
        pack_bytes: 0,
        pace: Pace::new(options.bytes_per_second),
        names: Names::of_this_machine(),
        told_owners: HashSet::new(),
        next_id: 0,
        settled: 0,
        scanning: true,
        more_wanted: true,
        sent_bytes: 0,
        removed: 0,
        left: 0,
    };
    let begin = Begin { entries: planned.entries, directories: planned.directories };
    match sender.say(ToReceiver::Begin(begin)).and_then(|()| sender.work()) {
        Ok(()) => {}
        // The receiver says itself why it is gone.
        Err(Gone) => sender.troubles.failed |= sender.scanning || sender.more_wanted,
    }
    sender.tell_left();
    let troubles = sender.troubles.join(sender.tree.troubles());
    Ok(Sent { troubles, bytes: sender.sent_bytes })
}

/// Tells what `sources` name, without any receiver.
pub(super) fn list(
    options: &Options,
    sources: &[Vec<u8>],
    report: &dyn Report,
) -> Result<Troubles, Fatal> {
    let planned = plan(options, sources, report)?;
    let mut tree = Tree::new(options, report, planned.top);
    let tell = |path, details: &Details| {
        let mut item = Item::of(path, details, super::event::Change::default());
        item.target = item.target.filter(|_| options.preserve.links);
        report.event(Event::Listed(Box::new(item)));
    };
    while let Some(step) = tree.step() {
        if options.cancelled.load(Ordering::Relaxed) {
            return Err(Fatal::new(Exit::Signal, "interrupted"));
        }
        if let Some(details) = &step.itself {
            tell(step.path.clone(), details);
        }
        for (entry, _) in &step.files {
            // Found in this directory, so the path is short enough.
            if let Ok(path) = step.path.join(&entry.name) {
                tell(path, &entry.details);
            }
        }
    }
    Ok(planned.troubles.join(tree.troubles()))
}

impl<C> Sender<'_, C>
where
    C: Channel<Out = ToReceiver, In = ToSender>,
{
    fn say(&mut self, message: ToReceiver) -> Result<(), Gone> {
        self.sent_bytes += message.weight();
        self.channel.send(message)
    }

    fn is_stopped(&self) -> bool {
        let late = self.options.stop_at.is_some_and(|at| Instant::now() >= at);
        late || self.options.cancelled.load(Ordering::Relaxed)
    }

    fn work(&mut self) -> Result<(), Gone> {
        loop {
            while let Some(message) = self.channel.receive_now()? {
                self.hear(message);
            }
            if self.is_stopped() {
                self.troubles.failed = true;
                return Ok(());
            }
            if self.jobs.front().is_some_and(Job::is_ready) {
                if let Some(job) = self.jobs.pop_front() {
                    self.serve(&job)?;
                }
                continue;
            }
            self.send_pack()?;
            if self.scanning && !self.is_far_ahead() {
                self.scan()?;
            } else if self.scanning || self.more_wanted || !self.jobs.is_empty() {
                let message = self.channel.receive()?;
                self.hear(message);
            } else {
                break;
            }
        }
        self.say(ToReceiver::Done)?;
        // Only what was saved may still be told; then the receiver goes.
        while let Ok(message) = self.channel.receive() {
            self.hear(message);
        }
        Ok(())
    }

    /// Both halves remember what was told and has not come: the scan waits for it.
    fn is_far_ahead(&self) -> bool {
        // With `--delete-before` nothing is asked for until all is told.
        let waits = self.options.delete != Some(Delete::Before);
        waits && self.next_id.saturating_sub(self.settled) > AHEAD_MAX
    }

    fn hear(&mut self, message: ToSender) {
        match message {
            ToSender::Need { wants, decided } => {
                self.settled = self.settled.max(decided);
                for (id, want) in wants {
                    // Nobody in their right mind asks for what was not told, or compares such blocks.
                    if id >= self.next_id || !is_sensible(want) {
                        continue;
                    }
                    let signature = match want {
                        Want::Delta { block_bytes, size } => {
                            Some(Signature { block_bytes, size, sums: Vec::new() })
                        }
                        Want::Whole | Want::From(_) => None,
                    };
                    self.jobs.push_back(Job { id, want, signature });
                }
                // A file with several names may be asked for by another one later.
                if !self.options.preserve.hard_links && !self.options.remove_source_files {
                    let oldest = self.jobs.iter().map(|job| job.id).min();
                    self.offers.forget_below(oldest.map_or(decided, |id| id.min(decided)));
                }
            }
            ToSender::Sums(sums) => {
                let unfinished = self.jobs.iter_mut().rev().find_map(|job| job.signature.as_mut());
                if let Some(signature) = unfinished {
                    let missing = signature.missing_sums();
                    signature.sums.extend(sums.into_iter().take(missing));
                }
            }
            ToSender::Saved(ids) => self.remove_sources(&ids),
            ToSender::NoMore => self.more_wanted = false,
        }
    }

    /// Tells the next entries, or that there are none.
    fn scan(&mut self) -> Result<(), Gone> {
        let Some(Telling { files, .. }) = &mut self.telling else { return self.enter() };
        let part: Vec<_> = files.by_ref().take(ENTRIES_MAX).collect();
        if part.is_empty() {
            let Some(Telling { directories, listed, .. }) = self.telling.take() else {
                return Ok(());
            };
            return self.say(ToReceiver::DirEnd { directories, listed });
        }
        let first = self.next_id;
        self.next_id += part.len() as u64;
        let entries: Vec<Entry> = self.offers.add(first, part);
        self.say(ToReceiver::Entries { first, entries })
    }

    /// Begins the next directory.
    fn enter(&mut self) -> Result<(), Gone> {
        let Some(step) = self.tree.step() else {
            self.scanning = false;
            let complete = !self.troubles.join(self.tree.troubles()).failed;
            return self.say(ToReceiver::ScanEnd { complete });
        };
        let Step { path, itself, files, directories, listed } = step;
        let owners = itself.iter().flat_map(|details| [details.as_ref()]);
        self.tell_owners(owners.chain(files.iter().map(|(entry, _)| &entry.details)))?;
        self.telling = Some(Telling { files: files.into_iter(), directories, listed });
        self.say(ToReceiver::Dir { path, itself })
    }

    fn tell_owners<'d>(&mut self, details: impl Iterator<Item = &'d Details>) -> Result<(), Gone> {
        let preserve = self.options.preserve;
        if preserve.numeric_ids || !(preserve.owner || preserve.group) {
            return Ok(());
        }
        let mut told = Vec::new();
        for owner in details.flat_map(|d| [(OwnerKind::User, d.uid), (OwnerKind::Group, d.gid)]) {
            if self.told_owners.insert(owner) {
                let (kind, id) = owner;
                let name = self.names.name(kind, id);
                told.extend(name.map(|name| OwnerName { kind, id, name: name.to_owned() }));
            }
        }
        if told.is_empty() { Ok(()) } else { self.say(ToReceiver::Owners(told)) }
    }

    fn problem(&mut self, text: String, vanished: bool) {
        if vanished {
            self.troubles.vanished = true;
        } else {
            self.troubles.failed = true;
        }
        self.report.event(Event::Problem { text, vanished });
    }
}

/// Whether a wish can be met with bearable memory.
fn is_sensible(want: Want) -> bool {
    match want {
        Want::Whole | Want::From(_) => true,
        Want::Delta { block_bytes, size } => {
            delta::bearable_block_bytes(block_bytes, size) == Some(block_bytes)
        }
    }
}

/// Whether a directory is meant by these details.
fn is_directory(details: &Details) -> bool {
    details.kind == Kind::Directory
}
