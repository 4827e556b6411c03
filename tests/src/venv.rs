//! The applications from PyPI, in one Python environment under the target folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::{binary, process::run};

/// Isso, Radicale, and what Trac needs.
const PACKAGES: &[&str] = &[
    "isso==0.14.0",
    "Radicale==3.5.10",
    "Jinja2==3.1.6",
    "setuptools==75.8.0",
    "multipart==1.2.1; python_version >= '3.13'",
];
/// Trac is one wheel for every machine, so it is pinned to its bytes.
const TRAC: &str = "Trac==1.6 \
    --hash=sha256:5ff2f3394ebee7cc5b8ee465871cfdecb78ee492a74215b47b6d9ddbcc93b5f7";
/// A slow mirror is no failure.
const LIMIT: Duration = Duration::from_secs(240);

/// A program of the environment, which is made on first use, once for all tests and test runs.
///
/// # Errors
/// Python's venv module or PyPI is not available.
pub fn program(name: &str) -> Result<PathBuf> {
    let target = binary::target_directory()?;
    let venv = target.join("e2e-venv");
    let installed = venv.join("installed.txt");
    let wanted = format!("{PACKAGES:?} {TRAC}");
    let lock = File::create(target.join("e2e-venv.lock"))?;
    flock(&lock, FlockOperation::LockExclusive).context("the lock of e2e-venv")?;
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(venv.join("bin").join(name));
    }
    let mut make = Command::new("python3");
    run(make.args(["-m", "venv", "--clear"]).arg(&venv), LIMIT)?
        .ok()
        .context("python3 -m venv (Debian: install python3-venv)")?;
    pip(&venv, PACKAGES).context("Isso and Radicale from PyPI (Debian: install python3-dev)")?;
    let requirements = venv.join("trac.txt");
    fs::write(&requirements, TRAC)?;
    let requirements = requirements.to_str().context("a path in UTF-8")?;
    pip(&venv, &["--no-deps", "--require-hashes", "-r", requirements]).context("Trac from PyPI")?;
    fs::write(&installed, wanted)?;
    Ok(venv.join("bin").join(name))
}

fn pip(venv: &Path, arguments: &[&str]) -> Result<()> {
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check"]).args(arguments);
    run(&mut install, LIMIT)?.ok().map(|_| ())
}
