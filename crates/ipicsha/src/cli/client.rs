//! One request to the daemon over its Unix socket.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::{
    api::{Answer, Request},
    exit::{Failure, Kind},
};

/// Sends the request and waits for the answer, however long the daemon takes.
pub(crate) fn ask(socket: &Path, request: &Request) -> Answer {
    let unreachable = |error: &std::io::Error| {
        let (kind, hint) = if error.kind() == std::io::ErrorKind::PermissionDenied {
            (Kind::NotPermitted, "run it as root or as a member of the group of the socket")
        } else {
            (
                Kind::Unreachable,
                "start it: `systemctl start ipicsha`, or `ipicsha --config FILE daemon`",
            )
        };
        let message = format!("the daemon does not answer on {}: {error}", socket.display());
        Failure::new(kind, message).hinted(hint)
    };
    let mut stream = UnixStream::connect(socket).map_err(|error| unreachable(&error))?;
    let mut line = serde_json::to_string(request).map_err(anyhow::Error::from)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(|error| unreachable(&error))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|error| unreachable(&error))?;
    if answer.is_empty() {
        return Err(Failure::new(Kind::Unreachable, "the daemon ended before it answered")
            .hinted("look at its log, then at `ipicsha ha-status`"));
    }
    let answer: Answer = serde_json::from_str(&answer).map_err(anyhow::Error::from)?;
    answer
}
