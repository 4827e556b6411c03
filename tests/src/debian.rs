//! Programs from Debian's archive that are used without being installed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::{binary, process::run, wait::SOON};

/// A slow mirror is no failure.
const FETCH_LIMIT: Duration = Duration::from_secs(240);

/// Where `package` lies unpacked, with the libraries that this machine lacks for it: in a folder called
/// `name` under the target folder, fetched on first use, once for all tests and runs.
///
/// # Errors
/// It cannot be fetched, or `works` denies that it works even then.
pub fn unpacked(
    package: &str,
    name: &str,
    works: impl Fn(&Path) -> Result<bool>,
) -> Result<PathBuf> {
    let home = binary::target_directory()?.join(name);
    let lock = File::create(home.with_extension("lock"))?;
    flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("the lock of {name}"))?;
    if !works(&home)? {
        fetch(package, &home).with_context(|| format!("{package} from Debian's archive"))?;
        ensure!(works(&home)?, "{package} does not work; delete {}", home.display());
    }
    Ok(home)
}

/// Downloads the package with what this machine lacks for it, and unpacks all of that.
fn fetch(package: &str, home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home)?;
    }
    let archives = home.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    if download(package, &archives).is_err() {
        // The lists of packages are missing, as in a fresh container, or too old.
        run(Command::new("apt-get").args(["--quiet", "update"]), FETCH_LIMIT)?.ok()?;
        download(package, &archives)?;
    }
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            run(unpack.arg("--extract").arg(&path).arg(home.join("root")), SOON)?.ok()?;
        }
    }
    Ok(())
}

fn download(package: &str, archives: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--yes", "--download-only", "--no-install-recommends", "--reinstall"]);
    command.args(["-o", "Debug::NoLocking=1", "-o"]);
    command.arg(format!("Dir::Cache::archives={}", archives.display()));
    run(command.args(["install", package]), FETCH_LIMIT)?.ok().map(|_| ())
}
