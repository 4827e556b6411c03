//! How a transfer is shown.
//!
//! Decides what the options about output mean together: what `--info` says counts, where it says
//! nothing `-v` does. Must not know events.

use super::{Refused, options::unsupported_choice};

/// Flags of `--info` that have lines here, as rsync names them.
const FLAGS: [&str; 8] = ["progress", "name", "del", "stats", "flist", "nonreg", "skip", "symsafe"];
/// Flags of rsync for lines that do not exist here.
const MISSING: [&str; 5] = ["backup", "copy", "misc", "mount", "remove"];

/// How the transfer is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) verbose: u8,
    pub(super) quiet: bool,
    pub(super) json: bool,
    pub(super) itemize: u8,
    pub(super) out_format: Option<String>,
    pub(super) stats: bool,
    pub(super) human: u8,
    pub(super) progress: bool,
    /// `--progress` or `-P`, and not only a flag of `--info`.
    pub(super) progress_option: bool,
    pub(super) progress_of_all: bool,
    pub(super) deletions: Option<bool>,
    pub(super) dry_run: bool,
    pub(super) recursive: bool,
    pub(super) list_only: bool,
    /// 1 is what is changed, 2 everything.
    names: Option<u8>,
    summary: Option<bool>,
    scan: Option<bool>,
    irregular: Option<bool>,
    skips: Option<bool>,
    unsafe_links: Option<bool>,
}

impl View {
    /// Without any options.
    pub(super) fn new() -> Self {
        Self { human: 1, ..Self::default() }
    }

    /// The scan is worth a line.
    pub(super) fn tells_scan(&self) -> bool {
        self.scan.unwrap_or(self.verbose > 0 || self.progress_option)
    }

    /// Entries that are made or changed.
    pub(super) fn tells_names(&self) -> bool {
        self.names.map_or(self.verbose > 0 || self.progress_option, |level| level > 0)
    }

    /// Entries that are equal, too.
    pub(super) fn tells_unchanged(&self) -> bool {
        self.names.map_or(self.verbose > 1, |level| level > 1)
    }

    /// Entries that are left out, as asked.
    pub(super) fn tells_skips(&self) -> bool {
        self.skips.unwrap_or(self.verbose > 1)
    }

    /// Links, devices and pipes that are not preserved.
    pub(super) fn tells_irregular(&self) -> bool {
        self.irregular.unwrap_or(true)
    }

    /// Links that leave the tree.
    pub(super) fn tells_unsafe_links(&self) -> bool {
        self.unsafe_links.unwrap_or(self.verbose > 0)
    }

    /// The two lines at the end.
    pub(super) fn tells_summary(&self) -> bool {
        self.summary.unwrap_or(self.stats || self.verbose > 0)
    }

    /// Reads the flags of `--info`.
    pub(super) fn info(&mut self, flags: &str) -> Result<(), Refused> {
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            let name = flag.trim_end_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase();
            let level: u8 = flag[name.len()..].parse().unwrap_or(1);
            match name.as_str() {
                "all" => FLAGS.iter().for_each(|known| self.set(known, level)),
                "none" => FLAGS.iter().for_each(|known| self.set(known, 0)),
                // What does not exist is silent already.
                name if MISSING.contains(&name) && level == 0 => {}
                name if MISSING.contains(&name) => {
                    let known = format!("{}, all or none", FLAGS.join(", "));
                    return Err(unsupported_choice("info", name, &known));
                }
                name if FLAGS.contains(&name) => self.set(name, level),
                _ => return Err(Refused::usage(format!("--info: \"{flag}\" is not known"))),
            }
        }
        Ok(())
    }

    fn set(&mut self, flag: &str, level: u8) {
        let on = Some(level > 0);
        match flag {
            "progress" => (self.progress, self.progress_of_all) = (level > 0, level > 1),
            "name" => self.names = Some(level),
            "del" => self.deletions = on,
            "stats" => (self.stats, self.summary) = (level > 1, on),
            "flist" => self.scan = on,
            "nonreg" => self.irregular = on,
            "skip" => self.skips = on,
            "symsafe" => self.unsafe_links = on,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(verbose: u8, flags: &str) -> [bool; 6] {
        let mut view = View { verbose, ..View::default() };
        view.info(flags).unwrap();
        let names = [view.tells_names(), view.tells_unchanged(), view.tells_skips()];
        let others = [view.tells_scan(), view.tells_irregular(), view.tells_summary()];
        [names, others].concat().try_into().unwrap()
    }

    #[test]
    fn what_info_says_counts_and_otherwise_how_often_v_is_given() {
        assert_eq!(told(0, ""), [false, false, false, false, true, false]);
        assert_eq!(told(1, ""), [true, false, false, true, true, true]);
        assert_eq!(told(2, ""), [true; 6]);
        assert_eq!(told(0, "all2"), [true; 6]);
        assert_eq!(told(2, "none"), [false; 6]);
        assert_eq!(told(2, "none,NAME"), [true, false, false, false, false, false]);
        assert_eq!(told(0, "skip,stats1,nonreg0"), [false, false, true, false, false, true]);
    }

    #[test]
    fn flags_without_lines_are_refused_and_those_nobody_knows_as_well() {
        let refused = |flags: &str| View::default().info(flags).unwrap_err();
        for flag in MISSING {
            let refused = refused(flag);
            assert_eq!(refused.exit.code(), 4, "{flag}");
            assert!(refused.message.contains("symsafe, all or none"), "{}", refused.message);
            View::default().info(&format!("{flag}0")).unwrap();
        }
        assert_eq!(refused("nonsense").exit.code(), 1);
    }
}
