//! The trusted link between the two servers of a pair.
//!
//! What it decides: who may talk to this server (exactly one pinned certificate), how a partner
//! becomes trusted (a password proof bound to the TLS session), and where one message ends and the
//! next begins. What it must not know: what the messages say, which role a server has, or when a
//! partner counts as lost.
//!
//! Connections are one-way at the message level. Each server dials its own two connections (control
//! and data) with [`connect`] and only sends on them; it receives on the connections that its
//! [`Listener`] accepted.

mod attempts;
mod backoff;
mod blocking;
mod connection;
mod der;
mod dial;
mod duplex;
mod error;
mod exchange;
mod frame;
mod identity;
mod listen;
mod message;
mod opaque;
mod password;
mod pin;
mod refusal_log;
mod registry;
mod serve;
mod stored;
mod witness;

pub use backoff::Backoff;
pub use blocking::BlockingReceiver;
pub use connection::{FrameReceiver, FrameSender, Sent};
pub use der::not_after;
pub use dial::{Dial, connect, connect_duplex};
pub use duplex::{Duplex, DuplexReceiver, DuplexSender, Patience};
pub use error::Error;
pub use exchange::request;
pub use frame::{FRAME_BYTES_MAX_CONTROL, FRAME_BYTES_MAX_DATA, FRAME_BYTES_MAX_HELLO, FrameError};
pub use identity::{CERTIFICATE_VALIDITY, Fingerprint, FingerprintError, Identity};
pub use listen::{
    CONNECTIONS_UNPROVEN_MAX, HANDSHAKE_DEADLINE, Incoming, Listener, ListenerConfig,
};
pub use message::{Channel, Hello, HelloAnswer, Introduction, PORT_DEFAULT, PROTOCOL, TrustAction};
pub use password::{ADMIN_USER, AdminPassword, PASSWORD_CHARACTERS_MIN};
pub use witness::{
    Asker, WITNESS_PORT_DEFAULT, WitnessClient, WitnessQuestion, WitnessReply, WitnessService,
    serve_witness,
};

#[cfg(test)]
mod tests;
