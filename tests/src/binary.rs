//! Where the tested program and the tools beside it are.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// The version this workspace builds.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Folder of the profile that this test was built with, such as `target/debug`; tests lie in `deps`
/// under it, the measurements beside the program.
fn profile_directory() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("the path of the test itself")?;
    let directory = exe.parent().context("the test is not under target/")?;
    let tests = directory.file_name().is_some_and(|name| name == "deps");
    let directory = if tests { directory.parent() } else { Some(directory) };
    Ok(directory.context("the test is not under target/")?.to_owned())
}

/// The program under test, built with the same profile as the test.
///
/// # Errors
/// It was not built.
pub fn ipicsha() -> Result<PathBuf> {
    let path = profile_directory()?.join("ipicsha");
    ensure!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    Ok(path)
}

/// Folder for what outlives one test run, such as the Python environment of Isso.
///
/// # Errors
/// The test does not run from a target folder.
pub fn target_directory() -> Result<PathBuf> {
    let profile = profile_directory()?;
    Ok(profile.parent().context("the test is not under target/")?.to_owned())
}

/// The preload library that shifts the clock of a program.
///
/// # Errors
/// The Debian package `faketime` is not installed.
pub fn faketime_library() -> Result<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").context("/usr/lib")?;
    architectures
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .context("libfaketime is missing: install the Debian package `faketime`")
}

/// Copies the program to `copy` as another release and returns that release's number. Only one digit
/// differs: the compiler keeps short texts inside instructions too, four bytes at a time.
///
/// # Errors
/// The number does not stand in the program, or the copy cannot be written.
pub fn with_other_version(copy: &Path) -> Result<String> {
    let (start, digit) = (&VERSION.as_bytes()[..4], 2);
    let other = if start[digit] == b'9' { b'8' } else { b'9' };
    let mut bytes = fs::read(ipicsha()?)?;
    let places: Vec<usize> = bytes
        .windows(start.len())
        .enumerate()
        .filter(|(_, w)| *w == start)
        .map(|(at, _)| at)
        .collect();
    ensure!(!places.is_empty(), "the version does not stand in the program");
    for at in places {
        bytes[at + digit] = other;
    }
    fs::write(copy, bytes)?;
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755))?;
    let mut version = VERSION.as_bytes().to_vec();
    version[digit] = other;
    Ok(String::from_utf8(version)?)
}
