//! One connection of a transfer: what is said on it, by whichever thread, and how it ended.
//!
//! Decides when gathered messages are sent, and that the other side is told that this one lives.
//! Must not know what a transfer does.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use ipicsha_files::sync::{
    Fatal,
    channel::Gone,
    wire::{Ended, Packer, Packet},
};
use ipicsha_link::{DuplexSender, Error, FRAME_ROOM, Patience};

/// Nothing said for so long: a sign of life.
const SIGN_AFTER: Duration = Duration::from_secs(5);
const SLICE: Duration = Duration::from_millis(100);

/// What both threads of one side share.
pub(super) struct Line {
    out: Mutex<Out>,
    end: Mutex<End>,
    ended: Condvar,
}

struct Out {
    sender: DuplexSender,
    packer: Packer,
    said: Instant,
}

/// How the other side, or the connection, ended.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The last word of the other side.
    pub(super) last_word: Option<Ended>,
    /// Why the connection is of no more use.
    pub(super) failure: Option<Fatal>,
    /// Nothing more comes.
    over: bool,
}

impl Line {
    pub(super) fn new(sender: DuplexSender, compress: Option<i32>) -> Self {
        let packer = Packer::new(FRAME_ROOM, compress);
        Self {
            out: Mutex::new(Out { sender, packer, said: Instant::now() }),
            end: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, result: Result<(), Error>) -> Result<(), Gone> {
        result.map_err(|error| {
            self.fail(super::fatal(&error));
            Gone
        })
    }

    /// From now on.
    pub(super) fn set_patience(&self, patience: &Patience) {
        self.out().sender.set_patience(patience);
    }

    /// From now on.
    pub(super) fn set_compression(&self, compress: Option<i32>) {
        self.out().packer.set_compression(compress);
    }

    /// Says something, now or together with what follows soon.
    pub(super) fn say(&self, packet: &Packet) -> Result<(), Gone> {
        let result = {
            let Out { sender, packer, said } = &mut *self.out();
            let send = |frame: &mut [u8]| {
                *said = Instant::now();
                sender.send(frame)
            };
            packer.add(packet, send)
        };
        self.sent(result)
    }

    /// Sends what is gathered.
    pub(super) fn flush(&self) -> Result<(), Gone> {
        let result = flush(&mut self.out());
        self.sent(result)
    }

    /// Sends what has been gathered long enough.
    pub(super) fn flush_if_due(&self) -> Result<(), Gone> {
        let result = {
            let mut out = self.out();
            if out.packer.is_due() { flush(&mut out) } else { Ok(()) }
        };
        self.sent(result)
    }

    /// Shows the other side that this one lives, unless it has just seen that.
    pub(super) fn keep_alive(&self) {
        let mut out = match self.out.try_lock() {
            Ok(out) => out,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is sending.
            Err(TryLockError::WouldBlock) => return,
        };
        if out.said.elapsed() < SIGN_AFTER {
            return;
        }
        let result = flush(&mut out).and_then(|()| {
            let mut sign = out.packer.sign_of_life();
            out.said = Instant::now();
            out.sender.send(&mut sign)
        });
        drop(out);
        // Whoever says something next is told.
        let _ = self.sent(result);
    }

    /// Everything is said.
    pub(super) fn finish(&self) {
        // What is not said by now is not missed: the other side has said its last word.
        let _ = self.flush();
        let result = self.out().sender.finish();
        let _ = self.sent(result);
    }

    /// The other side has said its last word.
    pub(super) fn heard_last_word(&self, ended: Ended) {
        self.end().last_word.get_or_insert(ended);
        self.ended.notify_all();
    }

    /// The connection is of no more use; the first reason counts.
    pub(super) fn fail(&self, fatal: Fatal) {
        let mut end = self.end();
        end.failure.get_or_insert(fatal);
        end.over = true;
        self.ended.notify_all();
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.end().over = true;
        self.ended.notify_all();
    }

    /// Waits for the last word of the other side, or for the end of the connection; `stop` ends the
    /// waiting.
    pub(super) fn wait_for_end(&self, stop: &dyn Fn() -> bool) {
        let mut end = self.end();
        while end.last_word.is_none() && !end.over && !stop() {
            let waited = self.ended.wait_timeout(end, SLICE);
            end = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How it ended.
    pub(super) fn into_end(self) -> End {
        self.end.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flush(out: &mut Out) -> Result<(), Error> {
    let Out { sender, packer, said } = out;
    packer.flush(|frame| {
        *said = Instant::now();
        sender.send(frame)
    })
}
