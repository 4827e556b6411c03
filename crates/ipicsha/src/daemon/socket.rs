//! The Unix socket for `ipicsha VERB`: one JSON line in, one JSON line out.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::{UnixListener, UnixStream, unix::WriteHalf},
    sync::{mpsc, oneshot},
};

use super::event::Event;
use crate::{
    api::{Answer, Request},
    exit::{Failure, Kind},
};

/// Longest request.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// So often it is looked whether who asked still waits.
const GONE_LOOK: Duration = Duration::from_millis(250);

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
                tokio::time::sleep(Duration::from_millis(100)).await;
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
        Ok(request) => match ask(request, &events, gone(&write)).await {
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
/// One that has only said everything waits for its answer.
async fn gone(write: &WriteHalf<'_>) {
    while write.ready(Interest::WRITABLE).await.is_ok_and(|ready| !ready.is_write_closed()) {
        tokio::time::sleep(GONE_LOOK).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that is answered when the test says so.
    async fn asked(client: &mut UnixStream, server: UnixStream) -> (mpsc::Receiver<Event>, Event) {
        let (sender, mut events) = mpsc::channel(1);
        tokio::spawn(answer(server, sender));
        let request = serde_json::to_string(&Request::Look(crate::api::Look::Trust)).unwrap();
        client.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let event = events.recv().await.unwrap();
        (events, event)
    }

    #[tokio::test]
    async fn who_has_said_everything_gets_the_answer_and_who_is_gone_is_noticed() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (_events, event) = asked(&mut client, server).await;
        client.shutdown().await.unwrap(); // as `nc -N` does
        tokio::time::sleep(GONE_LOOK * 2).await;
        let Event::Request(_, waiter) = event else { panic!("a request") };
        waiter.send(Ok(serde_json::json!("here"))).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "{\"Ok\":\"here\"}\n");

        let (mut client, server) = UnixStream::pair().unwrap();
        let (_events, event) = asked(&mut client, server).await;
        drop(client);
        let Event::Request(_, mut waiter) = event else { panic!("a request") };
        waiter.closed().await; // without an end otherwise
    }
}
