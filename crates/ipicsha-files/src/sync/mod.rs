//! One tree becomes like another, in the words and with the results of rsync.
//!
//! Two halves: the sender has the files and knows the sources, the receiver makes them and knows the
//! destination. They say [`message`]s to each other through a [`channel`], which is a pair of queues
//! inside one process or a connection between two servers. Neither half knows which.
//!
//! Order of things: the sender tells directory after directory; the receiver decides at once what
//! differs and asks for it; what is asked for goes before the rest of the scan. Deletions come after
//! the whole scan, so that anything that failed prevents them; the facts of directories come last.

pub mod channel;
mod chmod;
mod event;
mod exit;
pub mod message;
mod names;
mod options;
mod receiver;
mod safe_link;
mod sender;
mod territory;
pub mod wire;

use std::thread;

use channel::Channel;
pub use chmod::Chmod;
pub use event::{
    Change, Counts, Event, Item, Progress, Report, Skipped, Stats, TimeChange, Update,
};
pub use exit::{Exit, Fatal, Troubles};
use message::{ToReceiver, ToSender};
pub(crate) use names::Names;
pub use names::owner_id;
pub use options::{Append, BasisUse, Delete, Depth, Options, OwnerMap, OwnerPattern, Preserve};
pub use receiver::Received;
pub use sender::Sent;
use sender::read_merge_file;
pub use territory::{Outside, Territory};

/// How a transfer ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it was made of.
    pub stats: Stats,
    /// Its code.
    pub exit: Exit,
    /// Why it ended early.
    pub fatal: Option<Fatal>,
}

/// Copies `sources` to `destination`, both on this machine. Everything that happens is told to
/// `report`; problems of single entries do not end it.
pub fn local(
    options: &Options,
    sources: &[Vec<u8>],
    destination: &[u8],
    report: &dyn Report,
) -> Outcome {
    let (sender_end, receiver_end) = channel::in_process();
    let (sent, (received, result)) = thread::scope(|scope| {
        let sending = scope.spawn(move || send(options, sources, sender_end, report));
        let received = receive(options, destination, receiver_end, report);
        let sent = sending.join().unwrap_or_else(|_| {
            Err(Fatal::new(Exit::Halves, "the sending half has crashed: this is a bug"))
        });
        (sent, received)
    });
    Outcome::of(sent, received, result.err())
}

impl Outcome {
    /// From what both halves know at the end.
    pub fn of(sent: Result<Sent, Fatal>, received: Received, fatal: Option<Fatal>) -> Self {
        // Whoever ended first says why; the other one only misses it.
        let (sent, sender_fatal) = match sent {
            Ok(sent) => (sent, None),
            Err(fatal) => (Sent::default(), Some(fatal)),
        };
        let fatal = sender_fatal.or(fatal);
        let troubles = received.troubles.join(sent.troubles);
        let mut stats = received.stats;
        stats.sent_bytes = sent.bytes;
        let exit = fatal.as_ref().map_or(troubles.exit(), |fatal| fatal.exit);
        Self { stats, exit, fatal }
    }
}

/// The half that has the files, over any channel, until the receiver wants nothing more.
///
/// # Errors
/// The sources cannot be used at all.
pub fn send<C>(
    options: &Options,
    sources: &[Vec<u8>],
    channel: C,
    report: &dyn Report,
) -> Result<Sent, Fatal>
where
    C: Channel<Out = ToReceiver, In = ToSender>,
{
    sender::run(options, sources, channel, report)
}

/// The half that makes the files, over any channel. What was done is told even when it ended early.
pub fn receive<C>(
    options: &Options,
    destination: &[u8],
    channel: C,
    report: &dyn Report,
) -> (Received, Result<(), Fatal>)
where
    C: Channel<Out = ToSender, In = ToReceiver>,
{
    receiver::run(options, destination, channel, report)
}

/// Tells what `sources` contain and changes nothing (`--list-only`).
pub fn list(options: &Options, sources: &[Vec<u8>], report: &dyn Report) -> Outcome {
    match sender::list(options, sources, report) {
        Ok(troubles) => Outcome { stats: Stats::default(), exit: troubles.exit(), fatal: None },
        Err(fatal) => Outcome { stats: Stats::default(), exit: fatal.exit, fatal: Some(fatal) },
    }
}

/// The same for somebody on another server, who puts it together.
///
/// # Errors
/// The sources cannot be used at all.
pub fn list_for(
    options: &Options,
    sources: &[Vec<u8>],
    report: &dyn Report,
) -> Result<Sent, Fatal> {
    sender::list(options, sources, report).map(|troubles| Sent { troubles, bytes: 0 })
}

/// Whether a name of an owner fits a shell pattern.
fn wildcard_fits(pattern: &str, name: &str) -> bool {
    crate::filter::fits(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests;
