//! A user of one side: random changes, few names, so that both sides meet.
//!
//! Whatever a user destroys is read before, through a handle, and it is checked that it was this
//! very file that went.

use std::{
    collections::BTreeSet,
    fs::{self, File, FileTimes, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{
        FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ipicsha_files::Hash;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use crate::{ledger::Ledger, random::Random};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// A time that both sides give to files, so that times tie.
const SAME_TIME: Duration = Duration::from_secs(1_700_000_000);

pub(crate) struct Writer {
    pub(crate) root: PathBuf,
    /// A folder beside the root, where directories are moved to.
    pub(crate) away: PathBuf,
    pub(crate) random: Random,
    pub(crate) ledger: Ledger,
}

/// A file before something is done to its name.
struct Before {
    file: File,
    links: u64,
    hash: Hash,
}

impl Writer {
    fn path(&mut self) -> PathBuf {
        let depth = [1, 1, 1, 2, 2, 3][self.random.below(6) as usize];
        let mut path = self.root.clone();
        for _ in 0..depth {
            path.push(self.random.pick(&NAMES));
        }
        path
    }

    /// Content that is nowhere else.
    fn content(&mut self) -> Vec<u8> {
        let length = match self.random.below(40) {
            0 => 0,
            1 => 1_000_000 + self.random.below(2_000_000),
            2..=6 => 4_000 + self.random.below(200_000),
            _ => 16 + self.random.below(1_000),
        };
        self.random.bytes(length)
    }

    /// Most things can fail, because a name is taken or missing; that is how it is.
    pub(crate) fn step(&mut self) {
        let path = self.path();
        let _ = match self.random.below(40) {
            0..=9 => self.write(&path),
            10..=12 => self.save(&path),
            13..=14 => self.append(&path),
            15 => self.change_within(&path),
            16 => self.in_place(&path, false, |file, old| file.write_all_at(old, 0)),
            17..=19 => self.make_directories(&path),
            20..=24 => {
                let to = self.path();
                self.rename(&path, &to)
            }
            25..=28 => self.remove(&path),
            29 => self.remove_all(&path),
            30 => self.move_away(&path),
            31..=32 => self.change_mode(&path),
            33 => self.change_owner(&path),
            34..=35 => self.link(&path),
            36..=37 => {
                let to = self.path();
                self.touch(&to);
                fs::hard_link(&path, to)
            }
            _ => self.change_time(&path),
        };
    }

    /// Something happens to a path, and to what it leads to when it is a link.
    fn touch(&mut self, path: &Path) {
        let parent = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
        let real = parent.zip(path.file_name()).map(|(parent, name)| parent.join(name));
        let all = [Some(path.to_owned()), real, fs::canonicalize(path).ok()];
        let within = |path: PathBuf| path.strip_prefix(&self.root).ok().map(Path::to_owned);
        let paths: BTreeSet<PathBuf> = all.into_iter().flatten().filter_map(within).collect();
        paths.iter().for_each(|path| self.ledger.touch(path));
    }

    /// Changes the content of a file where it is.
    fn in_place(
        &mut self,
        path: &Path,
        create: bool,
        change: impl FnOnce(&mut File, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.touch(path);
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).custom_flags(flags);
        let mut file = options.open(path)?;
        let old = read(&mut file)?;
        let changed = change(&mut file, &old);
        let (old, new) = (Hash::of(&old), Hash::of(&read(&mut file)?));
        if old != new {
            self.ledger.destroyed.insert(old);
        }
        self.ledger.written.insert(new);
        changed
    }

    fn write(&mut self, path: &Path) -> io::Result<()> {
        if self.random.one_in(2) {
            let parent = path.parent().unwrap_or(path).to_owned();
            self.make_directories(&parent)?;
        }
        let bytes = self.content();
        self.in_place(path, true, |file, _| {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)
        })?;
        if self.random.one_in(6) {
            // As `cp -p` does.
            let file = File::options().append(true).open(path)?;
            file.set_modified(SystemTime::UNIX_EPOCH + SAME_TIME)?;
        }
        Ok(())
    }

    /// As editors do: a new file takes the name.
    fn save(&mut self, path: &Path) -> io::Result<()> {
        let (new, bytes) = (path.with_extension("new"), self.content());
        self.in_place(&new, true, |file, _| {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)
        })?;
        if self.random.one_in(10) {
            return Ok(());
        }
        self.rename(&new, path)
    }

    fn append(&mut self, path: &Path) -> io::Result<()> {
        let (bytes, pause) = (self.content(), self.random.milliseconds(3));
        self.in_place(path, false, |file, _| {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            file.seek(SeekFrom::End(0))?;
            file.write_all(first)?;
            std::thread::sleep(pause);
            file.write_all(second)
        })
    }

    fn change_within(&mut self, path: &Path) -> io::Result<()> {
        let (bytes, cut, at) = (self.random.bytes(100), self.random.one_in(2), self.random.next());
        self.in_place(path, false, |file, old| {
            let length = old.len() as u64;
            if cut {
                file.set_len(length / 2)
            } else {
                file.write_all_at(&bytes, at % (length + 1))
            }
        })
    }

    fn make_directories(&mut self, path: &Path) -> io::Result<()> {
        if !path.exists() {
            self.touch(path);
        }
        fs::create_dir_all(path)
    }

    /// The file that has a name now, if it is one.
    fn before(path: &Path) -> Option<Before> {
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).expect("flags");
        let mut file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        let links = file.metadata().ok().filter(|meta| meta.is_file())?.nlink();
        let hash = Hash::of(&read(&mut file).ok()?);
        Some(Before { file, links, hash })
    }

    /// A file lost the name `path`: what was in it is destroyed, if it is the one that was looked
    /// at before.
    fn destroyed(&mut self, path: &Path, before: Option<Before>) -> Option<Hash> {
        let lost_it =
            |before: &Before| before.file.metadata().is_ok_and(|meta| meta.nlink() < before.links);
        let Some(before) = before.filter(lost_it) else {
            let path = path.strip_prefix(&self.root).unwrap_or(path);
            self.ledger.unsure.insert(path.to_owned());
            return None;
        };
        self.ledger.destroyed.insert(before.hash);
        Some(before.hash)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        let before = Self::before(path);
        fs::remove_file(path)?;
        if let Some(hash) = self.destroyed(path, before) {
            self.ledger.remove(path.strip_prefix(&self.root).unwrap_or(path), hash);
        }
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.touch(from);
        self.touch(to);
        if fs::symlink_metadata(to).is_err() {
            return Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?);
        }
        let before = Self::before(to);
        fs::rename(from, to)?;
        self.destroyed(to, before);
        Ok(())
    }

    /// As `rm -r` does.
    fn remove_all(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        if !fs::symlink_metadata(path)?.is_dir() {
            return self.remove(path);
        }
        for entry in fs::read_dir(path)? {
            let below = entry?.path();
            self.remove_all(&below)?;
        }
        fs::remove_dir(path)
    }

    /// To another place on the same disk, which is not replicated.
    fn move_away(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        let away = self.away.join(format!("{:016x}", self.random.next()));
        fs::rename(path, &away)?;
        self.remove_all(&away)
    }

    fn change_mode(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        let mode = self.random.pick(&[0o644, 0o600, 0o755, 0o4750, 0o711, 0o2775]);
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn change_owner(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        lchown(path, Some(self.random.pick(&[0, 12_345])), Some(self.random.pick(&[0, 54_321])))
    }

    fn link(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        // Nothing leads out of the root, because the writer itself follows links.
        symlink(self.random.pick(&["a", "b/c", "nowhere", "./d"]), path)
    }

    fn change_time(&mut self, path: &Path) -> io::Result<()> {
        self.touch(path);
        let seconds = self.random.below(2_000_000_000);
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        // Both times, as `touch -d` does: setting the one alone counts as writing to the kernel,
        // which is told when a file is closed that was open for it, and this one was not.
        File::open(path)?.set_times(FileTimes::new().set_accessed(time).set_modified(time))
    }
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
