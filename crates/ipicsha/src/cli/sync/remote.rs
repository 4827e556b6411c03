//! Operands that name a server.
//!
//! Decides whether an operand is a path of this machine. Must not connect.

use super::Refused;
use ipicsha_files::{path::escape, sync::Exit};

/// Where an operand is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Local(Vec<u8>),
    /// `partner:PATH`, or the name of the partner before the colon.
    Remote {
        server: String,
        path: Vec<u8>,
    },
}

/// Reads an operand: a colon before the first slash ends the name of a server.
pub(super) fn read(operand: &[u8]) -> Result<Operand, Refused> {
    if operand.starts_with(b"rsync://") || operand.starts_with(b"ssh://") {
        return Err(Refused::new(
            Exit::Unsupported,
            format!("\"{}\": the trusted link is used, write SERVER:PATH", escape(operand)),
        ));
    }
    let colon = operand.iter().position(|b| matches!(b, b':' | b'/'));
    match colon.filter(|at| operand[*at] == b':' && *at > 0) {
        None => Ok(Operand::Local(operand.to_vec())),
        Some(at) if operand.get(at + 1) == Some(&b':') => Err(Refused::new(
            Exit::Unsupported,
            format!("\"{}\": there is no rsync daemon, write SERVER:PATH", escape(operand)),
        )),
        Some(at) => {
            Ok(Operand::Remote { server: escape(&operand[..at]), path: operand[at + 1..].to_vec() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_the_first_slash_names_a_server() {
        let local = |path: &str| Operand::Local(path.as_bytes().to_vec());
        for path in ["a", "a/b:c", "./a:b", "/a:b", ":a", ""] {
            assert_eq!(read(path.as_bytes()).expect(path), local(path));
        }
        let remote = read(b"partner:/srv/x").expect("an operand");
        let expected = Operand::Remote { server: "partner".into(), path: b"/srv/x".to_vec() };
        assert_eq!(remote, expected);
        for foreign in ["host::module/x", "rsync://host/x"] {
            assert_eq!(read(foreign.as_bytes()).expect_err(foreign).exit.code(), 4);
        }
    }
}
