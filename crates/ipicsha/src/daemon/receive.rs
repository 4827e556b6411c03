//! The incoming connections of the partner: what comes on them, and who gets it.
//!
//! Everything but heartbeats goes to its worker past the event loop. Records come on a thread of their
//! own: whoever wakes for them applies them.

use std::{
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::{Input, data::Data};
use ipicsha_link::{BlockingReceiver, Channel, Error, FrameReceiver};
use tokio::sync::mpsc;

use super::{databases, directories, event::Event};

/// Messages about records and files are signs of life; more often than this they add nothing.
const HEARD_INTERVAL: Duration = Duration::from_millis(50);
/// A commit that was announced comes within this, or its disk is so slow that waking up for it is
/// nothing beside.
const EXPECTED: Duration = Duration::from_millis(1);
/// Staying awake costs no more than a fifth of a core, whatever the partner says.
const EXPECTING: Duration = Duration::from_millis(5);

/// Where the partner's messages about records and files go.
#[derive(Clone)]
pub(crate) struct Inboxes {
    pub(crate) databases: databases::Inbox,
    pub(crate) directories: directories::Inbox,
}

/// Passes on what the partner sends on one accepted connection, until it ends.
pub(crate) fn spawn(
    channel: Channel,
    receiver: FrameReceiver,
    events: mpsc::Sender<Event>,
    inboxes: Inboxes,
) {
    match channel {
        Channel::Control => drop(tokio::spawn(heartbeats(receiver, events))),
        Channel::Files => drop(tokio::spawn(files(receiver, events, inboxes.directories))),
        Channel::Data => {
            let run = move || {
                let records = |receiver| records(receiver, &events, &inboxes.databases);
                ended(channel, receiver.into_blocking().and_then(records));
            };
            if let Err(error) = thread::Builder::new().name("data link".into()).spawn(run) {
                // The partner dials again.
                tracing::warn!(%error, "no thread for the records of the partner");
            }
        }
        Channel::Sync | Channel::Probe => {} // elsewhere
    }
}

fn ended(channel: Channel, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::debug!(?channel, %error, "a connection of the partner ended");
    }
}

async fn heartbeats(mut receiver: FrameReceiver, events: mpsc::Sender<Event>) {
    let result = loop {
        let message = match receiver.recv().await {
            Ok(Some(message)) => message,
            last => break last.map(drop),
        };
        if events.send(Event::Control(message)).await.is_err() {
            return; // the daemon ends
        }
    };
    ended(Channel::Control, result);
}

async fn files(
    mut receiver: FrameReceiver,
    events: mpsc::Sender<Event>,
    directories: directories::Inbox,
) {
    let mut heard = Heard::default();
    let result = loop {
        let message = match receiver.recv().await {
            Ok(Some(message)) => message,
            last => break last.map(drop),
        };
        let daemon_lives = !heard.is_news() || events.send(HEARD).await.is_ok();
        // Contents are many and large: the connection waits while too many wait.
        directories.deliver(message).await;
        if !daemon_lives {
            return;
        }
    };
    ended(Channel::Files, result);
}

/// Until the connection, or the daemon, ends.
fn records(
    mut receiver: BlockingReceiver,
    events: &mpsc::Sender<Event>,
    databases: &databases::Inbox,
) -> Result<(), Error> {
    let mut heard = Heard::default();
    let mut expected: Option<Instant> = None;
    while let Some(message) = receiver.recv::<Data>()? {
        if matches!(message, Data::Expect { .. })
            && expected.is_none_or(|at| at.elapsed() >= EXPECTING)
        {
            expected = Some(Instant::now());
            receiver.expect(EXPECTED);
        }
        let for_nobody = databases.deliver(message);
        let event = for_nobody.map(Event::Data);
        let news = heard.is_news().then_some(HEARD);
        if [event, news].into_iter().flatten().any(|event| events.blocking_send(event).is_err()) {
            break;
        }
    }
    Ok(())
}

const HEARD: Event = Event::Node(Input::Heard);

/// When the core was told last that the partner lives.
#[derive(Default)]
struct Heard(Option<Instant>);

impl Heard {
    /// A message came; whether the core is to be told.
    fn is_news(&mut self) -> bool {
        let is_news = self.0.is_none_or(|at| at.elapsed() >= HEARD_INTERVAL);
        if is_news {
            self.0 = Some(Instant::now());
        }
        is_news
    }
}
