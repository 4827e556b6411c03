//! License files of this server: `licenses/` in the state directory, one TOML file each (spec A4).

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use ipicsha_core::{
    license::{Feature, License},
    time::WallTime,
};
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Kind};

/// A license as its file says it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LicenseFile {
    pub(crate) feature: Feature,
    pub(crate) issued_to: String,
    pub(crate) serial: String,
    /// Last valid day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<NaiveDate>,
}

impl LicenseFile {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            Failure::new(Kind::Failed, format!("this is no license file: {}", error.message()))
                .hinted("licenses/README.md describes the format")
        })
    }

    fn license(&self) -> License {
        let end_of_day = |day: NaiveDate| {
            day.and_hms_opt(23, 59, 59).map(|end| WallTime(end.and_utc().timestamp_millis()))
        };
        License {
            feature: self.feature,
            issued_to: self.issued_to.clone(),
            serial: self.serial.clone(),
            expires: self.expires.and_then(end_of_day),
        }
    }

    fn file_name(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let serial: String = self.serial.chars().map(safe).collect();
        let feature = self.feature.to_string().to_lowercase().replace(' ', "-");
        format!("{feature}-{serial}.toml")
    }
}

/// The licenses installed in `directory`; one that cannot be read is logged and left out, since a
/// license stops no server that is configured.
pub(crate) fn load_readable(directory: &Path) -> Vec<License> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).map_err(|error| error.to_string());
        let file = text.and_then(|text| LicenseFile::parse(&text).map_err(|f| f.message));
        if let Err(error) = &file {
            tracing::error!(path = %path.display(), error, "a license cannot be read");
        }
        file.ok().map(|file| file.license())
    };
    files(directory).unwrap_or_default().into_iter().filter_map(read).collect()
}

/// The licenses installed in `directory`.
pub(crate) fn load(directory: &Path) -> Result<Vec<License>, Failure> {
    let mut licenses = Vec::new();
    for path in files(directory)? {
        let text = fs::read_to_string(&path).map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot read {}: {error}", path.display()))
        })?;
        let file = LicenseFile::parse(&text).map_err(|mut failure| {
            failure.message = format!("{}: {}", path.display(), failure.message);
            failure
        })?;
        licenses.push(file.license());
    }
    Ok(licenses)
}

/// The set of licenses after an installation, without installing anything.
pub(crate) fn plan(
    directory: &Path,
    new: &[LicenseFile],
    replace: bool,
) -> Result<Vec<License>, Failure> {
    let mut licenses = if replace { Vec::new() } else { load(directory)? };
    licenses.extend(new.iter().map(LicenseFile::license));
    Ok(licenses)
}

/// Installs the files.
pub(crate) fn install(directory: &Path, new: &[LicenseFile], replace: bool) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Kind::Failed, format!("cannot write to {}: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    let old = if replace { files(directory)? } else { Vec::new() };
    for file in new {
        let text = toml::to_string(file).map_err(|error| failed(&error))?;
        super::persist::write_durably(&directory.join(file.file_name()), text.as_bytes())
            .map_err(|error| failed(&error))?;
    }
    let kept: Vec<PathBuf> = new.iter().map(|file| directory.join(file.file_name())).collect();
    for path in old.iter().filter(|path| !kept.contains(path)) {
        fs::remove_file(path).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let message = format!("cannot read {}: {error}", directory.display());
            return Err(Failure::new(Kind::Failed, message));
        }
    };
    let is_license = |path: &PathBuf| path.extension().is_some_and(|e| e == "toml");
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().map(|e| e.path())).filter(is_license).collect();
    paths.sort();
    Ok(paths)
}
