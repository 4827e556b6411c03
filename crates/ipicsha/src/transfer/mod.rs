//! `ipicsha sync` between the two servers: who asks, who answers, and what joins their halves.
//!
//! Decides how messages of a transfer become frames of a link, what a partner may ask for, and how
//! both sides end so that nothing is lost. What a transfer does is decided in `ipicsha-files`.
//! Blocking code in threads of its own: heartbeats and records never wait for it.

mod answer;
mod ask;
mod ends;
mod line;
mod policy;
mod queue;
#[cfg(test)]
mod tests;

pub(crate) use answer::Transfers;
pub(crate) use ask::{Job, ask};
pub(crate) use policy::Policy;

use ipicsha_files::sync::{Exit, Fatal};
use ipicsha_link::{Error, FrameError};

/// A failure of the link as the end of a transfer.
pub(crate) fn fatal(error: &Error) -> Fatal {
    let exit = if matches!(error, Error::Unreachable { .. } | Error::LocalAddress { .. }) {
        Exit::Socket
    } else if matches!(error, Error::Timeout { step: "connecting", .. }) {
        Exit::ConnectTimeout
    } else if matches!(error, Error::Timeout { .. }) {
        Exit::Timeout
    } else if matches!(error, Error::GivenUp { .. }) {
        Exit::Signal
    } else if let Error::Frame {
        source: FrameError::TooLong { .. } | FrameError::Malformed(_),
        ..
    } = error
    {
        Exit::Protocol
    } else if matches!(error, Error::Lost { .. } | Error::ClosedEarly { .. } | Error::Frame { .. })
    {
        Exit::Stream
    } else {
        Exit::Start
    };
    let text = match error.next_step() {
        Some(next) => format!("{error}\nnext: {next}"),
        None => error.to_string(),
    };
    Fatal::new(exit, text)
}
