//! The two ends of an accepted one-way connection: one sends messages, the other receives them.
//!
//! Decides only how long a message may be on its channel. Knows nothing of what is sent, of
//! reconnecting, or of whether silence means anything.

use std::net::SocketAddr;

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::{client, server};

use crate::{
    error::Error,
    frame::{self, FRAME_BYTES_MAX_CONTROL, FRAME_BYTES_MAX_DATA, FrameError, FrameReader},
    message::Channel,
    registry::LiveGuard,
};

/// Longest frame body on a channel, in bytes.
pub(crate) fn frame_bytes_max(channel: Channel) -> usize {
    match channel {
        Channel::Control => FRAME_BYTES_MAX_CONTROL,
        Channel::Data | Channel::Files | Channel::Sync => FRAME_BYTES_MAX_DATA,
    }
}

/// Where both ends of a connection are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// The receiving end: a connection that the partner dialled.
#[derive(Debug)]
pub struct FrameReceiver {
    /// Boxed, because TLS state is large and this value travels through channels.
    reader: Box<FrameReader<server::TlsStream<TcpStream>>>,
    ends: Ends,
    live: LiveGuard,
}

impl FrameReceiver {
    pub(crate) fn new(
        reader: FrameReader<server::TlsStream<TcpStream>>,
        ends: Ends,
        live: LiveGuard,
    ) -> Self {
        Self { reader: Box::new(reader), ends, live }
    }

    /// The next message; `None` when the partner closed in order. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost, or was ended by a change of trust or by a newer connection of the
    /// partner; or bytes came that are no `T`. After an error the connection is of no more use.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let message = self.reader.recv().await;
        // What was still under way when trust ended is not the partner's word any more.
        self.live.check(self.ends.peer)?;
        message.map_err(|error| Error::frame(self.ends.peer, error))
    }

    /// The partner's address and port.
    pub fn peer_address(&self) -> SocketAddr {
        self.ends.peer
    }

    /// This server's address and port.
    pub fn local_address(&self) -> SocketAddr {
        self.ends.local
    }
}

/// The sending end: a connection that this server dialled.
#[derive(Debug)]
pub struct FrameSender {
    writer: WriteHalf<client::TlsStream<TcpStream>>,
    limit: usize,
    ends: Ends,
    /// True from the first to the last byte of a frame; stays true when a send was cancelled.
    inside_frame: bool,
    closed: watch::Receiver<bool>,
    watcher: AbortHandle,
}

impl FrameSender {
    /// Takes over a stream whose hello was accepted.
    pub(crate) fn new(stream: client::TlsStream<TcpStream>, channel: Channel, ends: Ends) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (closing, closed) = watch::channel(false);
        let watcher = tokio::spawn(watch_for_close(reader, closing)).abort_handle();
        let limit = frame_bytes_max(channel);
        Self { writer, limit, ends, inside_frame: false, closed, watcher }
    }

    /// Sends one message and flushes it. A cancelled call spoils the connection: later ones fail.
    ///
    /// # Errors
    /// The partner has closed, the connection is lost, or the message is longer than its channel
    /// allows (then nothing was sent).
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        let failed = |error| Error::frame(self.ends.peer, error);
        if self.inside_frame {
            return Err(failed(FrameError::Interrupted));
        }
        if *self.closed.borrow() {
            return Err(Error::closed_early(self.ends.peer, "this message could be sent"));
        }
        let frame = frame::encode(message, self.limit).map_err(failed)?;
        self.inside_frame = true;
        self.writer.write_all(&frame).await.map_err(|error| failed(error.into()))?;
        self.writer.flush().await.map_err(|error| failed(error.into()))?;
        self.inside_frame = false;
        Ok(())
    }

    /// Resolves when the partner closes or the connection is lost. It borrows nothing, so it can be
    /// awaited beside `send`.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.clone();
        async move {
            // An error says that the watching task is gone, and with it the connection.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }

    /// Ends the connection in order: the partner's `recv` gives `None`.
    ///
    /// # Errors
    /// The connection was lost before.
    pub async fn close(mut self) -> Result<(), Error> {
        let address = self.ends.peer;
        self.writer.shutdown().await.map_err(|source| Error::Lost { address, source })
    }

    /// The partner's address and port.
    pub fn peer_address(&self) -> SocketAddr {
        self.ends.peer
    }

    /// This server's address and port.
    pub fn local_address(&self) -> SocketAddr {
        self.ends.local
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// The acceptor says nothing after its answer, so whatever this read brings is the end.
async fn watch_for_close(
    mut reader: ReadHalf<client::TlsStream<TcpStream>>,
    closing: watch::Sender<bool>,
) {
    let _ = reader.read(&mut [0; 1]).await;
    closing.send_replace(true);
}
