//! What the test and a node say to each other: length, then postcard.

use std::io::{self, Read, Write};

use ipicsha_core::file::File;
use ipicsha_files::replicate::DirectoryStatus;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const FRAME_MAX: usize = 64 << 20;

/// To a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToNode {
    /// The partner said this.
    Received(File),
    /// Number of the outgoing connection; 0 is none.
    Link(u64),
    /// Whether files may travel.
    Gate(bool),
    /// Answered with the same number.
    Flush(u64),
}

/// From a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromNode {
    /// To the partner, by the connection of this number.
    Send(u64, File),
    Status(Box<DirectoryStatus>),
    Flushed(u64, Result<(), String>),
}

pub(crate) fn write(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_le_bytes()[..], &bytes].concat())
}

pub(crate) fn read<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    assert!(length <= FRAME_MAX, "a frame of {length} bytes");
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}
