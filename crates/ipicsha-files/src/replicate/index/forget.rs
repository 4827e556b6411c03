//! What the index does not need to know any more.
//!
//! Decides what else changes with it. Must not know why it is forgotten.

use rusqlite::params;

use super::{Index, IndexError, Known, Remembered, to_sql};

impl Index {
    /// Nothing is known of the partner any more.
    pub(in super::super) fn forget_partner(&mut self) -> Result<(), IndexError> {
        self.begin()?;
        self.db.execute_batch(
            "DELETE FROM entry WHERE seq IS NULL;
             UPDATE entry SET told_primary = NULL, told_secondary = NULL, told_version = NULL,
                 told_size = 0, want = 0, pending = 1;",
        )?;
        self.meta.noted = None;
        self.meta.synced = false;
        self.recount()
    }

    /// All own versions count as made just now, without knowing of any of the partner's.
    pub(in super::super) fn restamp(&mut self, known: Known) -> Result<(), IndexError> {
        self.begin()?;
        let first = self.meta.last;
        let sql = "UPDATE entry SET known_primary = ?1, known_secondary = ?2, pending = 1,
             seq = ?3 + r.rank FROM (SELECT path AS p, row_number() OVER (ORDER BY path) AS rank
             FROM entry WHERE seq IS NOT NULL) AS r WHERE r.p = entry.path";
        self.db.execute(sql, params![to_sql(known.primary), to_sql(known.secondary), first])?;
        let count: i64 =
            self.db.query_row("SELECT count(*) FROM entry WHERE seq IS NOT NULL", [], |row| {
                row.get(0)
            })?;
        self.meta.last = first + count;
        self.recount()
    }

    /// Nothing is known of anything any more.
    pub(in super::super) fn clear(&mut self) -> Result<(), IndexError> {
        self.begin()?;
        self.db.execute("DELETE FROM entry", [])?;
        self.meta = Remembered::new();
        self.recount()?;
        self.commit()
    }

    /// Removes the tombstones.
    pub(in super::super) fn forget_tombstones(&mut self) -> Result<(), IndexError> {
        self.begin()?;
        self.db.execute("DELETE FROM entry WHERE present = 0 AND bits = 0", [])?;
        self.recount()
    }

    /// Removes tombstones that both servers have for good: the partner has told that it has the
    /// deletion, and has the own row up to the position `noted_there`. Only those whose last change
    /// was before `before_us`, and so many at most. Gives their number.
    pub(in super::super) fn purge(
        &mut self,
        noted_there: i64,
        before_us: u64,
        limit: usize,
    ) -> Result<usize, IndexError> {
        let select = "SELECT path FROM entry
            WHERE present = 0 AND want = 0 AND pending = 0 AND bits = 0
            AND max(known_primary, known_secondary) < ?1 AND seq <= ?2 LIMIT ?3";
        let old = self.paths(select, params![to_sql(before_us), noted_there, limit as i64])?;
        if !old.is_empty() {
            self.begin()?;
            let mut delete = self.db.prepare_cached("DELETE FROM entry WHERE path = ?1")?;
            for path in &old {
                delete.execute([path])?;
            }
        }
        Ok(old.len())
    }
}
