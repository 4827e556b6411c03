//! The daemon's side: the half that a partner asked for.
//!
//! Decides nothing but the order of things; what is allowed is in `policy.rs`. Runs behind heartbeats
//! and records, in threads of its own with a lower priority.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ipicsha_files::sync::{
    self, Event, Exit, Fatal, Options, Report,
    wire::{Ended, Half, Interest, Packet, Request, unpack},
};
use ipicsha_link::{Duplex, DuplexReceiver, Patience};

use super::{
    Policy,
    ends::{Inbound, ReceiverEnd, SenderEnd, hear},
    line::Line,
};

/// Time for the request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest silence of a partner in the middle of a transfer; it says something every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Transfers that are told to end have this long.
const END_MAX: Duration = Duration::from_secs(3);
/// Added to the niceness of the threads of a transfer.
const NICE: i32 = 5;

/// The transfers that run for the partner.
#[derive(Clone)]
pub(crate) struct Transfers {
    policy: Arc<Policy>,
    stop: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
}

impl Transfers {
    pub(crate) fn new(policy: Policy) -> Self {
        let (stop, running) = (Arc::default(), Arc::default());
        Self { policy: Arc::new(policy), stop, running }
    }

    /// Runs one in threads of its own.
    pub(crate) fn spawn(&self, duplex: Duplex, partner: String) {
        let transfers = self.clone();
        transfers.running.fetch_add(1, Ordering::AcqRel);
        let run = move || {
            // Without it the transfer runs all the same.
            let _ = rustix::process::nice(NICE);
            transfers.run(duplex, &partner);
            transfers.running.fetch_sub(1, Ordering::AcqRel);
        };
        if let Err(error) = thread::Builder::new().name("sync".into()).spawn(run) {
            self.running.fetch_sub(1, Ordering::AcqRel);
            tracing::error!(%error, "no thread for a transfer: it is refused");
        }
    }

    /// Tells all of them to end, and waits a moment: so nothing half written is left.
    pub(crate) async fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        while self.running.load(Ordering::Acquire) > 0 && begin.elapsed() < END_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn run(&self, mut duplex: Duplex, partner: &str) {
        duplex
            .set_patience(&Patience { silence_max: REQUEST_MAX, given_up: Arc::clone(&self.stop) });
        let mut receiver = duplex.receiver;
        let line = Line::new(duplex.sender, None);
        let request = match first(&mut receiver) {
            Ok(Packet::Request(request)) => *request,
            Ok(_) => return tracing::warn!(partner, "a transfer began with no request"),
            Err(fatal) => {
                return tracing::info!(partner, error = fatal.message, "no transfer was asked for");
            }
        };
        receiver.set_patience(&Patience { silence_max: SILENCE_MAX, given_up: Arc::default() });
        line.set_patience(&Patience { silence_max: SILENCE_MAX, given_up: Arc::default() });
        let judged = self.policy.judge(&request);
        let answer = judged.as_ref().map(|_| ()).map_err(Clone::clone);
        let said = line.say(&Packet::Answer(answer)).and_then(|()| line.flush());
        match judged {
            Ok(mut options) => {
                options.cancelled = Arc::clone(&self.stop);
                if said.is_ok() {
                    self.serve(receiver, line, &request, &options, partner);
                }
            }
            Err(refused) => {
                tracing::warn!(partner, reason = refused.message, "a transfer is refused");
                line.finish();
                hear(receiver, &line, &Inbound::Nobody, None);
            }
        }
    }

    fn serve(
        &self,
        receiver: DuplexReceiver,
        line: Line,
        request: &Request,
        options: &Options,
        partner: &str,
    ) {
        tracing::info!(partner, what = what(&request.half), "a transfer begins");
        line.set_compression(request.compress);
        let told = Told { line: &line, interest: request.interest, progress: Mutex::new(None) };
        let inbound = match request.half {
            Half::Send { .. } => Inbound::for_sender(),
            Half::Receive { .. } => Inbound::for_receiver(),
            Half::List { .. } => Inbound::Nobody,
        };
        let ended = thread::scope(|scope| {
            scope.spawn(|| hear(receiver, &line, &inbound, None));
            let ended = run_half(&line, &inbound, request, options, &told);
            inbound.abandon();
            let said = line.say(&Packet::Ended(ended.clone())).and_then(|()| line.flush());
            if said.is_ok() {
                // Closing before the other side has said everything would lose what is under way.
                line.wait_for_end(&|| self.stop.load(Ordering::Relaxed));
            }
            line.finish();
            ended
        });
        let exit = exit(&ended);
        tracing::info!(partner, code = exit.code(), "a transfer has ended: {exit}");
    }
}

fn run_half(
    line: &Line,
    inbound: &Inbound,
    request: &Request,
    options: &Options,
    told: &Told<'_>,
) -> Ended {
    let cancelled = Arc::clone(&options.cancelled);
    match (&request.half, inbound) {
        (Half::Send { sources }, Inbound::Sender(heard)) => {
            let end = SenderEnd { line, heard, cancelled };
            Ended::Sent(sync::send(options, sources, end, told))
        }
        (Half::Receive { destination }, Inbound::Receiver(heard)) => {
            let end = ReceiverEnd { line, heard, cancelled };
            let (received, result) = sync::receive(options, destination, end, told);
            Ended::Received(received, result.err())
        }
        (Half::List { sources }, _) => Ended::Sent(sync::list_for(options, sources, told)),
        (Half::Send { .. } | Half::Receive { .. }, _) => {
            Ended::Sent(Err(Fatal::new(Exit::Halves, "no half fits: this is a bug")))
        }
    }
}

fn what(half: &Half) -> &'static str {
    match half {
        Half::Send { .. } => "files are sent",
        Half::Receive { .. } => "files are received",
        Half::List { .. } => "files are listed",
    }
}

fn exit(ended: &Ended) -> Exit {
    match ended {
        Ended::Sent(Ok(sent)) => sent.troubles.exit(),
        Ended::Received(received, None) => received.troubles.exit(),
        Ended::Sent(Err(fatal)) | Ended::Received(_, Some(fatal)) => fatal.exit,
    }
}

/// The first message of the other side.
pub(super) fn first(receiver: &mut DuplexReceiver) -> Result<Packet, Fatal> {
    let frame = receiver.recv(Vec::new(), &mut || {}).map_err(|error| super::fatal(&error))?;
    let frame = frame.ok_or_else(|| Fatal::new(Exit::Stream, "the other side says nothing"))?;
    let mut first = None;
    unpack(&frame, |packet| {
        first = Some(packet);
        false
    })?;
    first.ok_or_else(|| Fatal::new(Exit::Protocol, "the other side says nothing"))
}

/// Tells whoever asked what happens here.
struct Told<'a> {
    line: &'a Line,
    interest: Interest,
    progress: Mutex<Option<Instant>>,
}

impl Report for Told<'_> {
    fn event(&self, event: Event) {
        let wanted = {
            let mut told = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            self.interest.wants(&event, &mut told)
        };
        if wanted {
            // A half whose events go nowhere soon sees itself that nobody is there.
            let _ = self.line.say(&Packet::Event(event));
        }
    }
}
