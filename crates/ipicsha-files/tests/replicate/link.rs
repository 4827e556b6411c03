//! The link between two nodes: everything arrives in order, and a cut loses what is under way.

use std::{
    io::BufReader,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ipicsha_core::file::File;
use ipicsha_files::replicate::DirectoryStatus;

use crate::wire::{self, FromNode, ToNode};

/// What is known of one node.
#[derive(Default)]
pub(crate) struct Side {
    /// To the node that runs; changes when it is started anew.
    pub(crate) stream: Option<Arc<Mutex<UnixStream>>>,
    /// Number of its outgoing connection; 0 is none.
    pub(crate) connection: u64,
    pub(crate) status: Option<Box<DirectoryStatus>>,
    /// Newest flush that was answered, and how.
    pub(crate) flushed: Option<(u64, Result<(), String>)>,
    /// Ended without being killed.
    pub(crate) died: bool,
    /// Messages that it sent to the partner.
    pub(crate) sent: u64,
}

#[derive(Default)]
struct State {
    sides: [Side; 2],
    connections: u64,
    /// Contents take a while.
    slow: bool,
}

/// Both nodes and what is between them.
#[derive(Default)]
pub(crate) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Looks at one side.
    pub(crate) fn side<T>(&self, side: usize, look: impl FnOnce(&Side) -> T) -> T {
        look(&self.state().sides[side])
    }

    /// Waits until `ready` says so, not longer than `most`; whether it did.
    pub(crate) fn wait(&self, most: Duration, ready: impl Fn(&[Side; 2]) -> bool) -> bool {
        let end = Instant::now() + most;
        let mut state = self.state();
        while !ready(&state.sides) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).expect("nobody panics with it").0;
        }
        true
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.state().slow = slow;
    }

    /// A node that was just started.
    pub(crate) fn attach(self: &Arc<Self>, side: usize, stream: UnixStream) {
        let reader = stream.try_clone().expect("a handle");
        let stream = Arc::new(Mutex::new(stream));
        let mut state = self.state();
        let known = &mut state.sides[side];
        (known.stream, known.connection) = (Some(Arc::clone(&stream)), 0);
        (known.status, known.flushed) = (None, None);
        drop(state);
        let link = Arc::clone(self);
        std::thread::spawn(move || link.read(side, &stream, BufReader::new(reader)));
    }

    /// The node of this side is about to be killed, or to end.
    pub(crate) fn detach(&self, side: usize) {
        let mut state = self.state();
        let known = &mut state.sides[side];
        (known.stream, known.connection) = (None, 0);
        (known.status, known.flushed) = (None, None);
    }

    /// A message to a node; lost when it does not run.
    pub(crate) fn tell(&self, side: usize, message: &ToNode) {
        let stream = self.state().sides[side].stream.clone();
        if let Some(stream) = stream {
            let _ = wire::write(&*stream.lock().expect("whole frames"), message);
        }
    }

    /// The outgoing connection of a side comes, as a new one, or goes.
    pub(crate) fn connect(&self, side: usize, up: bool) {
        let mut state = self.state();
        state.connections += 1;
        let number = if up { state.connections } else { 0 };
        let was = std::mem::replace(&mut state.sides[side].connection, number);
        drop(state);
        if up && was > 0 {
            self.tell(side, &ToNode::Link(0));
        }
        if up || was > 0 {
            self.tell(side, &ToNode::Link(number));
        }
    }

    fn read(&self, side: usize, own: &Arc<Mutex<UnixStream>>, mut reader: BufReader<UnixStream>) {
        let is_current = |known: &Side| known.stream.as_ref().is_some_and(|s| Arc::ptr_eq(s, own));
        while let Ok(message) = wire::read(&mut reader) {
            match message {
                FromNode::Send(number, file) => self.forward(side, number, file),
                FromNode::Status(status) => {
                    let known = &mut self.state().sides[side];
                    if is_current(known) {
                        known.status = Some(status);
                    }
                }
                FromNode::Flushed(number, result) => {
                    let known = &mut self.state().sides[side];
                    if is_current(known) {
                        known.flushed = Some((number, result));
                    }
                }
            }
            self.changed.notify_all();
        }
        let known = &mut self.state().sides[side];
        known.died |= is_current(known);
        self.changed.notify_all();
    }

    fn forward(&self, side: usize, number: u64, file: File) {
        let slow = self.state().slow && matches!(file, File::Part { .. });
        if slow {
            // Contents are long under way, so that cuts and kills meet them.
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut state = self.state();
        state.sides[side].sent += 1;
        if number == 0 || state.sides[side].connection != number {
            return;
        }
        drop(state);
        self.tell(1 - side, &ToNode::Received(file));
    }
}
