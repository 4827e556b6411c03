//! A file system of its own that is full before long.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// Mounted memory; unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts so much memory at `at`, which is an empty directory.
    ///
    /// # Errors
    /// `mount` refuses.
    pub fn mount(at: &Path, size: &str) -> Result<Self> {
        let options = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "ipicsha-e2e"])
            .arg(at)
            .status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever has files open on it keeps it until then.
        if let Err(error) = Command::new("umount").arg("--lazy").arg(&self.0).status() {
            eprintln!("umount: {error}");
        }
    }
}
