//! What a run shows besides passed and failed: measured figures, and what was skipped.

use std::{fs::OpenOptions, io::Write};

use crate::binary;

/// File under the target folder that `scripts/test.sh` empties before the tests and shows after.
const FILE: &str = "e2e-notes.txt";

/// Notes one line, on stderr and in the file.
pub fn note(line: &str) {
    eprintln!("{line}");
    let append = || -> anyhow::Result<()> {
        let path = binary::target_directory()?.join(FILE);
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(file.write_all(format!("{line}\n").as_bytes())?)
    };
    if let Err(error) = append() {
        eprintln!("the note is not kept: {error:#}");
    }
}
