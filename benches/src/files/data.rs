//! What is copied: one large file in several versions, and very many small ones.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use ipicsha_e2e::tree::set_time;

use super::Plan;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const FILES_PER_DIRECTORY: usize = 100;

/// How the large file differs from what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing is there.
    Fresh,
    /// A hundredth of it, in pieces of 1 MiB.
    Extents,
    /// A hundredth of it, in pieces of 4 KiB.
    Pages,
    /// 1 MiB stands before it.
    Insert,
}

impl Change {
    pub(super) const ALL: [Self; 4] = [Self::Fresh, Self::Extents, Self::Pages, Self::Insert];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Extents => "extents",
            Self::Pages => "pages",
            Self::Insert => "insert",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Fresh => "large file, fresh",
            Self::Extents => "large file, 1 % in extents",
            Self::Pages => "large file, 1 % in pages",
            Self::Insert => "large file, 1 MiB in front",
        }
    }
}

/// All of it, in one folder in memory.
pub(super) struct Trees {
    folder: PathBuf,
    big_bytes: u64,
    directories: usize,
}

/// Bytes without repetition, another stream for every seed (xorshift64*).
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.take(length as usize / 8 + 1).flatten().collect();
        bytes.truncate(length as usize);
        bytes
    }
}

impl Trees {
    /// Makes what does not change between rounds.
    pub(super) fn make(folder: &Path, plan: &Plan) -> Result<Self> {
        let trees = Self {
            folder: folder.to_owned(),
            big_bytes: plan.big_bytes,
            directories: plan.directories,
        };
        let mut noise = Noise::new(1);
        let mut base = BufWriter::with_capacity(MIB as usize, File::create(trees.base())?);
        for _ in 0..plan.big_bytes / MIB {
            base.write_all(&noise.bytes(MIB))?;
        }
        base.flush()?;
        for directory in 0..plan.directories {
            let directory = trees.small().join(format!("d{directory:04}"));
            fs::create_dir_all(&directory)?;
            for file in 0..FILES_PER_DIRECTORY {
                fs::write(directory.join(format!("f{file:03}.dat")), noise.bytes(PAGE))?;
            }
        }
        trees.make_old()?;
        Ok(trees)
    }

    /// Files that were just written are read twice; these were not.
    fn make_old(&self) -> Result<()> {
        set_time(&self.base(), 1_600_000_000, 0)?;
        for directory in fs::read_dir(self.small())? {
            for file in fs::read_dir(directory?.path())? {
                set_time(&file?.path(), 1_600_000_000, 0)?;
            }
        }
        Ok(())
    }

    /// The large file as it is at the destination before.
    pub(super) fn base(&self) -> PathBuf {
        self.folder.join("base")
    }

    /// The small files, with a slash behind them.
    pub(super) fn small(&self) -> PathBuf {
        self.folder.join("small/")
    }

    /// Where copies go.
    pub(super) fn destination(&self) -> PathBuf {
        self.folder.join("to")
    }

    /// Takes as much memory as a copy needs and gives it back: the first use of memory that the host of a
    /// virtual machine has to find first costs more than what is measured.
    pub(super) fn warm_memory(&self) -> Result<()> {
        let path = self.folder.join("memory");
        let (file, piece) = (File::create(&path)?, vec![1; 1 << 20]);
        let pieces =
            self.big_bytes.max((self.directories * FILES_PER_DIRECTORY) as u64 * PAGE) / MIB;
        (0..=pieces + pieces / 4).try_for_each(|n| file.write_all_at(&piece, n * MIB))?;
        Ok(fs::remove_file(path)?)
    }

    /// The large file as it is to become; [`Self::forget`] takes it away.
    pub(super) fn big(&self, change: Change) -> Result<PathBuf> {
        let path = self.folder.join("version");
        let mut noise = Noise::new(7);
        let (pieces, length) = match change {
            Change::Fresh => return Ok(self.base()),
            Change::Extents => (self.big_bytes / MIB / 100 + 1, MIB),
            Change::Pages => (self.big_bytes / PAGE / 100 + 1, PAGE),
            Change::Insert => {
                let mut file = File::create(&path)?;
                file.write_all(&noise.bytes(MIB))?;
                std::io::copy(&mut File::open(self.base())?, &mut file)?;
                set_time(&path, 1_700_000_000, 0)?;
                return Ok(path);
            }
        };
        fs::copy(self.base(), &path)?;
        let file = File::options().write(true).open(&path)?;
        for _ in 0..pieces {
            let at = noise.next() % (self.big_bytes / length) * length;
            file.write_all_at(&noise.bytes(length), at)?;
        }
        set_time(&path, 1_700_000_000, 0)?;
        Ok(path)
    }

    pub(super) fn forget(&self, change: Change) -> Result<()> {
        if change != Change::Fresh {
            fs::remove_file(self.folder.join("version"))?;
        }
        Ok(())
    }

    /// Changes a hundredth of the small files, others in every round.
    pub(super) fn change_small(&self, round: u64) -> Result<()> {
        let mut noise = Noise::new(100 + round);
        for _ in 0..self.directories {
            let path = self.small().join(format!(
                "d{:04}/f{:03}.dat",
                noise.next() as usize % self.directories,
                noise.next() as usize % FILES_PER_DIRECTORY
            ));
            fs::write(&path, noise.bytes(PAGE))?;
            set_time(&path, 1_600_000_001 + i64::try_from(round)?, 0)?;
        }
        Ok(())
    }

    /// Very many files with little in them; [`Self::forget_many`] takes them away.
    pub(super) fn make_many(&self) -> Result<PathBuf> {
        let many = self.folder.join("many/");
        let mut noise = Noise::new(11);
        for directory in 0..self.directories * 10 {
            let directory = many.join(format!("d{directory:05}"));
            fs::create_dir_all(&directory)?;
            for file in 0..FILES_PER_DIRECTORY {
                let path = directory.join(format!("f{file:03}.dat"));
                fs::write(&path, noise.bytes(64))?;
                set_time(&path, 1_600_000_000, 0)?;
            }
        }
        Ok(many)
    }

    pub(super) fn forget_many(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.folder.join("many"))?)
    }
}

/// Whether all files in the directories of `source` are there at `copy`.
pub(super) fn ensure_equal_trees(source: &Path, copy: &Path) -> Result<()> {
    for directory in fs::read_dir(source)? {
        let directory = directory?.path();
        let there = copy.join(directory.file_name().unwrap_or_default());
        let names = |at: &Path| Ok::<_, anyhow::Error>(fs::read_dir(at)?.count());
        ensure!(names(&directory)? == names(&there)?, "{} lacks files", there.display());
        for file in fs::read_dir(&directory)? {
            let file = file?.path();
            let same = there.join(file.file_name().unwrap_or_default());
            ensure!(fs::read(&file)? == fs::read(&same)?, "{} differs", same.display());
        }
    }
    Ok(())
}
