//! How the C library keeps the memory that is given back to it.
//!
//! Decides how much of it stays for what comes next. What is given back to the system at once is fetched and
//! cleared page by page the next time: a third of the processor's time of a large `sync`.

/// Smaller pieces come from memory that is kept.
#[cfg(target_env = "gnu")]
const KEPT_PIECE: i32 = 4 << 20;
/// So much of it stays free at most, for each of the pools that threads share.
#[cfg(target_env = "gnu")]
const KEPT_FREE: i32 = 8 << 20;

/// To be called before the first thread is started.
#[allow(unsafe_code)] // neither std nor rustix knows mallopt
pub(crate) fn keep_what_is_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: both calls take two numbers and no memory of ours; one that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_PIECE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE);
    }
}
