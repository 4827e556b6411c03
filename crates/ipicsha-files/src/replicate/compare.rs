//! Both sides are compared with contents read anew, and what differs is repaired if that is wanted.
//!
//! Decides what counts as a difference; which side is right, the core's `plan_repair` says. Must not
//! know how versions travel: a repair is a change like any other, made with the knowledge of both.

use std::{
    collections::BTreeSet,
    sync::Weak,
    time::{Duration, Instant},
};

use ipicsha_core::{
    file::{Contents, Entry, File, Version},
    file_policy::{FileRepair, plan_repair},
    id::Seq,
    license::LicensedRole,
};

use super::{
    CompareProgress, CompareReport, Done, Event, Refused,
    engine::{Engine, Step},
    guard::Verdict,
    look,
    row::{HELD_HERE, LEFT, Own, REPAIR, Row, SILENT, Want},
    scan::Scan,
};
use crate::path::{RelativePath, escape};

/// Paths that a report lists of each kind.
const LISTED_MAX: usize = 1000;
/// Entries of one message.
const FOUND_MAX: usize = 256;
/// Rows read at a time.
const ROWS: usize = 512;
/// What did not move for so long is not waited for: it cannot be made, or somebody has to be asked.
const STUCK: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });

/// What the two audits have told.
#[derive(Default)]
pub(super) struct Comparing {
    asked: Option<Asked>,
    /// The partner waits for the result of an audit with this number.
    owed: Option<u64>,
    next_id: u64,
    /// Deletions for which the last repair was refused.
    pub(super) refused: u64,
}

struct Asked {
    id: u64,
    apply: bool,
    done: Done<CompareReport>,
    /// This side has read everything.
    read: bool,
    /// The partner has, up to this position of its index.
    there: Option<i64>,
    /// Repaired, and waiting for the partner to have it.
    repaired: Option<(CompareReport, i64)>,
    /// Gone when nobody waits for the result any more.
    asker: Weak<()>,
    /// How far everything was, and since when.
    moved: Option<(Moves, Instant)>,
}

/// Changes as long as something is on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moves {
    pending: u64,
    wanted: u64,
    last: i64,
    noted: i64,
}

impl Asked {
    /// Whether nothing moves any more; `now_moves` is none while contents are under way.
    fn is_stuck(&mut self, now_moves: Option<Moves>, now: Instant) -> bool {
        match (now_moves, self.moved) {
            (Some(moves), Some((before, since))) if moves == before => now >= since + STUCK,
            (Some(moves), _) => {
                self.moved = Some((moves, now));
                false
            }
            (None, _) => {
                self.moved = None;
                false
            }
        }
    }
}

impl Comparing {
    /// How far it is, for the status.
    pub(super) fn progress(&self, scan: &Scan, bytes: u64) -> Option<CompareProgress> {
        let asked = self.asked.as_ref()?;
        Some(CompareProgress {
            bytes_done: if asked.read { bytes } else { scan.audited_bytes.min(bytes) },
            bytes_total: bytes,
            waiting_for_partner: asked.read && asked.there.is_none(),
        })
    }
}

impl Engine {
    /// Begins to compare.
    pub(super) fn compare(
        &mut self,
        apply: bool,
        asker: Weak<()>,
        done: Done<CompareReport>,
    ) -> Step<()> {
        let refused = |message: &str, next_step: &str| Refused {
            message: message.into(),
            next_step: next_step.into(),
        };
        if apply && self.config.rank == LicensedRole::Secondary {
            done(Err(refused("the primary leads a repair", "repeat the command on the primary")));
            return Ok(());
        }
        if self.comparing.asked.is_some() {
            done(Err(refused("a comparison runs already", "wait until it has ended")));
            return Ok(());
        }
        if let Err(refused) = self.hints_are_complete() {
            done(Err(refused));
            return Ok(());
        }
        self.comparing.next_id += 1;
        let id = self.comparing.next_id;
        let asked =
            Asked { id, apply, done, read: false, there: None, repaired: None, asker, moved: None };
        self.comparing.asked = Some(asked);
        self.begin_audit();
        self.outbox.push(File::Audit { directory: self.config.name.clone(), id });
        Ok(())
    }

    fn begin_audit(&mut self) {
        self.scan.audit = true;
        self.scan.audited_bytes = 0;
        self.scan.everything();
    }

    /// The partner wants to compare.
    pub(super) fn audit_asked(&mut self, id: u64) {
        self.comparing.owed = Some(id);
        self.begin_audit();
    }

    /// The partner has read everything.
    pub(super) fn audited_there(
        &mut self,
        id: u64,
        to: i64,
        found: Vec<Entry>,
        last: bool,
    ) -> Step<()> {
        let waits = |asked: &Asked| asked.id == id && asked.there.is_none();
        if !self.comparing.asked.as_ref().is_some_and(waits) {
            return Ok(());
        }
        self.note_found(found)?;
        if let Some(asked) = self.comparing.asked.as_mut().filter(|_| last) {
            asked.there = Some(to);
        }
        Ok(())
    }

    /// The connection is gone, or the gate closed.
    pub(super) fn fail_comparison(&mut self) {
        self.comparing.owed = None;
        self.refuse_comparison();
    }

    /// Whoever asked here does not wait any longer; what the partner asked for is told later.
    pub(super) fn refuse_comparison(&mut self) {
        let Some(refused) = self.why_not_connected() else { return };
        if let Some(asked) = self.comparing.asked.take() {
            (asked.done)(Err(refused));
        }
    }

    /// What was read is not known any more: the partner's audit begins anew, a comparison of this side
    /// has failed.
    pub(super) fn audit_anew(&mut self) {
        let owed = self.comparing.owed;
        self.fail_comparison();
        if let Some(id) = owed {
            self.audit_asked(id);
        }
    }

    /// Goes on with a comparison as far as it can.
    pub(super) fn see_comparison(&mut self) -> Step<()> {
        if self.scan.audit && self.scan.is_idle() {
            self.scan.audit = false;
            if let Some(asked) = &mut self.comparing.asked {
                asked.read = true;
            }
        }
        if !self.scan.audit
            && self.scan.is_idle()
            && let Some(id) = self.comparing.owed.take()
        {
            self.tell_audit(id)?;
        }
        self.go_on_with_comparison(Instant::now())
    }

    fn go_on_with_comparison(&mut self, now: Instant) -> Step<()> {
        self.comparing.asked.take_if(|asked| asked.asker.strong_count() == 0);
        if self.comparing.asked.is_none() {
            return Ok(());
        }
        let last = self.index.meta.last;
        let noted = self.index.meta.noted.map_or(0, |(_, seq)| seq);
        let takes = self.index.count_wanted(Want::Take)?;
        let (pending, wanted) = (self.index.counts.pending, self.index.counts.wanted);
        let is_quiet = self.fetch.is_quiet() && self.server.is_idle() && self.scan.is_idle();
        let moves = Moves { pending, wanted, last, noted };
        let Some(asked) = &mut self.comparing.asked else { return Ok(()) };
        let is_stuck = asked.is_stuck(Some(moves).filter(|_| is_quiet), now);
        if let Some((_, seq)) = &asked.repaired {
            let is_there = self.index.is_there_up_to(*seq)? && wanted == 0;
            if (is_there || is_stuck)
                && let Some(asked) = self.comparing.asked.take()
            {
                let report = asked.repaired.map(|(report, _)| report).unwrap_or_default();
                let stuck = self.differences()?.0.stuck;
                (asked.done)(Ok(CompareReport { stuck, ..report }));
            }
            return Ok(());
        }
        // What travels meanwhile arrives first, on both sides.
        let both = asked.read && asked.there.is_some_and(|there| noted >= there);
        let even = pending == 0 && takes == 0 || is_stuck;
        if both && even && self.exchange.noted_there >= last && self.scan.is_idle() {
            self.conclude()?;
        }
        Ok(())
    }

    /// Tells what is not as it was told, though nobody changed it.
    fn tell_audit(&mut self, id: u64) -> Step<()> {
        let mut found = Vec::new();
        for path in self.index.with_bits(SILENT)? {
            let row = self.index.get(&path)?;
            if let Some(Own { seq, version, known, .. }) = row.and_then(|row| row.own) {
                found.push(Entry { path, seq: Seq(seq), version, known });
            }
        }
        let directory = self.config.name.clone();
        let to = Seq(self.index.meta.last);
        let mut say = |found: Vec<Entry>, last| {
            self.outbox.push(File::Audited { directory: directory.clone(), id, to, found, last });
        };
        while found.len() > FOUND_MAX {
            let rest = found.split_off(FOUND_MAX);
            say(std::mem::replace(&mut found, rest), false);
        }
        say(found, true);
        Ok(())
    }

    /// Everything was told: what differs?
    fn conclude(&mut self) -> Step<()> {
        let Some(mut asked) = self.comparing.asked.take() else { return Ok(()) };
        let (mut report, plan) = self.differences()?;
        if !asked.apply {
            (asked.done)(Ok(report));
            return Ok(());
        }
        let now = Instant::now();
        let entries = self.index.counts.entries + report.deletions;
        let verdict = self.guard.may_delete(report.deletions, entries, now);
        if verdict == Verdict::Hold {
            self.comparing.refused = report.deletions;
            (asked.done)(Err(Refused {
                message: format!(
                    "the repair would delete {} entries at the secondary",
                    report.deletions
                ),
                next_step: "accept the deletions, then repair again".into(),
            }));
            return Ok(());
        }
        self.guard.done(report.deletions, now);
        for (path, repair) in plan {
            self.repair(&path, repair)?;
        }
        report.applied = true;
        let seq = self.index.meta.last;
        asked.repaired = Some((report, seq));
        asked.moved = None;
        self.comparing.asked = Some(asked);
        self.fetch.wake();
        Ok(())
    }

    /// Entries at the partner are not what they were told to be. They are noted as they come, so that
    /// nothing has to be remembered of them.
    fn note_found(&mut self, found: Vec<Entry>) -> Step<()> {
        for entry in found {
            let Some((path, told)) = self.believed(entry) else { continue };
            let Some(old) = self.index.get(path.as_written())? else { continue };
            if old.told.is_some() && old.told_known() == told.known {
                let mut new = old.clone();
                new.told = Some(told);
                self.index.put(path.as_written(), Some(&old), &new)?;
            }
        }
        Ok(())
    }

    fn differences(&mut self) -> Step<(CompareReport, Vec<(RelativePath, FileRepair)>)> {
        let mut report = CompareReport::default();
        let mut plan = Vec::new();
        let mut after = Vec::new();
        loop {
            let rows = self.index.all_after(&after, ROWS)?;
            let Some((last, _)) = rows.last() else { break };
            after.clone_from(last);
            for (path, row) in rows {
                if row.has(LEFT) {
                    continue;
                }
                report.entries += u64::from(row.is_present());
                let bytes = if row.is_present() { row.size() } else { 0 };
                report.bytes = report.bytes.saturating_add(bytes);
                if row.is_agreed() {
                    continue;
                }
                let waits = row.pending || matches!(row.want, Want::Take | Want::Held);
                if waits && report.stuck.len() < LISTED_MAX {
                    report.stuck.insert(escape(&path));
                }
                let Ok(path) = RelativePath::try_from(path) else { continue };
                let repair = self.difference(&mut report, &path, &row);
                plan.push((path, repair));
            }
        }
        report.not_compared =
            self.left.keys().take(LISTED_MAX).map(ToString::to_string).collect::<BTreeSet<_>>();
        Ok((report, plan))
    }

    fn difference(&self, report: &mut CompareReport, path: &RelativePath, row: &Row) -> FileRepair {
        let nothing = Version::absent(0);
        let mine = row.own.as_ref().map_or(&nothing, |own| &own.version);
        let theirs = row.told.as_ref().map_or(&nothing, |told| &told.version);
        report.differences += 1;
        let shown = escape(path.as_written());
        match (mine.contents.is_absent(), theirs.contents.is_absent()) {
            (false, true) if report.only_here.len() < LISTED_MAX => report.only_here.push(shown),
            (true, false) if report.only_there.len() < LISTED_MAX => report.only_there.push(shown),
            (false, false) if report.differing.len() < LISTED_MAX => {
                report.differing.push((shown, what_differs(mine, theirs)));
            }
            _ => {}
        }
        let (primary, secondary) = match self.config.rank {
            LicensedRole::Primary => (mine, theirs),
            LicensedRole::Secondary => (theirs, mine),
        };
        let repair = plan_repair(primary, secondary);
        let to_partner = match repair {
            FileRepair::Equal => None,
            FileRepair::ToSecondary => Some(self.config.rank == LicensedRole::Primary),
            FileRepair::ToPrimary => Some(self.config.rank == LicensedRole::Secondary),
            FileRepair::DeleteAtSecondary => {
                report.deletions += 1;
                None
            }
        };
        report.to_partner += u64::from(to_partner == Some(true));
        report.to_here += u64::from(to_partner == Some(false));
        repair
    }

    /// Makes it so; only the primary does.
    fn repair(&mut self, path: &RelativePath, repair: FileRepair) -> Step<()> {
        let Some(old) = self.index.get(path.as_written())? else { return Ok(()) };
        let mut row = old.clone();
        let joined = row.known().join(row.told_known());
        let line = match repair {
            FileRepair::Equal => return Ok(()),
            FileRepair::ToSecondary | FileRepair::DeleteAtSecondary => {
                let own = row.own.take();
                let absent = Version::absent(look::now_ns());
                let version = own.as_ref().map_or(absent, |own| own.version.clone());
                let quick = own.as_ref().and_then(|own| own.quick.clone());
                let seq = own.map_or(0, |own| own.seq);
                row.own = Some(Own {
                    seq,
                    known: joined,
                    version: version.clone(),
                    quick: quick.clone(),
                });
                row.bits &= !HELD_HERE;
                self.index.put(path.as_written(), Some(&old), &row)?;
                self.changed_here(path, Some(&row), version, quick)?;
                if repair == FileRepair::ToSecondary {
                    "to the secondary"
                } else {
                    "deleted at the secondary"
                }
            }
            FileRepair::ToPrimary => {
                row.want = Want::Take;
                row.bits |= REPAIR;
                self.index.put(path.as_written(), Some(&old), &row)?;
                "to the primary"
            }
        };
        (self.events)(Event::Repairing(format!("{path}: {line}")));
        Ok(())
    }
}

fn what_differs(mine: &Version, theirs: &Version) -> String {
    let kind = |version: &Version| std::mem::discriminant(&version.contents);
    let content = |version: &Version| match &version.contents {
        Contents::File { hash, .. } => hash.to_vec(),
        Contents::Symlink { target } => target.clone(),
        Contents::Absent | Contents::Directory => Vec::new(),
    };
    let differences = [
        ("kind", kind(mine) != kind(theirs)),
        ("content", kind(mine) == kind(theirs) && content(mine) != content(theirs)),
        ("mode", mine.mode != theirs.mode),
        ("owner", !mine.user.is_same(&theirs.user)),
        ("group", !mine.group.is_same(&theirs.group)),
        ("mtime", mine.mtime_ns != theirs.mtime_ns && !mine.contents.is_directory()),
        ("attributes", mine.attributes != theirs.attributes),
        ("hard link", mine.link != theirs.link),
    ];
    let named = differences.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name);
    named.collect::<Vec<_>>().join(", ")
}
