//! How the two halves reach each other.
//!
//! Decides nothing but flow: what is sent to the receiver waits for room, what is sent to the sender
//! never does, so that the two cannot wait for one another. Here both halves are threads of one
//! process; a connection of two servers implements the same trait.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};

use super::message::{ToReceiver, ToSender};

/// Messages on their way to the receiver.
const ON_THE_WAY_MAX: usize = 32;

/// The other half is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other half of the transfer is gone")]
pub struct Gone;

/// One half's connection to the other.
pub trait Channel {
    /// What this half says.
    type Out;
    /// What it hears.
    type In;

    /// Says something. May wait for room at the sender's end only.
    ///
    /// # Errors
    /// The other half is gone.
    fn send(&mut self, message: Self::Out) -> Result<(), Gone>;

    /// Waits for the next message.
    ///
    /// # Errors
    /// The other half is gone, and nothing is left to hear.
    fn receive(&mut self) -> Result<Self::In, Gone>;

    /// The next message, when there is one already.
    ///
    /// # Errors
    /// As [`Self::receive`].
    fn receive_now(&mut self) -> Result<Option<Self::In>, Gone>;
}

/// The sender's end inside one process.
#[derive(Debug)]
pub struct SenderEnd {
    out: SyncSender<ToReceiver>,
    back: Receiver<ToSender>,
}

/// The receiver's end inside one process.
#[derive(Debug)]
pub struct ReceiverEnd {
    messages: Receiver<ToReceiver>,
    back: Sender<ToSender>,
}

/// Two ends for two threads.
pub fn in_process() -> (SenderEnd, ReceiverEnd) {
    let (out, messages) = mpsc::sync_channel(ON_THE_WAY_MAX);
    let (answer, back) = mpsc::channel();
    (SenderEnd { out, back }, ReceiverEnd { messages, back: answer })
}

impl Channel for SenderEnd {
    type Out = ToReceiver;
    type In = ToSender;

    fn send(&mut self, message: ToReceiver) -> Result<(), Gone> {
        self.out.send(message).map_err(|_| Gone)
    }

    fn receive(&mut self) -> Result<ToSender, Gone> {
        self.back.recv().map_err(|_| Gone)
    }

    fn receive_now(&mut self) -> Result<Option<ToSender>, Gone> {
        match self.back.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Gone),
        }
    }
}

impl Channel for ReceiverEnd {
    type Out = ToSender;
    type In = ToReceiver;

    fn send(&mut self, message: ToSender) -> Result<(), Gone> {
        self.back.send(message).map_err(|_| Gone)
    }

    fn receive(&mut self) -> Result<ToReceiver, Gone> {
        self.messages.recv().map_err(|_| Gone)
    }

    fn receive_now(&mut self) -> Result<Option<ToReceiver>, Gone> {
        match self.messages.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Gone),
        }
    }
}
