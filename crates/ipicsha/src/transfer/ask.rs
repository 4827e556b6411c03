//! The command line's side: asks the partner for the other half and runs its own.
//!
//! Decides how both ends become one outcome. Must not know what was typed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ipicsha_files::sync::{
    self, Exit, Fatal, Options, Outcome, Received, Report, Sent,
    wire::{self, Ended, Half, Interest, PROTOCOL, Packet, Request},
};
use ipicsha_link::{Duplex, Patience};

use super::{
    answer::first,
    ends::{Inbound, ReceiverEnd, SenderEnd, Shown, hear},
    line::{End, Line},
};

/// A transfer with the partner.
pub(crate) struct Job<'a> {
    /// Name of the partner.
    pub(crate) partner: &'a str,
    /// What the partner does.
    pub(crate) theirs: Half,
    /// Paths here: the sources that are sent, or the destination.
    pub(crate) ours: Vec<Vec<u8>>,
    pub(crate) options: &'a Options,
    pub(crate) interest: Interest,
    /// `-z`, with its level.
    pub(crate) compress: Option<i32>,
    /// `--timeout`.
    pub(crate) silence_max: Duration,
    /// Set some time after an interruption: the partner does not end by itself.
    pub(crate) given_up: Arc<AtomicBool>,
}

/// Asks for it, and runs it to its end.
pub(crate) fn ask(job: &Job<'_>, mut duplex: Duplex, report: &dyn Report) -> Outcome {
    let given_up = Arc::clone(&job.given_up);
    duplex.set_patience(&Patience { silence_max: job.silence_max, given_up });
    let mut receiver = duplex.receiver;
    let line = Line::new(duplex.sender, None);
    let request = Request {
        protocol: PROTOCOL,
        half: job.theirs.clone(),
        options: job.options.clone(),
        interest: job.interest,
        compress: job.compress,
    };
    let asked = line.say(&Packet::Request(Box::new(request))).and_then(|()| line.flush());
    let answer = first(&mut receiver);
    let answered = match answer {
        // What came tells more than that nothing could be sent.
        Err(_) if asked.is_err() => {
            return ended_by(line.into_end().failure.unwrap_or_else(broken_off));
        }
        Err(fatal) => Err(fatal),
        Ok(Packet::Answer(Ok(()))) => Ok(()),
        Ok(Packet::Answer(Err(refused))) => {
            line.finish();
            hear(receiver, &line, &Inbound::Nobody, None);
            return ended_by(wire::fatal_from_partner(&refused, job.partner));
        }
        Ok(_) => Err(Fatal::new(Exit::Protocol, "the partner does not answer what was asked")),
    };
    if let Err(fatal) = answered {
        return ended_by(fatal);
    }
    line.set_compression(job.compress);
    let inbound = match job.theirs {
        Half::Send { .. } => Inbound::for_receiver(),
        Half::Receive { .. } => Inbound::for_sender(),
        Half::List { .. } => Inbound::Nobody,
    };
    let shown = Shown { report, name: job.partner };
    let own = thread::scope(|scope| {
        scope.spawn(|| hear(receiver, &line, &inbound, Some(&shown)));
        let own = run_half(job, &line, &inbound, report);
        inbound.abandon();
        let said = match &own {
            Some(own) => line.say(&Packet::Ended(own.clone())).and_then(|()| line.flush()),
            None => Ok(()),
        };
        if said.is_ok() {
            line.wait_for_end(&|| job.given_up.load(Ordering::Relaxed));
        }
        line.finish();
        own
    });
    outcome(job, own, line.into_end())
}

fn run_half(job: &Job<'_>, line: &Line, inbound: &Inbound, report: &dyn Report) -> Option<Ended> {
    let cancelled = Arc::clone(&job.options.cancelled);
    match inbound {
        Inbound::Sender(heard) => {
            let end = SenderEnd { line, heard, cancelled };
            Some(Ended::Sent(sync::send(job.options, &job.ours, end, report)))
        }
        Inbound::Receiver(heard) => {
            let end = ReceiverEnd { line, heard, cancelled };
            let destination = job.ours.first().map(Vec::as_slice).unwrap_or_default();
            let (received, result) = sync::receive(job.options, destination, end, report);
            Some(Ended::Received(received, result.err()))
        }
        Inbound::Nobody => None,
    }
}

fn broken_off() -> Fatal {
    Fatal::new(Exit::Stream, "the partner broke off: look at the log of its daemon")
}

fn ended_by(fatal: Fatal) -> Outcome {
    Outcome::of(Err(fatal), Received::default(), None)
}

/// What both sides know, as one. A half that only missed the other one says nothing of worth.
fn outcome(job: &Job<'_>, own: Option<Ended>, end: End) -> Outcome {
    let theirs = |fatal: Fatal| wire::fatal_from_partner(&fatal, job.partner);
    let (mut sent, mut received, mut fatal) = (Ok(Sent::default()), Received::default(), None);
    match own {
        Some(Ended::Sent(result)) => sent = result,
        Some(Ended::Received(all, early)) => (received, fatal) = (all, early),
        None => {}
    }
    let mut lost = None;
    match (end.last_word, &job.theirs) {
        (Some(Ended::Sent(result)), Half::Send { .. } | Half::List { .. }) => {
            sent = result.map_err(theirs);
        }
        (Some(Ended::Received(all, early)), Half::Receive { .. }) => {
            (received, fatal) = (all, early.map(theirs));
        }
        _ => lost = Some(end.failure.unwrap_or_else(broken_off)),
    }
    let late = job.options.stop_at.is_some_and(|at| Instant::now() >= at);
    let stopped = if job.options.cancelled.load(Ordering::Relaxed) {
        Some(Fatal::new(Exit::Signal, "interrupted: nothing half written is left"))
    } else if late {
        Some(Fatal::new(Exit::Timeout, "the time to stop has come"))
    } else {
        None
    };
    let missed = |fatal: &Fatal| fatal.exit == Exit::Halves;
    let real = sent.as_ref().err().or(fatal.as_ref()).is_some_and(|fatal| !missed(fatal));
    match stopped.or(lost.filter(|_| !real)) {
        Some(stopped) => Outcome::of(Ok(sent.unwrap_or_default()), received, Some(stopped)),
        None => {
            let fatal = fatal.map(|fatal| if missed(&fatal) { broken_off() } else { fatal });
            Outcome::of(sent, received, fatal)
        }
    }
}
