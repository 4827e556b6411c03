//! A link that can be cut: forwards TCP connections, or swallows everything silently.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// One direction of dialling: what connects here reaches `target`, unless the link is cut.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    /// Raised when the link returns: connections of before are gone.
    generation: AtomicU64,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || forward(stream, target, &shared));
            }
        });
        Ok(Self { address, state })
    }

    pub(crate) fn set_cut(&self, cut: bool) {
        if !cut {
            self.state.generation.fetch_add(1, Ordering::SeqCst);
        }
        self.state.cut.store(cut, Ordering::SeqCst);
    }
}

fn forward(stream: TcpStream, target: SocketAddr, state: &Arc<State>) {
    let generation = state.generation.load(Ordering::SeqCst);
    let gone = |state: &State| state.generation.load(Ordering::SeqCst) != generation;
    while state.cut.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(5)); // a cut link does not answer
    }
    if gone(state) {
        return;
    }
    let Ok(onward) = TcpStream::connect(target) else { return };
    let (Ok(stream_back), Ok(onward_back)) = (stream.try_clone(), onward.try_clone()) else {
        return;
    };
    let shared = Arc::clone(state);
    thread::spawn(move || copy(onward_back, stream_back, &shared, generation));
    copy(stream, onward, state, generation);
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State, generation: u64) {
    let nodelay = to.set_nodelay(true);
    let timeout = from.set_read_timeout(Some(Duration::from_millis(50)));
    let mut buffer = vec![0; 64 << 10];
    while nodelay.is_ok() && timeout.is_ok() {
        if state.generation.load(Ordering::SeqCst) != generation {
            break;
        }
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        while state.cut.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5)); // swallowed: never delivered
            if state.generation.load(Ordering::SeqCst) != generation {
                break;
            }
        }
        if state.generation.load(Ordering::SeqCst) != generation
            || to.write_all(&buffer[..length]).is_err()
        {
            break;
        }
    }
    // Either end may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
