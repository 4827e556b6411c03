//! The two ends of an accepted one-way connection: one sends messages, the other receives them.
//!
//! Decides only how long a message may be on its channel. Knows nothing of what is sent, of
//! reconnecting, or of whether silence means anything.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::{client, server};

use crate::{
    blocking::BlockingReceiver,
    duplex::Duplex,
    error::Error,
    frame::{self, FRAME_BYTES_MAX_CONTROL, FRAME_BYTES_MAX_DATA, FrameError, FrameReader},
    message::Channel,
    registry::LiveGuard,
};

/// Longest frame body on a channel, in bytes.
pub(crate) fn frame_bytes_max(channel: Channel) -> usize {
    match channel {
        Channel::Control => FRAME_BYTES_MAX_CONTROL,
        Channel::Data | Channel::Files | Channel::Sync | Channel::Probe => FRAME_BYTES_MAX_DATA,
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

    /// The same connection for a thread that may wait.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub fn into_blocking(self) -> Result<BlockingReceiver, Error> {
        let (tcp, tls) = self.reader.into_stream().into_inner();
        let duplex = Duplex::new(tcp, tls, self.ends, Some(self.live))?;
        Ok(BlockingReceiver::new(duplex.receiver))
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

/// What became of a message that must not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Whole,
    /// A part of it waits for [`FrameSender::finish`].
    Begun,
    /// Nothing of it: an earlier one is not finished.
    No,
}

/// The sending end: a connection that this server dialled.
#[derive(Debug)]
pub struct FrameSender {
    writer: WriteHalf<client::TlsStream<TcpStream>>,
    limit: usize,
    ends: Ends,
    /// True from the first to the last byte of a frame; stays true when a send was cancelled.
    inside_frame: bool,
    /// What [`FrameSender::try_send`] could not write without waiting.
    rest: Vec<u8>,
    /// The connection has taken bytes that may not be on their way yet.
    unflushed: bool,
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
        Self {
            writer,
            limit,
            ends,
            inside_frame: false,
            rest: Vec::new(),
            unflushed: false,
            closed,
            watcher,
        }
    }

    /// Sends one message and flushes it. A cancelled call spoils the connection: later ones fail.
    ///
    /// # Errors
    /// The partner has closed, the connection is lost, or the message is longer than its channel
    /// allows (then nothing was sent).
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        let peer = self.ends.peer;
        let failed = |error| Error::frame(peer, error);
        if self.inside_frame {
            return Err(failed(FrameError::Interrupted));
        }
        if *self.closed.borrow() {
            return Err(Error::closed_early(self.ends.peer, "this message could be sent"));
        }
        let frame = frame::encode(message, self.limit).map_err(failed)?;
        self.finish().await?;
        self.inside_frame = true;
        self.writer.write_all(&frame).await.map_err(|error| failed(error.into()))?;
        self.writer.flush().await.map_err(|error| failed(error.into()))?;
        self.inside_frame = false;
        Ok(())
    }

    /// Sends one message without waiting, from any thread. What the connection does not take at once
    /// is kept, and then [`FrameSender::finish`] must be called soon.
    ///
    /// # Errors
    /// As [`FrameSender::send`].
    pub fn try_send<T: Serialize>(&mut self, message: &T) -> Result<Sent, Error> {
        let peer = self.ends.peer;
        let failed = |error| Error::frame(peer, error);
        if self.inside_frame {
            return Err(failed(FrameError::Interrupted));
        }
        if *self.closed.borrow() {
            return Err(Error::closed_early(self.ends.peer, "this message could be sent"));
        }
        if !self.is_idle() {
            return Ok(Sent::No);
        }
        let frame = frame::encode(message, self.limit).map_err(failed)?;
        let mut context = Context::from_waker(Waker::noop());
        let mut written = 0;
        self.inside_frame = true;
        while written < frame.len() {
            match Pin::new(&mut self.writer).poll_write(&mut context, &frame[written..]) {
                Poll::Ready(Ok(0)) => return Err(failed(FrameError::Interrupted)),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Err(failed(error.into())),
                Poll::Pending => {
                    self.rest = frame[written..].to_vec();
                    break;
                }
            }
        }
        self.unflushed = match Pin::new(&mut self.writer).poll_flush(&mut context) {
            Poll::Ready(flushed) => {
                flushed.map_err(|error| failed(error.into())).map(|()| false)?
            }
            Poll::Pending => true,
        };
        self.inside_frame = false;
        Ok(if self.is_idle() { Sent::Whole } else { Sent::Begun })
    }

    fn is_idle(&self) -> bool {
        self.rest.is_empty() && !self.unflushed
    }

    /// Writes what [`FrameSender::try_send`] has left. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn finish(&mut self) -> Result<(), Error> {
        let peer = self.ends.peer;
        let failed = |error: std::io::Error| Error::frame(peer, error.into());
        while !self.rest.is_empty() {
            let count = self.writer.write(&self.rest).await.map_err(failed)?;
            if count == 0 {
                return Err(Error::frame(self.ends.peer, FrameError::Interrupted));
            }
            self.rest.drain(..count);
            self.unflushed = true;
        }
        if self.unflushed {
            self.writer.flush().await.map_err(failed)?;
            self.unflushed = false;
        }
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
