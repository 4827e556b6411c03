//! What a partner may ask this server's daemon for.
//!
//! Decides which paths are open to it, and how much it may delete. Whoever typed the command is an
//! administrator of the partner, which may be in other hands by now: what is not opened here is shut.

use std::path::PathBuf;

use ipicsha_files::{
    delta::BLOCK_BYTES_MAX,
    path::escape,
    sync::{
        Exit, Fatal, Options, Outside, Territory,
        wire::{Half, PROTOCOL, Request},
    },
};

/// A slower transfer would hold a thread for hours between two looks at whether it shall end.
const RATE_MIN: u64 = 512;
/// Directories of `--link-dest` and its like, which all stay open.
const BASIS_MAX: usize = 20;

/// What the configuration of this server opens.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Name of this server, for refusals.
    pub(crate) server: String,
    /// Directories that are open to the partner.
    pub(crate) allow: Vec<PathBuf>,
    /// Entries that one transfer may delete.
    pub(crate) deletions_max: u64,
}

impl Policy {
    /// The options with which the half here works, or why it does not.
    pub(super) fn judge(&self, request: &Request) -> Result<Options, Fatal> {
        if request.protocol != PROTOCOL {
            let text = format!(
                "{} speaks version {PROTOCOL} of transfers, not {}: install the same version on both",
                self.server, request.protocol
            );
            return Err(Fatal::new(Exit::Protocol, text));
        }
        self.check_numbers(request)?;
        let mut options = request.options.clone();
        options.territory = Territory::beneath(&self.allow);
        options.delete_guard = Some(self.deletions_max);
        match &request.half {
            Half::Send { sources } | Half::List { sources } => {
                self.refuse_followed_links(&options)?;
                for source in sources {
                    self.check(&options.territory, None, source)?;
                }
            }
            Half::Receive { destination } => {
                if options.keep_dirlinks {
                    return Err(self.no_links("-K"));
                }
                self.check(&options.territory, None, destination)?;
                let more = options.basis.iter().flat_map(|(_, paths)| paths);
                for path in more.chain(&options.backup_dir) {
                    self.check(&options.territory, Some(destination), path)?;
                }
            }
        }
        Ok(options)
    }

    /// Numbers that no command line lets through, but that a partner can say.
    fn check_numbers(&self, request: &Request) -> Result<(), Fatal> {
        let options = &request.options;
        let basis = options.basis.as_ref().map_or(0, |(_, paths)| paths.len());
        let fits = [
            (
                options.block_bytes.is_none_or(|bytes| (1..=BLOCK_BYTES_MAX).contains(&bytes)),
                "--block-size",
                "1 byte to 1 MiB",
            ),
            (
                options.bytes_per_second.is_none_or(|rate| rate >= RATE_MIN),
                "--bwlimit",
                "512 bytes per second or more",
            ),
            (
                request.compress.is_none_or(|level| (1..=22).contains(&level)),
                "--compress-level",
                "1 to 22",
            ),
            (basis <= BASIS_MAX, "--link-dest and its like", "20 directories at most"),
        ];
        let Some((_, option, known)) = fits.into_iter().find(|(fits, ..)| !fits) else {
            return Ok(());
        };
        let text = format!("{option} does not fit\nnext: give {} {known}", self.server);
        Err(Fatal::new(Exit::Usage, text))
    }

    fn refuse_followed_links(&self, options: &Options) -> Result<(), Fatal> {
        let asked = [
            (options.copy_links, "-L"),
            (options.copy_dirlinks, "-k"),
            (options.copy_unsafe_links, "--copy-unsafe-links"),
        ];
        let first = asked.into_iter().find_map(|(asked, name)| asked.then_some(name));
        first.map_or(Ok(()), |name| Err(self.no_links(name)))
    }

    fn no_links(&self, option: &str) -> Fatal {
        let server = &self.server;
        let text = format!(
            "{option} is not possible there: {server} follows no links for its partner\n\
             next: run the command on {server}, where it may follow its own"
        );
        Fatal::new(Exit::Unsupported, text)
    }

    fn check(&self, territory: &Territory, base: Option<&[u8]>, path: &[u8]) -> Result<(), Fatal> {
        let (server, shown) = (&self.server, escape(path));
        let text = match territory.check(base, path) {
            Ok(()) => return Ok(()),
            Err(Outside::Relative) => {
                format!(
                    "\"{shown}\" begins nowhere on {server}\nnext: write the whole path, {server}:/..."
                )
            }
            Err(Outside::NotAllowed) => format!(
                "\"{shown}\" is not open to the partner of {server}\n\
                 next: on {server}, name it or a directory above it in the configuration, as \
                 allow = [\"/...\"] in [sync], and restart the daemon"
            ),
        };
        Err(Fatal::new(Exit::Selection, text))
    }
}

#[cfg(test)]
mod tests {
    use ipicsha_files::sync::{BasisUse, wire::Interest};

    use super::*;

    fn judged(half: Half, change: impl FnOnce(&mut Options)) -> Result<Options, Fatal> {
        let policy = Policy {
            server: "bravo".into(),
            allow: vec!["/srv/in".into(), "/data".into()],
            deletions_max: 7,
        };
        let mut options = Options::default();
        change(&mut options);
        let interest = Interest { items: true, progress: false, every_file: false };
        let (protocol, compress) = (PROTOCOL, None);
        policy.judge(&Request { protocol, half, options, interest, compress })
    }

    #[test]
    fn only_what_is_opened_is_open() {
        let send = |path: &str| Half::Send { sources: vec![b"/data".to_vec(), path.into()] };
        let receive = |path: &str| Half::Receive { destination: path.into() };
        let same = |_: &mut Options| {};
        for path in ["/srv/in", "/srv/in/x/", "/data/../srv/in/y", "//srv//in/./z"] {
            let options = judged(send(path), same).expect(path);
            assert!(options.territory.is_confined() && options.delete_guard == Some(7));
            judged(receive(path), same).expect(path);
            judged(Half::List { sources: vec![path.into()] }, same).expect(path);
        }
        for path in ["/", "/srv", "/srv/inside", "/srv/in/../x", "/srv/in/../../etc", "/etc/shadow"]
        {
            for half in [send(path), receive(path), Half::List { sources: vec![path.into()] }] {
                let refused = judged(half, same).expect_err(path);
                assert_eq!(refused.exit, Exit::Selection);
                assert!(refused.message.contains("allow = "), "{refused}");
            }
        }
        for path in ["", "srv/in", "../srv/in"] {
            assert!(judged(receive(path), same).expect_err(path).message.contains("whole path"));
        }
    }

    #[test]
    fn numbers_that_no_command_line_lets_through_are_refused() {
        let send = || Half::Send { sources: vec![b"/data".to_vec()] };
        let receive = || Half::Receive { destination: b"/data".to_vec() };
        let changes: [fn(&mut Options); 6] = [
            |options| options.block_bytes = Some(0),
            |options| options.block_bytes = Some(BLOCK_BYTES_MAX + 1),
            |options| options.block_bytes = Some(u32::MAX),
            |options| options.bytes_per_second = Some(0),
            |options| options.bytes_per_second = Some(RATE_MIN - 1),
            |options| {
                options.basis = Some((BasisUse::Link, vec![b"/data".to_vec(); BASIS_MAX + 1]));
            },
        ];
        for change in changes {
            for half in [send(), receive()] {
                let refused = judged(half, change).expect_err("too much");
                assert_eq!(refused.exit, Exit::Usage, "{refused}");
                assert!(refused.message.contains("next: "), "{refused}");
            }
        }
        let most = |options: &mut Options| {
            options.block_bytes = Some(BLOCK_BYTES_MAX);
            options.bytes_per_second = Some(u64::MAX);
            options.basis = Some((BasisUse::Link, vec![b"/data".to_vec(); BASIS_MAX]));
        };
        judged(receive(), most).expect("all of it fits");
    }

    #[test]
    fn other_directories_of_a_transfer_are_checked_too_and_links_are_not_followed() {
        let receive = || Half::Receive { destination: b"/srv/in/new".to_vec() };
        let link_dest = |path: &str| {
            let basis = Some((BasisUse::Link, vec![path.as_bytes().to_vec()]));
            judged(receive(), |options| options.basis = basis)
        };
        link_dest("../old").expect("inside");
        link_dest("/data/old").expect("inside");
        assert_eq!(link_dest("../../../etc").expect_err("outside").exit, Exit::Selection);
        let backup = judged(receive(), |options| options.backup_dir = Some(b"/etc".to_vec()));
        assert_eq!(backup.expect_err("outside").exit, Exit::Selection);
        let followed = judged(receive(), |options| options.keep_dirlinks = true);
        assert_eq!(followed.expect_err("links").exit, Exit::Unsupported);
        let send = || Half::Send { sources: vec![b"/data".to_vec()] };
        for change in [
            |options: &mut Options| options.copy_links = true,
            |options: &mut Options| options.copy_dirlinks = true,
            |options: &mut Options| options.copy_unsafe_links = true,
        ] {
            assert_eq!(judged(send(), change).expect_err("links").exit, Exit::Unsupported);
            judged(receive(), change).expect("links of the other side");
        }
    }
}
