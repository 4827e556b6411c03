//! The outgoing connections to the partner: one for heartbeats, one for data, one for files. Each is
//! dialled anew until it stands; what is to be sent meanwhile is dropped, the protocols above repeat it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipicsha_core::{file::File, message::Control, trust::Partner};
use ipicsha_link::{Backoff, Channel, Dial, Error, FrameError, FrameSender, Hello, Identity};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::{
    data_link::{DataQueue, Line, Queued},
    event::Event,
    files_link::{FilesQueue, FilesReceiver},
};

/// Messages that may wait for the control connection; beyond that the newest are dropped.
const CONTROL_QUEUE: usize = 16;

/// What both connections need.
#[derive(Clone)]
pub(crate) struct LinkContext {
    pub(crate) identity: Arc<Identity>,
    pub(crate) hello: Hello,
    pub(crate) local: Option<IpAddr>,
    /// Heartbeat interval in force: decides how fast a lost connection is dialled again.
    pub(crate) interval: watch::Receiver<Duration>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// The outgoing connections; dropping it closes them.
pub(crate) struct Link {
    pub(crate) control: mpsc::Sender<Control>,
    tasks: [AbortHandle; 3],
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Link {
    /// Connects to `partner` from now on. Must be called inside a tokio runtime.
    pub(crate) fn spawn(
        context: &LinkContext,
        partner: &Partner,
        data: &DataQueue,
        files: &FilesQueue,
    ) -> Self {
        let (control, controls) = mpsc::channel(CONTROL_QUEUE);
        let dialler = |channel, line| Dialler {
            context: LinkContext {
                hello: Hello { channel, ..context.hello.clone() },
                ..context.clone()
            },
            partner: partner.clone(),
            channel,
            line,
        };
        let control_task = dialler(Channel::Control, Line::default()).run(controls);
        let data_dialler = dialler(Channel::Data, data.line.clone());
        let receiver = data.receiver();
        let data_task = async move {
            // The queue outlives the partner; only one link at a time reads it.
            let mut messages = receiver.lock_owned().await;
            data_dialler.run_borrowed(&mut *messages).await;
        };
        let files_dialler = dialler(Channel::Files, Line::default());
        let receiver = files.receiver();
        let files_task = async move {
            let mut messages = receiver.lock_owned().await;
            files_dialler.run_borrowed(&mut *messages).await;
        };
        let tasks = [
            tokio::spawn(control_task).abort_handle(),
            tokio::spawn(data_task).abort_handle(),
            tokio::spawn(files_task).abort_handle(),
        ];
        Self { control, tasks }
    }
}

/// Why the last attempts failed, and how many in a row for the same reason.
#[derive(Default)]
struct Complaint {
    text: String,
    times: u32,
}

struct Dialler {
    context: LinkContext,
    partner: Partner,
    channel: Channel,
    /// Where the connection is while it stands.
    line: Line,
}

impl Dialler {
    async fn run(self, mut messages: mpsc::Receiver<Control>) {
        self.run_borrowed(&mut messages).await;
    }

    async fn run_borrowed<S: Source>(&self, messages: &mut S) {
        let seed = super::persist::random().unwrap_or_default();
        let mut backoff = self.backoff(seed);
        let mut complaint = Complaint::default();
        loop {
            match dropping(messages, self.connect()).await {
                Ok(sender) => {
                    complaint = Complaint::default();
                    let since = tokio::time::Instant::now();
                    self.announce(true).await;
                    self.carry(sender, messages).await;
                    self.announce(false).await;
                    if since.elapsed() >= *self.context.interval.borrow() {
                        backoff = self.backoff(seed); // it worked for a while
                    }
                }
                Err(error) => self.complain(&error, &mut complaint).await,
            }
            dropping(messages, tokio::time::sleep(backoff.next())).await;
        }
    }

    /// Redials within a third of an interval at the latest, so that the first heartbeat after the
    /// link's return is not late.
    fn backoff(&self, seed: u64) -> Backoff {
        let interval = *self.context.interval.borrow();
        let longest = (interval / 6).clamp(Duration::from_millis(30), Duration::from_secs(2));
        Backoff::new(Duration::from_millis(20), longest, seed)
    }

    async fn connect(&self) -> Result<FrameSender, Error> {
        let address = &self.partner.address;
        let target: SocketAddr = match address.parse() {
            Ok(target) => target,
            Err(_) => std::future::pending().await, // refused by the exchange; nothing to dial
        };
        let interval = *self.context.interval.borrow();
        let user_timeout = match self.channel {
            Channel::Control => (interval * 2).max(Duration::from_millis(400)),
            Channel::Data | Channel::Files | Channel::Sync | Channel::Probe => {
                (interval * 2).clamp(Duration::from_secs(2), Duration::from_secs(30))
            }
        };
        let dial = Dial {
            target,
            local: self.context.local,
            partner: &self.partner,
            identity: &self.context.identity,
            hello: self.context.hello.clone(),
            timeout: attempt_limit(interval),
            user_timeout: Some(user_timeout),
        };
        ipicsha_link::connect(&dial).await
    }

    async fn carry<S: Source>(&self, sender: FrameSender, messages: &mut S) {
        let closed = sender.closed();
        tokio::pin!(closed);
        let lent = self.line.lend(sender);
        loop {
            tokio::select! {
                () = &mut closed => return,
                () = lent.begun() => {
                    let Some(mut sender) = lent.take() else { return };
                    if sender.finish().await.is_err() {
                        return;
                    }
                    lent.put(sender);
                }
                message = messages.next() => {
                    let Some(message) = message else { return };
                    let Some(mut sender) = lent.take() else { return };
                    let sent = sender.send(&message).await;
                    lent.put(sender);
                    if let Err(error) = sent {
                        if let (Error::Frame { source: FrameError::TooLong { .. }, .. }, Some(database)) =
                            (&error, message.database())
                        {
                            // Nothing was sent; the others go on, and the hold names this one.
                            let _ = self.context.events.send(Event::TooLarge(database)).await;
                            continue;
                        }
                        tracing::debug!(%error, "the connection to the partner is lost");
                        return;
                    }
                }
            }
        }
    }

    async fn announce(&self, up: bool) {
        let event = match (self.channel, up) {
            (Channel::Control, true) => {
                // A closed channel means that the daemon ends.
                let _ = self.context.events.send(Event::LinkTrouble(None)).await;
                Event::ControlUp
            }
            (Channel::Control, false) => return, // only silence counts
            (Channel::Data, up) => Event::DataLink(up),
            (Channel::Files, up) => Event::FilesLink(up),
            (Channel::Sync | Channel::Probe, _) => return,
        };
        // A closed channel means that the daemon ends.
        let _ = self.context.events.send(event).await;
    }

    /// One line for each new cause; the same one again is not news.
    async fn complain(&self, error: &Error, last: &mut Complaint) {
        let text = error.to_string();
        if self.channel != Channel::Control {
            return;
        }
        // Seen twice in a row it is no passing state, as while the partner stores a new trust.
        let times = if last.text == text { last.times.saturating_add(1) } else { 1 };
        *last = Complaint { text, times };
        if times != 2 {
            return;
        }
        let text = &last.text;
        let partner = &self.partner.name;
        if matches!(error, Error::Unreachable { .. } | Error::Timeout { .. }) {
            tracing::info!(partner, error = text, "the partner does not answer");
        } else {
            let next = error.next_step().unwrap_or("");
            tracing::warn!(partner, error = text, next, "no connection");
        }
        // A closed channel means that the daemon ends.
        let _ = self.context.events.send(Event::LinkTrouble(Some(text.clone()))).await;
    }
}

/// Time for one attempt: three round trips. On links fast enough for intervals below a second a
/// quick new attempt finds a link that has returned; elsewhere a long round trip must fit.
fn attempt_limit(interval: Duration) -> Duration {
    if interval < Duration::from_secs(1) {
        (interval / 3).max(Duration::from_millis(100))
    } else {
        (interval / 3).clamp(Duration::from_secs(2), Duration::from_secs(5))
    }
}

/// What a connection carries.
trait Message: Serialize {
    /// The database it is about, if it is about one.
    fn database(&self) -> Option<String>;
}

impl Message for Control {
    fn database(&self) -> Option<String> {
        None
    }
}

impl Message for Queued {
    fn database(&self) -> Option<String> {
        Some(self.message.database().0.clone())
    }
}

impl Message for File {
    fn database(&self) -> Option<String> {
        None
    }
}

/// Where messages come from; `next` is cancel-safe.
trait Source: Send {
    type Item: Message + Send + Sync;
    fn next(&mut self) -> impl Future<Output = Option<Self::Item>> + Send;
}

impl<T: Message + Send + Sync> Source for mpsc::Receiver<T> {
    type Item = T;

    fn next(&mut self) -> impl Future<Output = Option<T>> + Send {
        self.recv()
    }
}

impl Source for FilesReceiver {
    type Item = File;

    fn next(&mut self) -> impl Future<Output = Option<File>> + Send {
        Self::next(self)
    }
}

/// Runs `work` while everything that is to be sent is dropped.
async fn dropping<S: Source, O>(messages: &mut S, work: impl Future<Output = O>) -> O {
    tokio::pin!(work);
    loop {
        tokio::select! {
            output = &mut work => return output,
            Some(_) = messages.next() => {}
        }
    }
}
