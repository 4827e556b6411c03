//! How much the link to the partner carries (spec A11): bytes are sent for a moment over a connection of
//! their own, and the partner says how many came.

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use ipicsha_core::trust::Partner;
use ipicsha_link::{Channel, Dial, Duplex, Error, Hello, Patience, connect_duplex};

use super::link::LinkContext;

/// One frame.
const FRAME: usize = 64 * 1024;
/// Sending ends after either.
const LONGEST: Duration = Duration::from_secs(2);
const LARGEST: u64 = 16 << 20;
/// Nothing goes on for so long: there is no measuring it.
const SILENCE: Duration = Duration::from_secs(10);

fn patience() -> Patience {
    Patience { silence_max: SILENCE, given_up: Arc::new(AtomicBool::new(false)) }
}

/// Counts what the partner sends, and says how much it was.
pub(super) fn answer(mut duplex: Duplex) {
    let count = move || {
        duplex.set_patience(&patience());
        let (mut bytes, mut frame) = (0_u64, Vec::new());
        loop {
            match duplex.receiver.recv(frame, &mut || {}) {
                Ok(Some(received)) if bytes <= LARGEST => {
                    bytes += received.len() as u64;
                    frame = received;
                }
                Ok(Some(_)) | Err(_) => return,
                Ok(None) => break,
            }
        }
        // Whoever asked may be gone.
        let _ = duplex.sender.send(&[&bytes.to_be_bytes()]).and_then(|()| duplex.sender.finish());
    };
    if let Err(error) = thread::Builder::new().name("probe".into()).spawn(count) {
        tracing::warn!(%error, "no thread to measure the link");
    }
}

/// Bits per second to the partner.
///
/// # Errors
/// The partner cannot be reached, or says nothing.
pub(super) async fn bandwidth(context: &LinkContext, partner: &Partner) -> Result<u64, String> {
    let target =
        partner.address.parse().map_err(|_| format!("{:?} is no address", partner.address))?;
    let hello = Hello { channel: Channel::Probe, ..context.hello.clone() };
    let dial = Dial {
        target,
        local: context.local,
        partner,
        identity: &context.identity,
        hello,
        timeout: SILENCE,
        user_timeout: Some(SILENCE),
    };
    let duplex = connect_duplex(&dial).await.map_err(|error| error.to_string())?;
    let measured = tokio::task::spawn_blocking(move || measure(duplex)).await;
    measured.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn measure(mut duplex: Duplex) -> Result<u64, Error> {
    duplex.set_patience(&patience());
    let (begin, frame) = (Instant::now(), vec![0xA5; FRAME]);
    let mut sent = 0;
    while sent < LARGEST && begin.elapsed() < LONGEST {
        duplex.sender.send(&[&frame])?;
        sent += FRAME as u64;
    }
    duplex.sender.finish()?;
    let counted = duplex.receiver.recv(Vec::new(), &mut || {})?;
    let seconds = begin.elapsed().as_secs_f64();
    let counted =
        counted.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).map_or(0, u64::from_be_bytes);
    Ok((counted as f64 * 8.0 / seconds) as u64)
}
