//! The only reader of clocks and of the kernel's time state.

use ipicsha_core::time::{MonoTime, Now, WallTime};
use rustix::time::{ClockId, clock_gettime};

use crate::config::TimeSource;

/// Both clocks, now. Monotonic time counts suspend, so that a server that slept knows it.
pub(crate) fn now() -> Now {
    let mono = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(mono.tv_sec).unwrap_or_default();
    let micros = u64::try_from(mono.tv_nsec).unwrap_or_default() / 1000;
    Now { mono: MonoTime(seconds * 1_000_000 + micros), wall: wall() }
}

/// The clock that decides, now.
pub(crate) fn monotonic() -> MonoTime {
    now().mono
}

/// Seconds since 1970.
pub(crate) fn wall_seconds() -> i64 {
    wall().0 / 1000
}

/// Wall time, read through libc like every other program of this machine reads it.
pub(crate) fn wall() -> WallTime {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = unix.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    WallTime(millis)
}

/// Is the clock synchronised? (spec A5)
pub(crate) fn time_synced(source: TimeSource) -> bool {
    match source {
        TimeSource::AssumeSynced => true,
        TimeSource::None => false,
        TimeSource::Auto => kernel_synced(),
    }
}

#[allow(unsafe_code)] // adjtimex has no safe wrapper; it only fills the structure it is given
fn kernel_synced() -> bool {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: a zeroed timex is valid and asks for nothing to be changed (modes = 0).
    let (clock_state, status) = unsafe {
        let clock_state = libc::adjtimex(state.as_mut_ptr());
        (clock_state, state.assume_init().status)
    };
    clock_state != libc::TIME_ERROR && clock_state >= 0 && status & libc::STA_UNSYNC == 0
}
