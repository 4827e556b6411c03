//! Where a message ends: four bytes of length (big-endian), then one postcard value.
//!
//! Decides how much the other end may make this server hold. The limit is checked before any memory
//! is reserved. Knows neither TLS nor what the messages mean.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame body of a server that has not said who it is, in bytes.
pub const FRAME_BYTES_MAX_HELLO: usize = 4 * 1024;
/// Longest frame body on a control connection, in bytes.
pub const FRAME_BYTES_MAX_CONTROL: usize = 64 * 1024;
/// Longest frame body on a data connection, in bytes.
pub const FRAME_BYTES_MAX_DATA: usize = 64 * 1024 * 1024;

pub(crate) const HEADER: usize = 4;

/// Bytes that are no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed here.
    #[error("a frame of {length} bytes is longer than the {limit} bytes allowed")]
    TooLong {
        /// Bytes announced or to be sent.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the connection ended after {received} bytes of a frame")]
    Truncated {
        /// Bytes of the frame that came, header included.
        received: usize,
    },
    /// The body is not the expected message, or has bytes after it.
    #[error("a frame is no valid message: {0}")]
    Malformed(&'static str),
    /// An earlier send was cancelled inside a frame; nothing after it would be understood.
    #[error("an earlier message was cut short")]
    Interrupted,
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads frames. `recv` is cancel-safe: what came of a frame is kept for the next call.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    limit: usize,
    buffer: Vec<u8>,
    filled: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R, limit: usize) -> Self {
        Self { stream, limit, buffer: Vec::new(), filled: 0 }
    }

    /// Allows longer (or only shorter) frames from now on.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(crate) fn stream(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Gives the stream back; nothing beyond the frames received is lost, as no byte is read ahead.
    pub(crate) fn into_stream(self) -> R {
        self.stream
    }

    /// The next message; `None` when the stream ended between two frames.
    pub(crate) async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            let wanted = self.wanted()?;
            if self.filled == wanted {
                self.filled = 0;
                return decode(&self.buffer[HEADER..wanted]).map(Some);
            }
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            match self.stream.read(&mut self.buffer[self.filled..wanted]).await? {
                0 if self.filled == 0 => return Ok(None),
                0 => return Err(FrameError::Truncated { received: self.filled }),
                count => self.filled += count,
            }
        }
    }

    /// Bytes of the current frame, as far as they are known: the header first, then all.
    fn wanted(&self) -> Result<usize, FrameError> {
        if self.filled < HEADER {
            return Ok(HEADER);
        }
        let header = [self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]];
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        check(length, self.limit)?;
        Ok(HEADER + length)
    }
}

/// Writes one frame and flushes it. Not cancel-safe.
pub(crate) async fn send<W, T>(stream: &mut W, value: &T, limit: usize) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin,
    T: Serialize + ?Sized,
{
    let frame = encode(value, limit)?;
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// One frame as bytes, header included.
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    limit: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(value, vec![0; HEADER])
        .map_err(|_| FrameError::Malformed("it cannot be written as bytes"))?;
    let length = frame.len() - HEADER;
    check(length, limit)?;
    let header = u32::try_from(length).expect("every limit is far below 4 GiB").to_be_bytes();
    frame[..HEADER].copy_from_slice(&header);
    Ok(frame)
}

/// The message that a frame without its header is.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(FrameError::Malformed("there are bytes after its end")),
        Err(_) => Err(FrameError::Malformed("its bytes are not the expected message")),
    }
}

pub(crate) fn check(length: usize, limit: usize) -> Result<(), FrameError> {
    if length > limit { Err(FrameError::TooLong { length, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Message = (u32, String, Vec<u8>);

    fn message() -> Message {
        (7, "text".into(), vec![1, 2, 3])
    }

    async fn read_all(bytes: &[u8]) -> Vec<Result<Option<Message>, FrameError>> {
        let mut reader = FrameReader::new(bytes, 64);
        let mut results = Vec::new();
        loop {
            let result = reader.recv::<Message>().await;
            let more = matches!(result, Ok(Some(_)));
            results.push(result);
            if !more {
                return results;
            }
        }
    }

    #[tokio::test]
    async fn frames_follow_each_other_and_end_in_order() {
        let frame = encode(&message(), 64).unwrap();
        let results = read_all(&[frame.clone(), frame].concat()).await;
        assert_eq!(results.len(), 3);
        assert_eq!(results[0].as_ref().unwrap(), &Some(message()));
        assert_eq!(results[1].as_ref().unwrap(), &Some(message()));
        assert_eq!(results[2].as_ref().unwrap(), &None);
    }

    #[tokio::test]
    async fn every_truncation_is_an_error_of_its_own() {
        let frame = encode(&message(), 64).unwrap();
        for end in 1..frame.len() {
            let results = read_all(&frame[..end]).await;
            let error = results[0].as_ref().unwrap_err();
            assert!(
                matches!(error, FrameError::Truncated { received } if *received == end),
                "{end}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn length_is_refused_before_memory_is_reserved() {
        let mut reader = FrameReader::new(&[0xff; 12][..], 64);
        let error = reader.recv::<Message>().await.unwrap_err();
        let too_long = 0xffff_ffff_usize;
        assert!(matches!(error, FrameError::TooLong { length, limit: 64 } if length == too_long));
        assert!(reader.buffer.capacity() <= 64, "{}", reader.buffer.capacity());
        assert!(matches!(encode(&vec![0_u8; 64], 64), Err(FrameError::TooLong { length: 65, .. })));
        assert!(encode(&vec![0_u8; 63], 64).is_ok());
    }

    #[tokio::test]
    async fn random_bytes_give_errors_and_never_a_panic() {
        // xorshift: any bytes do, but always the same ones.
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut refused = 0;
        for round in 0..4000_usize {
            let mut bytes = vec![0, 0, 0, u8::try_from(round % 60).unwrap()];
            for _ in 0..round % 60 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push(state.to_le_bytes()[0]);
            }
            let results = read_all(&bytes).await;
            refused += usize::from(results[0].is_err());
        }
        assert!(refused > 3900, "{refused}");
    }

    #[tokio::test]
    async fn trailing_bytes_are_refused() {
        let mut frame = encode(&message(), 64).unwrap();
        frame.push(0);
        frame[3] += 1;
        let results = read_all(&frame).await;
        assert!(matches!(results[0], Err(FrameError::Malformed(_))));
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut writer, stream) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(stream, 64);
        let frame = encode(&message(), 64).unwrap();
        for byte in &frame[..frame.len() - 1] {
            writer.write_all(&[*byte]).await.unwrap();
            let received =
                tokio::time::timeout(Duration::from_millis(1), reader.recv::<Message>()).await;
            assert!(received.is_err(), "complete too early");
        }
        writer.write_all(&frame[frame.len() - 1..]).await.unwrap();
        assert_eq!(reader.recv::<Message>().await.unwrap(), Some(message()));
    }
}
