//! A connection on which both ends send.
//!
//! Decides nothing about what is said. A side that has said everything closes its half and reads on:
//! closing while the other's bytes are unread would lose what is under way.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    connection::Ends,
    error::Error,
    frame::{self, FrameReader},
    registry::LiveGuard,
};

/// Both halves; they can be used by different tasks.
#[derive(Debug)]
pub struct Duplex {
    /// What this end says.
    pub sender: DuplexSender,
    /// What the other end says.
    pub receiver: DuplexReceiver,
}

impl Duplex {
    /// Takes over a stream whose hello was accepted.
    pub(crate) fn new<S>(stream: S, limit: usize, ends: Ends, live: Option<LiveGuard>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(reader);
        Self {
            sender: DuplexSender { writer: Box::new(writer), limit, ends },
            receiver: DuplexReceiver { reader: FrameReader::new(reader, limit), ends, live },
        }
    }
}

/// The sending half.
pub struct DuplexSender {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    limit: usize,
    ends: Ends,
}

impl DuplexSender {
    /// Sends one message. A cancelled call spoils the connection.
    ///
    /// # Errors
    /// The connection is lost, or the message is longer than its channel allows (then nothing was
    /// sent).
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        let sent = frame::send(&mut self.writer, message, self.limit).await;
        sent.map_err(|error| Error::frame(self.ends.peer, error))
    }

    /// Says that nothing follows: the other end's `recv` gives `None`.
    ///
    /// # Errors
    /// The connection was lost before.
    pub async fn finish(&mut self) -> Result<(), Error> {
        let address = self.ends.peer;
        self.writer.shutdown().await.map_err(|source| Error::Lost { address, source })
    }
}

/// The receiving half.
pub struct DuplexReceiver {
    reader: FrameReader<Box<dyn AsyncRead + Send + Unpin>>,
    ends: Ends,
    /// At the accepting end: whether the trust it was accepted under still holds.
    live: Option<LiveGuard>,
}

impl DuplexReceiver {
    /// The next message; `None` when the other end has said everything. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost, or was ended by a change of trust; or bytes came that are no `T`.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let message = self.reader.recv().await;
        if let Some(live) = &self.live {
            live.check(self.ends.peer)?;
        }
        message.map_err(|error| Error::frame(self.ends.peer, error))
    }
}

impl fmt::Debug for DuplexSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuplexSender({})", self.ends.peer)
    }
}

impl fmt::Debug for DuplexReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuplexReceiver({})", self.ends.peer)
    }
}
