//! Harness of the end-to-end tests: two real daemons on two servers (network namespaces when root),
//! real applications beside them, and eyes of its own on both databases.
//!
//! Decides how a test starts, cuts, kills and looks. Must not know any product crate: it talks to
//! the binary as an administrator does, and reads the databases as an application does.

pub mod application;
pub mod binary;
pub mod compare;
pub mod debian;
pub mod dice;
pub mod disk;
pub mod etcd;
pub mod faults;
pub mod fixture;
pub mod isso;
pub mod mumble;
pub mod net;
pub mod note;
pub mod pair;
pub mod process;
pub mod radicale;
pub mod rsync;
pub mod server;
pub mod settings;
pub mod sink;
pub mod status;
pub mod trac;
pub mod tree;
pub mod venv;
pub mod versions;
pub mod wait;
pub mod waits;
pub mod witness;
pub mod writers;

pub use application::Application;
pub use net::{Network, Side};
pub use note::note;
pub use pair::{Pair, fresh_pair, ready_pair};
pub use process::Ran;
pub use server::{Launch, Server};
pub use settings::Settings;
pub use sink::Sink;
pub use status::Status;
pub use wait::{holds_for, wait_for};
