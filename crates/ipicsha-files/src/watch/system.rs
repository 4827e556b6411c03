//! The three system calls of fanotify, which no safe wrapper offers.
//!
//! Decides nothing. What they mean is in `fanotify.rs`; the bytes they give are read in `parse.rs`,
//! without `unsafe`.

#![allow(unsafe_code)] // fanotify_init, fanotify_mark and name_to_handle_at; rustix has none of them

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::io::Errno;

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A new group. `flags` as of `fanotify_init(2)`; no event of it brings a descriptor.
pub(super) fn fanotify_init(flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let fd = unsafe { libc::fanotify_init(flags, 0) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel made this descriptor just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds a mark for the events of `mask` to what `dir` is on, by `flags` of `fanotify_mark(2)`.
pub(super) fn fanotify_mark(
    group: BorrowedFd<'_>,
    flags: u32,
    mask: u64,
    dir: BorrowedFd<'_>,
) -> Result<(), Errno> {
    // SAFETY: both descriptors live for the call; without a path the kernel reads no memory of ours.
    let result = unsafe {
        libc::fanotify_mark(group.as_raw_fd(), flags, mask, dir.as_raw_fd(), ptr::null())
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

const HANDLE_BYTES_MAX: usize = libc::MAX_HANDLE_SZ as usize;

/// `struct file_handle` with room for the longest handle there is.
#[repr(C)]
struct LongHandle {
    head: libc::file_handle,
    bytes: [u8; HANDLE_BYTES_MAX],
}

/// The handle of a directory as events name it: type (native order), then its bytes.
pub(super) fn handle_of(dir: BorrowedFd<'_>) -> Result<Box<[u8]>, Errno> {
    let mut handle = LongHandle {
        head: libc::file_handle {
            handle_bytes: HANDLE_BYTES_MAX as u32,
            handle_type: 0,
            f_handle: [],
        },
        bytes: [0; HANDLE_BYTES_MAX],
    };
    let mut mount = 0;
    // SAFETY: the path is a NUL-terminated constant. The kernel writes the head and at most the
    // `handle_bytes` said in it, which is the length of the array that follows the head without a
    // gap (both have an alignment of at most 4); the pointer is to the whole structure.
    let result = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    let length = (handle.head.handle_bytes as usize).min(HANDLE_BYTES_MAX);
    let mut key = handle.head.handle_type.to_ne_bytes().to_vec();
    key.extend_from_slice(&handle.bytes[..length]);
    Ok(key.into_boxed_slice())
}
