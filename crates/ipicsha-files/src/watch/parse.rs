//! The bytes that fanotify gives, as events.
//!
//! Decides what a well-formed event is. Must not touch the system. Reads by position and length, so
//! that a shorter or longer event of another kernel is no danger.

/// Head of an event: length, version, length of the head, mask, descriptor, process.
const HEAD: usize = 24;
/// Head of a record and the identity of the file system.
const RECORD_HEAD: usize = 12;

/// One event; borrowed from the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'buffer> {
    pub(super) mask: u64,
    /// Who did it.
    pub(super) process: i32,
    /// Directories and names it is about: one, or old and new of a rename.
    pub(super) records: Vec<Record<'buffer>>,
}

/// One directory and a name in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'buffer> {
    /// `FAN_EVENT_INFO_TYPE_*`.
    pub(super) kind: u8,
    /// Handle of the directory, as `system::handle_of` gives it.
    pub(super) handle: &'buffer [u8],
    /// The name in it; `.` for the directory itself.
    pub(super) name: &'buffer [u8],
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The events in the buffer; ends at the first that is not well formed.
pub(super) fn events(mut rest: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(number(rest, 0)?) as usize;
        let head = usize::from(u16::from_ne_bytes(number(rest, 6)?));
        let event = rest.get(..length).filter(|_| head >= HEAD)?;
        rest = &rest[length..];
        Some(Event {
            mask: u64::from_ne_bytes(number(event, 8)?),
            process: i32::from_ne_bytes(number(event, 20)?),
            records: records(event.get(head..)?),
        })
    })
}

fn records(mut rest: &[u8]) -> Vec<Record<'_>> {
    let mut found = Vec::with_capacity(1);
    while let Some(length) = number(rest, 2).map(u16::from_ne_bytes) {
        let length = usize::from(length);
        let Some(bytes) = rest.get(..length).filter(|_| length >= RECORD_HEAD) else { break };
        found.extend(record(bytes));
        rest = &rest[length..];
    }
    found
}

fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let length = u32::from_ne_bytes(number(bytes, RECORD_HEAD)?) as usize;
    let kind_at = RECORD_HEAD + 4;
    let end = kind_at + 4 + length;
    let handle = bytes.get(kind_at..end)?;
    let name = bytes[end..].split(|b| *b == 0).next().unwrap_or_default();
    Some(Record { kind: bytes[0], handle, name })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(mask: u64, process: i32, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut record = vec![2, 0, 0, 0];
        record.extend_from_slice(&[7; 8]);
        record.extend_from_slice(&(handle.len() as u32 - 4).to_ne_bytes());
        record.extend_from_slice(handle);
        record.extend_from_slice(name);
        record.resize((record.len() + 4) & !3, 0);
        let length = record.len() as u16;
        record[2..4].copy_from_slice(&length.to_ne_bytes());
        let mut event = (HEAD as u32 + u32::from(length)).to_ne_bytes().to_vec();
        event.extend_from_slice(&[3, 0]);
        event.extend_from_slice(&(HEAD as u16).to_ne_bytes());
        event.extend_from_slice(&mask.to_ne_bytes());
        event.extend_from_slice(&(-1_i32).to_ne_bytes());
        event.extend_from_slice(&process.to_ne_bytes());
        event.extend_from_slice(&record);
        event
    }

    #[test]
    fn events_are_read_one_after_the_other() {
        let mut bytes = encode(0x100, 42, b"\x01\0\0\0handle", b"name");
        bytes.extend(encode(0x200, 43, b"\x01\0\0\0other", b"."));
        let read: Vec<_> = events(&bytes).collect();
        let expected = [(0x100, 42, &b"\x01\0\0\0handle"[..], &b"name"[..])];
        for (event, (mask, process, handle, name)) in read.iter().zip(expected) {
            assert_eq!((event.mask, event.process), (mask, process));
            assert_eq!(event.records, [Record { kind: 2, handle, name }]);
        }
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].records[0].name, b".");
    }

    #[test]
    fn a_cut_event_ends_the_reading() {
        let bytes = encode(0x100, 42, b"\x01\0\0\0handle", b"name");
        assert_eq!(events(&bytes[..bytes.len() - 1]).count(), 0);
        assert_eq!(events(&[]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(events(&bytes).count() <= bytes.len());
        }

        #[test]
        fn no_changed_byte_makes_it_panic(at in 0_usize..60, to in any::<u8>()) {
            let mut bytes = encode(0x100, 42, b"\x01\0\0\0handle", b"a name that is longer");
            bytes[at] = to;
            prop_assert!(events(&bytes).count() <= bytes.len());
        }
    }
}
