//! Waiting for conditions. Limits are generous: they end a test that hangs, they judge no speed.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two looks.
const STEP: Duration = Duration::from_millis(25);
/// Ample for anything that takes a second at the `fast` profile.
pub const SOON: Duration = Duration::from_secs(30);

/// Looks until `condition` gives a value.
///
/// # Errors
/// `limit` has passed; the message says `what` was waited for.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        thread::sleep(STEP);
    }
}

/// Watches that `condition` stays true for all of `span`: the way to see that something does not
/// happen.
///
/// # Errors
/// It became false.
pub fn holds_for(what: &str, span: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if !condition() {
            bail!("it did not last: {what}");
        }
        thread::sleep(STEP);
    }
    Ok(())
}

/// Milliseconds since 1970, by this machine's clock.
pub fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
