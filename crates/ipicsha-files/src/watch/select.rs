//! Which method watches a root.
//!
//! Decides the order of trying, and what a method must show before it is trusted: that it reports a
//! file we make. Must not know how methods work.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    Method, Options, Refused, cookie, fanotify::Fanotify, inotify::Inotify, polling::Polling,
    portable::Portable, shared::Shared,
};

/// How long a file system may take to report our first file.
const PROOF: Duration = Duration::from_secs(2);

/// One way of noticing changes, at work.
pub(super) trait Backend: Send {
    fn method(&self) -> Method;

    /// Readable when there is something to take in.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Takes in what there is, a bounded amount of it, and gives hints. Says when it wants to be
    /// called again in any case.
    ///
    /// # Errors
    /// It cannot go on; the text says why.
    fn step(&mut self, now: Instant, hints: &Shared) -> Result<Option<Instant>, String>;

    /// Gives hints for everything that it might not have noticed, because somebody relies on it.
    fn complete(&mut self, hints: &Shared);

    /// Places that are only looked at now and then, and what to do about it.
    fn trouble(&self) -> (usize, Option<String>);
}

/// The root, as backends get it.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) fd: &'a OwnedFd,
    pub(super) options: &'a Options,
}

/// Starts the first method that works here, of those from `best` on that are better than `than`; why
/// the others do not is put to `refused`.
pub(super) fn select(
    place: &Place<'_>,
    best: Method,
    than: Method,
    refused: &mut Vec<Refused>,
    hints: &Shared,
) -> Option<Box<dyn Backend>> {
    let listening = [Method::Fanotify, Method::Inotify, Method::Notify];
    for method in listening.into_iter().filter(|method| *method < than) {
        if method < best {
            if !refused.iter().any(|known| known.method == method) {
                refused.push(Refused { method, why: "not asked for".into() });
            }
            continue;
        }
        match start(place, method, hints) {
            Ok(backend) => return Some(backend),
            Err(why) => {
                refused.retain(|known| known.method != method);
                refused.push(Refused { method, why });
            }
        }
    }
    None
}

fn start(place: &Place<'_>, method: Method, hints: &Shared) -> Result<Box<dyn Backend>, String> {
    if let Some(name) = network(place.fd) {
        return Err(format!("changes made by other machines are not reported on {name}"));
    }
    // Made before anything is covered, so that cookies are seen from the first one on.
    let writable = cookie::prepare(place.fd.as_fd()).is_ok();
    let mut backend: Box<dyn Backend> = match method {
        Method::Fanotify => Box::new(Fanotify::start(place)?),
        Method::Inotify => Box::new(Inotify::start(place)?),
        Method::Notify => Box::new(Portable::start(place)?),
        Method::Polling => return Ok(Box::new(Polling::new(place.options.poll_every))),
    };
    if writable {
        prove(&mut *backend, place, hints)?;
    }
    Ok(backend)
}

/// File systems whose content changes behind the back of this kernel.
fn network(root: &OwnedFd) -> Option<&'static str> {
    let kind = rustix::fs::fstatfs(root).ok()?.f_type;
    let kinds = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x0102_1997, "9p"),
        (0x00C3_6400, "Ceph"),
        (0x6573_5546, "FUSE"),
    ];
    let kind = kind as u64 & 0xFFFF_FFFF;
    kinds.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name)
}

/// Some file systems take a mark and never report: ours must be reported.
fn prove(backend: &mut dyn Backend, place: &Place<'_>, hints: &Shared) -> Result<(), String> {
    let number = cookie::expect(hints);
    let seen = make_and_wait(backend, place, hints, number);
    let mut state = hints.lock();
    state.cookies.remove(&number);
    state.seen.remove(&number);
    seen
}

fn make_and_wait(
    backend: &mut dyn Backend,
    place: &Place<'_>,
    hints: &Shared,
    number: u64,
) -> Result<(), String> {
    // Full or read-only: what cannot be proven is taken as it is.
    if cookie::make(place.fd.as_fd(), number).is_err() {
        return Ok(());
    }
    let deadline = Instant::now() + PROOF;
    while Instant::now() < deadline {
        sleep_until(&[backend.fd()], Instant::now() + PROOF / 20);
        backend.step(Instant::now(), hints)?;
        if hints.lock().seen.contains(&number) {
            return Ok(());
        }
    }
    Err("the file system does not report changes".into())
}

/// Waits until one of the descriptors is readable, or the time has come.
pub(super) fn sleep_until(fds: &[Option<BorrowedFd<'_>>], until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    // Rounded up: waking a moment early would mean to spin until the moment is there.
    let left = left + Duration::from_millis(1);
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut fds: Vec<_> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        // Without memory for waiting, wait all the same.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}
