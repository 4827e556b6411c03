//! The receiving end of a one-way connection for a thread of its own, which nothing has to be woken for
//! but the thread itself. Decides nothing.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::{
    duplex::{DuplexReceiver, Patience},
    error::Error,
    frame,
};

/// Receives messages on a thread that may wait.
#[derive(Debug)]
pub struct BlockingReceiver {
    receiver: DuplexReceiver,
    frame: Vec<u8>,
}

impl BlockingReceiver {
    pub(crate) fn new(mut receiver: DuplexReceiver) -> Self {
        // Whether silence means anything is the business of others.
        let patience = Patience { silence_max: Duration::MAX, ..Patience::default() };
        receiver.set_patience(&patience);
        Self { receiver, frame: Vec::new() }
    }

    /// A message is about to come: for so long the thread stays awake while it waits.
    pub fn expect(&mut self, within: Duration) {
        self.receiver.expect(Instant::now() + within);
    }

    /// The next message; `None` when the partner closed in order. Waits without an end.
    ///
    /// # Errors
    /// As [`crate::FrameReceiver::recv`].
    pub fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let frame = std::mem::take(&mut self.frame);
        let Some(frame) = self.receiver.recv(frame, &mut || {})? else { return Ok(None) };
        self.frame = frame;
        let message = frame::decode(&self.frame);
        message.map(Some).map_err(|error| Error::frame(self.receiver.peer_address(), error))
    }
}
