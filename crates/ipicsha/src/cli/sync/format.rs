//! `--out-format`, and the lines that stand for `-v`, `-i` and `--list-only`.
//!
//! Decides what stands for a percent sign and a letter. Must not print.

use std::fmt::Write as _;

use chrono::{Local, TimeZone};
use ipicsha_files::{
    Kind, RelativePath, Time,
    path::escape,
    sync::{Item, Update},
};

use super::{quantity, render::Direction};

/// The name, with a slash behind directories.
pub(super) fn name(path: &RelativePath, kind: Kind) -> String {
    let slash = if kind == Kind::Directory { "/" } else { "" };
    format!("{path}{slash}")
}

/// Where a link leads, or the file that a further name stands for.
fn leads_to(item: &Item) -> String {
    match (&item.linked_to, &item.target) {
        (Some(leader), _) => format!(" => {leader}"),
        (None, Some(target)) => format!(" -> {}", escape(target)),
        (None, None) => String::new(),
    }
}

fn local_time(time: Time, format: &str) -> String {
    match Local.timestamp_opt(time.seconds, 0).single() {
        Some(time) => time.format(format).to_string(),
        None => time.seconds.to_string(),
    }
}

/// What changed; rsync turns the arrow around for what leaves this machine.
fn code(item: &Item, direction: Direction) -> String {
    let code = item.change.code(item.kind);
    match (direction, code.strip_prefix('>')) {
        (Direction::There, Some(rest)) => format!("<{rest}"),
        _ => code,
    }
}

/// What stands for an entry.
pub(super) fn item(format: &str, item: &Item, direction: Direction) -> String {
    fill(format, |letter, human| {
        Some(match letter {
            'i' => code(item, direction),
            'n' | 'f' => name(&item.path, if letter == 'f' { Kind::File } else { item.kind }),
            'L' => leads_to(item),
            'l' => quantity::human(item.size, human),
            'b' | 'c' if item.change.update != Update::Transfer => "0".to_owned(),
            'b' => quantity::human(item.size, human),
            'c' => "0".to_owned(),
            'M' => local_time(item.mtime, "%Y/%m/%d-%H:%M:%S"),
            'B' => permissions(item.mode),
            'U' => item.uid.to_string(),
            'G' => item.gid.to_string(),
            'o' if direction == Direction::FromThere => "recv".to_owned(),
            'o' => "send".to_owned(),
            other => return common(other),
        })
    })
}

/// What stands for a deletion.
pub(super) fn deletion(format: &str, path: &RelativePath, kind: Kind) -> String {
    fill(format, |letter, _| {
        Some(match letter {
            'i' => "*deleting  ".to_owned(),
            'n' => name(path, kind),
            'f' => path.to_string(),
            'o' => "del.".to_owned(),
            'l' | 'b' | 'c' => "0".to_owned(),
            other => return common(other),
        })
    })
}

fn common(letter: char) -> Option<String> {
    Some(match letter {
        't' => Local::now().format("%Y/%m/%d %H:%M:%S").to_string(),
        'p' => std::process::id().to_string(),
        'L' | 'M' | 'B' | 'U' | 'G' | 'C' | 'a' | 'h' | 'm' | 'P' | 'u' => String::new(),
        _ => return None,
    })
}

/// Replaces `%X` by what stands for it; a width such as `%-20n` pads, apostrophes such as in `%'l`
/// make numbers easier to read.
fn fill(format: &str, value: impl Fn(char, u8) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            filled.push(character);
            continue;
        }
        let (mut width, mut human) = (String::new(), 0);
        while let Some(digit) = rest.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '\'')) {
            match digit {
                '\'' => human += 1,
                digit => width.push(digit),
            }
        }
        let letter = rest.next();
        match letter.and_then(|letter| value(letter, human)) {
            Some(text) => {
                let (left, columns) = match width.strip_prefix('-') {
                    Some(columns) => (true, columns),
                    None => (false, &width[..]),
                };
                let columns: usize = columns.parse().unwrap_or(0).min(1000);
                // Writing to a string cannot fail.
                let _ = if left {
                    write!(filled, "{text:<columns$}")
                } else {
                    write!(filled, "{text:>columns$}")
                };
            }
            None => {
                filled.push('%');
                filled.push_str(&width);
                filled.extend(letter.filter(|letter| *letter != '%'));
            }
        }
    }
    filled
}

/// `rwxr-x---`, with setuid, setgid and sticky.
fn permissions(mode: u32) -> String {
    let mut shown = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        shown.push(if bits & 4 != 0 { 'r' } else { '-' });
        shown.push(if bits & 2 != 0 { 'w' } else { '-' });
        shown.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    shown
}

/// A line of `--list-only`.
pub(super) fn listed(item: &Item, human: u8) -> String {
    let kind = match item.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharacterDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let size = quantity::human(item.size, human);
    let time = local_time(item.mtime, "%Y/%m/%d %H:%M:%S");
    let permissions = permissions(item.mode);
    format!("{kind}{permissions} {size:>14} {time} {}{}", item.path, leads_to(item))
}

#[cfg(test)]
mod tests {
    use ipicsha_files::sync::Change;

    use super::*;

    fn example() -> Item {
        Item {
            path: RelativePath::new(b"a/b\nc").expect("a path"),
            kind: Kind::Symlink,
            change: Change { update: Update::Local, new: true, ..Change::default() },
            mode: 0o4751,
            uid: 1,
            gid: 2,
            size: 1234,
            mtime: Time { seconds: 0, nanoseconds: 0 },
            target: Some(b"t\x1b".to_vec()),
            linked_to: None,
        }
    }

    #[test]
    fn letters_are_replaced_and_nothing_escapes() {
        let shown = item("%i %n%L|%l|%'l|%B|%U:%G|%%|%q|%-6o|%6o", &example(), Direction::Here);
        let expected =
            "cL+++++++++ a/b\\#012c -> t\\#033|1234|1,234|rwsr-x--x|1:2|%|%q|send  |  send";
        assert_eq!(shown, expected);
        let path = RelativePath::new(b"d").expect("a path");
        assert_eq!(deletion("%i %n%L", &path, Kind::Directory), "*deleting   d/");
        assert_eq!(permissions(0o1644), "rw-r--r-T");
    }
}
