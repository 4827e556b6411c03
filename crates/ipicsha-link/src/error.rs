//! What can go wrong on the link, in words an administrator can use.
//!
//! Decides the wording and the next step. Knows nothing of exit codes or of how errors are shown.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use rustls::AlertDescription;

use crate::frame::FrameError;

/// Any failure of the link.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of this server could not be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of this server is there but is not what this server once wrote.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Half of the identity is gone.
    #[error("{path} is missing, but {beside} is there", path = path.display(), beside = beside.display())]
    HalfMissing {
        /// The file that is gone.
        path: PathBuf,
        /// The other half.
        beside: PathBuf,
    },
    /// A secret file can be read by others.
    #[error("{path} has mode {mode:04o}: other users can read this secret", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key or certificate could not be made.
    #[error("cannot make the certificate of this server: {0}")]
    Certificate(String),
    /// The admin password has too few characters.
    #[error("the password is too short: it needs at least {minimum} characters")]
    PasswordTooShort {
        /// Fewest characters.
        minimum: usize,
    },
    /// The admin password is longer than any person types.
    #[error("the password is too long: it may have at most {maximum} bytes")]
    PasswordTooLong {
        /// Most bytes.
        maximum: usize,
    },
    /// The password protocol cannot work with this password; practically impossible.
    #[error("this password cannot be used")]
    PasswordUnusable,
    /// The listening socket could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The given local address cannot be used to reach the partner.
    #[error("cannot connect to {address} from local address {local}: {source}")]
    LocalAddress {
        /// Target.
        address: SocketAddr,
        /// The local address that was asked for.
        local: std::net::IpAddr,
        /// Why.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Target.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Something did not finish in time.
    #[error("{address}: {step} took longer than {} s", after.as_secs_f32())]
    Timeout {
        /// The other end.
        address: SocketAddr,
        /// What was waited for.
        step: &'static str,
        /// How long.
        after: Duration,
    },
    /// The other end is not the trusted partner.
    #[error("the server at {address} shows another certificate than the trusted partner's")]
    OtherCertificate {
        /// The other end.
        address: SocketAddr,
    },
    /// The other end shows a certificate whose key it does not hold.
    #[error("the server at {address} shows a certificate but does not hold its key")]
    Impostor {
        /// The other end.
        address: SocketAddr,
    },
    /// The other end does not accept this server's certificate.
    #[error("the server at {address} does not trust this server's certificate")]
    NotTrustedThere {
        /// The other end.
        address: SocketAddr,
    },
    /// The TLS handshake failed for another reason.
    #[error("no TLS 1.3 connection with {address}: {source}")]
    Tls {
        /// The other end.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The other end does not speak what was asked for.
    #[error("{address} did not agree on the protocol {protocol}")]
    Protocol {
        /// The other end.
        address: SocketAddr,
        /// The ALPN name.
        protocol: String,
    },
    /// The partner did not accept the hello.
    #[error("the partner at {address} refused the connection: {reason}")]
    HelloRefused {
        /// The partner.
        address: SocketAddr,
        /// In its words.
        reason: String,
    },
    /// This server did not accept the hello of the other end.
    #[error("the hello of {address} is refused: {reason}")]
    HelloNotAccepted {
        /// The other end.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The connection ended without an orderly close.
    #[error("the connection with {address} is lost: {source}")]
    Lost {
        /// The other end.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The other end closed where a message was due.
    #[error("{address} closed the connection before {step}")]
    ClosedEarly {
        /// The other end.
        address: SocketAddr,
        /// What was waited for.
        step: &'static str,
    },
    /// This server waits no longer for the other end.
    #[error("the connection with {address} is given up")]
    GivenUp {
        /// The other end.
        address: SocketAddr,
    },
    /// Bytes that are no message.
    #[error("{address}: {source}")]
    Frame {
        /// The other end.
        address: SocketAddr,
        /// What is wrong.
        source: FrameError,
    },
    /// The partner's trust was deleted or replaced while the connection was open.
    #[error("the connection with {address} was closed: its trust was changed")]
    TrustChanged {
        /// The former partner.
        address: SocketAddr,
    },
    /// The partner opened a newer connection of the same kind.
    #[error("the connection with {address} was closed: the partner opened a newer one")]
    Superseded {
        /// The partner.
        address: SocketAddr,
    },
    /// The trust exchange failed; nobody can tell which of the two it was.
    #[error("{address}: password wrong, or this is not your partner")]
    PasswordWrong {
        /// The other end.
        address: SocketAddr,
    },
    /// The other end gave up, or sent a proof that does not hold.
    #[error("{address} did not prove the password of {user}", user = crate::password::ADMIN_USER)]
    NotProven {
        /// The other end.
        address: SocketAddr,
    },
    /// The other server refused the trust exchange.
    #[error("{address} refused: {reason}")]
    TrustRefused {
        /// The other end.
        address: SocketAddr,
        /// In its words.
        reason: String,
    },
    /// This server refused the trust exchange.
    #[error("the trust exchange with {address} is refused: {reason}")]
    TrustNotAccepted {
        /// The other end.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The given address leads back to this server.
    #[error("{address} is this server itself")]
    Itself {
        /// The address given.
        address: SocketAddr,
    },
}

impl Error {
    /// What the administrator does next; `None` where waiting or retrying is all there is.
    pub fn next_step(&self) -> Option<&'static str> {
        Some(match self {
            Self::Damaged { path, .. } if path.ends_with(crate::password::FILE) => {
                "set the password again with `ipicsha trust password`"
            }
            Self::Damaged { .. } | Self::HalfMissing { .. } => {
                "put the file back from a backup; or unconfigure HA, delete trust, remove key.pem and \
                 certificate.pem and start again for a new one"
            }
            Self::Exposed { .. } => "take the permissions from the others with `chmod 600 FILE`",
            Self::File { .. } => "check the owner, the permissions and the free space there",
            Self::PasswordTooShort { .. }
            | Self::PasswordTooLong { .. }
            | Self::PasswordUnusable => {
                "choose another password and run `ipicsha trust password` again"
            }
            Self::Listen { .. } => {
                "check that the address belongs to this server and that no other program uses the port"
            }
            Self::LocalAddress { .. } => "set the address of this server to one that it has",
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "check the address, the firewall and that the ipicsha daemon runs there"
            }
            Self::OtherCertificate { .. } | Self::Impostor { .. } => {
                "check that the address is the partner's; if its certificate was replaced, run \
                 `ipicsha trust delete` and `ipicsha trust set`"
            }
            Self::NotTrustedThere { .. } => "set trust again with `ipicsha trust set`",
            Self::PasswordWrong { .. } => {
                "check the address, type the password of the partner's ipicsadmin again, and compare \
                 the fingerprints that `ipicsha trust show` prints on both servers"
            }
            Self::Itself { .. } => "give the address of the partner",
            Self::Protocol { .. } => "check that both servers run the same version of ipicsha",
            Self::Tls { .. } | Self::Frame { .. } => {
                "check that the address and port are those of the partner's ipicsha daemon"
            }
            Self::HelloRefused { .. } | Self::TrustRefused { .. } => {
                "remove the cause that the partner names, then try again"
            }
            Self::Lost { .. } | Self::ClosedEarly { .. } => {
                "try again; if it happens again, look at the log of the partner's daemon"
            }
            Self::Certificate(_)
            | Self::HelloNotAccepted { .. }
            | Self::TrustChanged { .. }
            | Self::Superseded { .. }
            | Self::GivenUp { .. }
            | Self::NotProven { .. }
            | Self::TrustNotAccepted { .. } => return None,
        })
    }

    /// Names a failed TLS handshake by what the other end did.
    pub(crate) fn handshake(address: SocketAddr, source: io::Error) -> Self {
        use rustls::{CertificateError, Error as Tls};
        let reason = tls_error(&source);
        if let Some(Tls::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) =
            reason
        {
            Self::OtherCertificate { address }
        } else if let Some(Tls::InvalidCertificate(CertificateError::BadSignature)) = reason {
            Self::Impostor { address }
        } else if refused_by_alert(&source) {
            Self::NotTrustedThere { address }
        } else {
            Self::Tls { address, source }
        }
    }

    /// Adds the other end to a frame error. In TLS 1.3 the dialler learns only with its first read
    /// that its own certificate was refused, so the alert is named here too.
    pub(crate) fn frame(address: SocketAddr, source: FrameError) -> Self {
        match source {
            FrameError::Io(source) if refused_by_alert(&source) => {
                Self::NotTrustedThere { address }
            }
            FrameError::Io(source) => Self::Lost { address, source },
            FrameError::TooLong { .. }
            | FrameError::Truncated { .. }
            | FrameError::Malformed(_)
            | FrameError::Interrupted => Self::Frame { address, source },
        }
    }

    pub(crate) fn closed_early(address: SocketAddr, step: &'static str) -> Self {
        Self::ClosedEarly { address, step }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn refused_by_alert(error: &io::Error) -> bool {
    matches!(
        tls_error(error),
        Some(rustls::Error::AlertReceived(
            AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
        ))
    )
}
