//! The Unix socket for `ipicsha VERB`: one JSON line in, one JSON line out.

use std::{os::unix::fs::PermissionsExt, path::Path};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use super::event::Event;
use crate::{
    api::{Answer, Request},
    exit::{Failure, Kind},
};

/// Longest request.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Opens the socket; a stale one of a dead daemon is replaced, a living daemon is not.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::new(Kind::Failed, format!("cannot {what} {}: {error}", path.display()))
            .hinted("check `server.socket`")
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("another daemon answers on {}", path.display());
        return Err(
            Failure::new(Kind::Refused, message).hinted("stop it first, or use another socket")
        );
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| failed("create the directory of", error))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("replace", error));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| failed("listen on", error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|error| failed("protect", error))?;
    Ok(listener)
}

/// Answers requests until the daemon ends.
pub(crate) async fn serve(listener: UnixListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, events.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the socket does not accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, events: mpsc::Sender<Event>) {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_BYTES_MAX));
    if reader.read_line(&mut line).await.is_err() {
        return; // the command line went away
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => match ask(request, &events, gone(&mut reader)).await {
            Some(answer) => answer,
            None => return,
        },
        Err(error) => {
            Err(Failure::new(Kind::Usage, format!("the request cannot be read: {error}"))
                .hinted("use the `ipicsha` of the same version as the daemon"))
        }
    };
    let mut text = serde_json::to_vec(&answer).unwrap_or_default();
    text.push(b'\n');
    if let Err(error) = write.write_all(&text).await {
        tracing::debug!(%error, "the command line did not wait for its answer");
    }
}

/// Ends when the command line goes away before it has its answer.
async fn gone(reader: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = [0; 64];
    while reader.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}

/// The answer; none when who asked is `gone`, which who works on it sees. What was asked for happens
/// all the same, unless only its answer is of use.
async fn ask(
    request: Request,
    events: &mpsc::Sender<Event>,
    gone: impl Future<Output = ()>,
) -> Option<Answer> {
    let (sender, receiver) = oneshot::channel();
    let ending =
        || Failure::new(Kind::Unreachable, "the daemon is ending").hinted("start it again");
    if events.send(Event::Request(request, sender)).await.is_err() {
        return Some(Err(ending()));
    }
    tokio::select! {
        biased;
        answer = receiver => Some(answer.unwrap_or_else(|_| Err(ending()))),
        () = gone => None,
    }
}
