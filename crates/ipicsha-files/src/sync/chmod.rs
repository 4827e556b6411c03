//! `--chmod`: changes of permissions in the words of chmod.
//!
//! Decides what a list of changes means. Must not touch files.

use serde::{Deserialize, Serialize};

/// A list of changes, applied one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chmod(Vec<Change>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Target {
    All,
    Files,
    Directories,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    target: Target,
    operator: Operator,
    /// Bits that are touched by `Set`.
    scope: u32,
    bits: u32,
    /// `X`: execution for those bits, where somebody may execute already, and in directories.
    execute_if: u32,
}

impl Chmod {
    /// Reads `D755,F644,u=rw,go-w` and the like; `umask` limits changes that name nobody.
    ///
    /// # Errors
    /// The part that is not understood.
    pub fn parse(text: &str, umask: u32) -> Result<Self, String> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        let changes: Result<Vec<Vec<Change>>, String> =
            parts.map(|part| parse(part, umask).ok_or_else(|| part.to_owned())).collect();
        Ok(Self(changes?.concat()))
    }

    /// These changes, then the others.
    pub fn then(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    /// The permissions that `mode` becomes.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        let meant = |change: &&Change| match change.target {
            Target::All => true,
            Target::Files => !directory,
            Target::Directories => directory,
        };
        self.0.iter().filter(meant).fold(mode, |mode, change| {
            let executable = directory || mode & 0o111 != 0;
            let bits = change.bits | if executable { change.execute_if } else { 0 };
            match change.operator {
                Operator::Add => mode | bits,
                Operator::Remove => mode & !bits,
                Operator::Set => mode & !change.scope | bits,
            }
        })
    }
}

fn parse(part: &str, umask: u32) -> Option<Vec<Change>> {
    let (target, rest) = match part.as_bytes().first()? {
        b'D' => (Target::Directories, &part[1..]),
        b'F' => (Target::Files, &part[1..]),
        _ => (Target::All, part),
    };
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        let bits = u32::from_str_radix(rest, 8).ok().filter(|bits| *bits <= 0o7777)?;
        let change = Change { target, operator: Operator::Set, scope: 0o7777, bits, execute_if: 0 };
        return Some(vec![change]);
    }
    let who_end = rest.find(['+', '-', '='])?;
    let mut who = 0;
    for letter in rest[..who_end].chars() {
        who |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let mask = if who == 0 { 0o7777 & !umask } else { 0o7777 };
    let who = if who == 0 { 0o7777 } else { who };
    let mut changes = Vec::new();
    let mut rest = &rest[who_end..];
    while let Some(operator) = rest.chars().next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Set,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let (bits, execute_if) = permissions(&rest[1..end], who, mask)?;
        changes.push(Change { target, operator, scope: who & 0o7777, bits, execute_if });
        rest = &rest[end..];
    }
    Some(changes)
}

fn permissions(letters: &str, who: u32, mask: u32) -> Option<(u32, u32)> {
    let (mut bits, mut execute_if) = (0, 0);
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444 & who & mask,
            'w' => bits |= 0o222 & who & mask,
            'x' => bits |= 0o111 & who & mask,
            'X' => execute_if |= 0o111 & who & mask,
            's' => bits |= 0o6000 & who,
            't' => bits |= 0o1000,
            _ => return None,
        }
    }
    Some((bits, execute_if))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_in_order_to_what_they_mean() {
        let table = [
            ("D755,F644", 0o700, true, 0o755),
            ("D755,F644", 0o700, false, 0o644),
            ("u=rw,go-w", 0o666, false, 0o644),
            ("ug=rwx,o=", 0o4777, false, 0o770),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("a+X", 0o600, true, 0o711),
            ("+w", 0o444, false, 0o644),
            ("Dg+s,+t", 0o755, true, 0o3755),
            ("Fo-rx", 0o755, true, 0o755),
            ("u+s", 0o755, false, 0o4755),
            ("g=r+x", 0o700, false, 0o750),
            ("4755", 0, false, 0o4755),
        ];
        for (text, mode, directory, expected) in table {
            let changes = Chmod::parse(text, 0o022).expect(text);
            assert_eq!(changes.apply(mode, directory), expected, "{text}");
        }
        for refused in ["u", "z+r", "9", "u+q", "D", "77777"] {
            assert!(Chmod::parse(refused, 0).is_err(), "{refused}");
        }
    }
}
