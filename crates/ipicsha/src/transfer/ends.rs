//! The ends that the two halves of a transfer hold, and the thread that hears the other side.
//!
//! Decides that a half never sends while it should hear: what comes is taken by a thread of its own.
//! What is for the receiver waits in the network when the receiver is slow; what is for the sender
//! never does.

use std::sync::{Arc, atomic::AtomicBool};

use ipicsha_files::sync::{
    Exit, Fatal, Report,
    channel::{Channel, Gone},
    message::{ToReceiver, ToSender},
    wire::{self, Packet},
};
use ipicsha_link::DuplexReceiver;

use super::{
    line::Line,
    queue::{Full, Queue},
};

/// Messages for the receiver that wait for it, in bytes.
const FOR_RECEIVER_MAX: u64 = 4 * 1024 * 1024;
/// Messages for the sender that wait for it: more than any transfer needs.
const FOR_SENDER_MAX: u64 = 256 * 1024 * 1024;

/// What the other side says, by who it is for.
pub(super) enum Inbound {
    /// The half that has the files is here.
    Sender(Queue<ToSender>),
    /// The half that makes the files is here.
    Receiver(Queue<ToReceiver>),
    /// No half is here.
    Nobody,
}

impl Inbound {
    pub(super) fn for_sender() -> Self {
        Self::Sender(Queue::new(FOR_SENDER_MAX, Full::Refuse))
    }

    pub(super) fn for_receiver() -> Self {
        Self::Receiver(Queue::new(FOR_RECEIVER_MAX, Full::Wait))
    }

    fn close(&self) {
        match self {
            Self::Sender(queue) => queue.close(),
            Self::Receiver(queue) => queue.close(),
            Self::Nobody => {}
        }
    }

    /// The half has ended.
    pub(super) fn abandon(&self) {
        match self {
            Self::Sender(queue) => queue.abandon(),
            Self::Receiver(queue) => queue.abandon(),
            Self::Nobody => {}
        }
    }
}

/// Where events of the other side are shown.
pub(super) struct Shown<'a> {
    pub(super) report: &'a dyn Report,
    /// Name of the other side.
    pub(super) name: &'a str,
}

/// Hears the other side until it has nothing more to say.
pub(super) fn hear(
    mut receiver: DuplexReceiver,
    line: &Line,
    inbound: &Inbound,
    shown: Option<&Shown<'_>>,
) {
    let mut frame = Vec::new();
    loop {
        match receiver.recv(frame, &mut || line.keep_alive()) {
            Ok(Some(heard)) => frame = heard,
            Ok(None) => break,
            Err(error) => {
                line.fail(super::fatal(&error));
                break;
            }
        }
        let mut wrong = None;
        let taken = wire::unpack(&frame, |packet| {
            wrong = take(packet, line, inbound, shown).err();
            wrong.is_none()
        });
        if let Some(fatal) = wrong.or_else(|| taken.err().map(Into::into)) {
            line.fail(fatal);
            break;
        }
    }
    inbound.close();
    line.close();
}

fn take(
    packet: Packet,
    line: &Line,
    inbound: &Inbound,
    shown: Option<&Shown<'_>>,
) -> Result<(), Fatal> {
    let mut idle = || line.keep_alive();
    match (packet, inbound, shown) {
        (Packet::ToReceiver(message), Inbound::Receiver(queue), _) => {
            let weight = message.weight();
            queue.push(message, weight, &mut idle);
        }
        (Packet::ToSender(message), Inbound::Sender(queue), _) => {
            let weight = message.weight();
            if !queue.push(message, weight, &mut idle) {
                let text = "the other side asks for more than can be remembered";
                return Err(Fatal::new(Exit::Protocol, text));
            }
        }
        (Packet::Event(event), _, Some(shown)) => {
            shown.report.event(wire::from_partner(event, shown.name));
        }
        (Packet::Ended(ended), ..) => {
            inbound.close();
            line.heard_last_word(ended);
        }
        _ => return Err(Fatal::new(Exit::Protocol, "the other side says what is not its turn")),
    }
    Ok(())
}

/// What the half that has the files holds.
pub(super) struct SenderEnd<'a> {
    pub(super) line: &'a Line,
    pub(super) heard: &'a Queue<ToSender>,
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Channel for SenderEnd<'_> {
    type Out = ToReceiver;
    type In = ToSender;

    fn send(&mut self, message: ToReceiver) -> Result<(), Gone> {
        if self.heard.is_closed() {
            return Err(Gone);
        }
        self.line.say(&Packet::ToReceiver(message))
    }

    fn receive(&mut self) -> Result<ToSender, Gone> {
        self.line.flush()?;
        self.heard.pop(&self.cancelled)
    }

    fn receive_now(&mut self) -> Result<Option<ToSender>, Gone> {
        self.line.flush_if_due()?;
        self.heard.pop_now()
    }
}

/// What the half that makes the files holds.
pub(super) struct ReceiverEnd<'a> {
    pub(super) line: &'a Line,
    pub(super) heard: &'a Queue<ToReceiver>,
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Channel for ReceiverEnd<'_> {
    type Out = ToSender;
    type In = ToReceiver;

    fn send(&mut self, message: ToSender) -> Result<(), Gone> {
        self.line.say(&Packet::ToSender(message))
    }

    fn receive(&mut self) -> Result<ToReceiver, Gone> {
        if let Some(message) = self.receive_now()? {
            return Ok(message);
        }
        self.line.flush()?;
        self.heard.pop(&self.cancelled)
    }

    fn receive_now(&mut self) -> Result<Option<ToReceiver>, Gone> {
        self.line.flush_if_due()?;
        self.heard.pop_now()
    }
}
