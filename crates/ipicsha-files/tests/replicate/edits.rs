//! A user of one side: random changes, few names, so that both sides meet.

use std::{
    fs::{self, File, FileTimes, Permissions},
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, lchown, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::random::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// A time that both sides give to files, so that times tie.
const SAME_TIME: Duration = Duration::from_secs(1_700_000_000);

pub(crate) struct Writer {
    pub(crate) root: PathBuf,
    /// A folder beside the root, where directories are moved to and come from.
    pub(crate) away: PathBuf,
    pub(crate) random: Random,
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
            16 => fs::read(&path).and_then(|bytes| fs::write(&path, bytes)),
            17..=19 => fs::create_dir_all(&path),
            20..=24 => fs::rename(&path, self.path()),
            25..=28 => fs::remove_file(&path),
            29 => fs::remove_dir_all(&path),
            30 => self.move_out_or_in(&path),
            31..=32 => self.change_mode(&path),
            33 => self.change_owner(&path),
            34..=35 => self.link(&path),
            36..=37 => fs::hard_link(&path, self.path()),
            _ => self.change_time(&path),
        };
    }

    fn write(&mut self, path: &Path) -> io::Result<()> {
        if self.random.one_in(2) {
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        }
        fs::write(path, self.content())?;
        if self.random.one_in(6) {
            // As `cp -p` does.
            File::options()
                .append(true)
                .open(path)?
                .set_modified(SystemTime::UNIX_EPOCH + SAME_TIME)?;
        }
        Ok(())
    }

    /// As editors do: a new file takes the name.
    fn save(&mut self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, self.content())?;
        if self.random.one_in(10) {
            return Ok(());
        }
        fs::rename(new, path)
    }

    fn append(&mut self, path: &Path) -> io::Result<()> {
        let bytes = self.content();
        let mut file = File::options().append(true).open(path)?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        std::thread::sleep(self.random.milliseconds(3));
        file.write_all(second)
    }

    fn change_within(&mut self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).open(path)?;
        let length = file.metadata()?.len();
        if self.random.one_in(2) {
            return file.set_len(length / 2);
        }
        let bytes = self.random.bytes(100);
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, self.random.below(length + 1))
    }

    /// To a place on the same disk that is not replicated, or back from there.
    fn move_out_or_in(&mut self, path: &Path) -> io::Result<()> {
        let away = self.away.join(self.random.pick(&NAMES));
        if self.random.one_in(2) { fs::rename(path, away) } else { fs::rename(away, path) }
    }

    fn change_mode(&mut self, path: &Path) -> io::Result<()> {
        let mode = self.random.pick(&[0o644, 0o600, 0o755, 0o4750, 0o711, 0o2775]);
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn change_owner(&mut self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.random.pick(&[0, 12_345])), Some(self.random.pick(&[0, 54_321])))
    }

    fn link(&mut self, path: &Path) -> io::Result<()> {
        // Nothing leads out of the root, because the writer itself follows links.
        symlink(self.random.pick(&["a", "b/c", "nowhere", "./d"]), path)
    }

    fn change_time(&mut self, path: &Path) -> io::Result<()> {
        let seconds = self.random.below(2_000_000_000);
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        // Both times, as `touch -d` does: setting the one alone counts as writing to the kernel,
        // which is told when a file is closed that was open for it, and this one was not.
        File::open(path)?.set_times(FileTimes::new().set_accessed(time).set_modified(time))
    }
}
