//! The steps of a comparison that came from the partner, sorted and carried out.
//!
//! Decides which step is a question, which an answer, and which belongs to a comparison that is
//! over. Which question comes next is the business of `compare`, what happens to rows that of
//! `repair` and `fill`.

use ipicsha_core::{
    data::{
        BriefHash, Columns, CompareStep, Differences, Key, PrimaryVersion, Range, RepairReport,
    },
    id::Seq,
};

use crate::{
    answer::Follower,
    engine::Engine,
    error::Error,
    fill,
    repair::{self, Terms, Versions},
    scan::Span,
    session::Authority,
};

/// What the primary wants to know or to be done.
enum Question<'a> {
    Ranges(&'a Option<Key>, &'a [Range]),
    Rows(Span, &'a [(Key, BriefHash)]),
    Fix(Seq, &'a [(Key, PrimaryVersion)]),
    Fill(Seq, &'a [Columns]),
    Fetch(Span),
}

/// What the secondary says to it.
enum Answer<'a> {
    Ready,
    Ranges(&'a [(u32, u64)]),
    Keys(&'a [Key]),
    Fixed {
        base: Seq,
        found: &'a Differences,
        copies: &'a [Columns],
        gone: &'a [Key],
        newer: &'a [Columns],
    },
    Fetched {
        base: Seq,
        rows: &'a [Columns],
        more: bool,
    },
}

/// A step by what it is.
enum Sorted<'a> {
    Begin { apply: bool, initial: bool, tables: &'a [String] },
    Question(u32, Question<'a>),
    Answer(Answer<'a>),
    Done(&'a RepairReport),
    Interrupted(&'a str),
    Progress { pass: u32, rows: u64, total: Option<u64> },
}

fn sort(step: &CompareStep) -> Sorted<'_> {
    let span =
        |after: &Option<Key>, upto: &Option<Key>| Span { after: after.clone(), upto: upto.clone() };
    match step {
        CompareStep::Begin { apply, initial, tables } => {
            Sorted::Begin { apply: *apply, initial: *initial, tables }
        }
        CompareStep::Ranges { table, after, ranges } => {
            Sorted::Question(*table, Question::Ranges(after, ranges))
        }
        CompareStep::Rows { table, after, upto, rows } => {
            Sorted::Question(*table, Question::Rows(span(after, upto), rows))
        }
        CompareStep::Fix { table, base, rows } => {
            Sorted::Question(*table, Question::Fix(*base, rows))
        }
        CompareStep::Fill { table, base, rows } => {
            Sorted::Question(*table, Question::Fill(*base, rows))
        }
        CompareStep::Fetch { table, after, upto } => {
            Sorted::Question(*table, Question::Fetch(span(after, upto)))
        }
        CompareStep::Ready => Sorted::Answer(Answer::Ready),
        CompareStep::DifferingRanges(ranges) => Sorted::Answer(Answer::Ranges(ranges)),
        CompareStep::DifferingKeys(keys) => Sorted::Answer(Answer::Keys(keys)),
        CompareStep::Fixed { base, found, copies, gone } => {
            Sorted::Answer(Answer::Fixed { base: *base, found, copies, gone, newer: &[] })
        }
        CompareStep::FixedNewer { base, found, copies, gone, newer } => {
            Sorted::Answer(Answer::Fixed { base: *base, found, copies, gone, newer })
        }
        CompareStep::Fetched { base, rows, more } => {
            Sorted::Answer(Answer::Fetched { base: *base, rows, more: *more })
        }
        CompareStep::Done(report) => Sorted::Done(report),
        CompareStep::Interrupted(reason) => Sorted::Interrupted(reason),
        CompareStep::Progress { pass, rows, total } => {
            Sorted::Progress { pass: *pass, rows: *rows, total: *total }
        }
    }
}

fn is_dated((_, version): &(Key, PrimaryVersion)) -> bool {
    matches!(version, PrimaryVersion::Dated { .. })
}

impl Engine {
    /// Works off one step of the partner; those of a comparison that is over mean nothing.
    pub(crate) fn compare_step(&mut self, run: u64, step: &CompareStep) -> Result<(), Error> {
        let leads = self.leading.as_ref().is_some_and(|leading| leading.leader.run == run);
        let follows = self.follower.as_ref().is_some_and(|follower| follower.run == run);
        match sort(step) {
            Sorted::Begin { apply, initial, tables } => {
                let mark = self.last_seq()?;
                if let Some(journal) = &self.journal {
                    journal.begin_run(&self.config.name, run, apply, initial, false)?;
                }
                self.paused = None;
                let (tables, authorities) = (tables.to_vec(), self.authorities(initial));
                let follower = Follower::new(run, apply, initial, tables, mark, authorities);
                self.follower = Some(follower);
            }
            Sorted::Question(table, question) if follows => {
                let answer = self.take_question(run, table, question)?;
                self.answer(run, answer)?;
            }
            Sorted::Answer(answer) if leads => self.take_answer(answer)?,
            Sorted::Done(report) if follows => self.finish_following(report.clone())?,
            Sorted::Done(report) => self.finish_paused(run, report.clone()),
            Sorted::Interrupted(reason) if leads || follows => self.interrupt(reason),
            Sorted::Progress { pass, rows, total } => {
                if let Some(follower) = self.follower.as_mut().filter(|f| f.run == run) {
                    follower.note_progress(pass, rows, total);
                }
            }
            Sorted::Question(..) | Sorted::Answer(_) | Sorted::Interrupted(_) => {}
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: Answer<'_>) -> Result<(), Error> {
        let Some(leading) = &mut self.leading else { return Ok(()) };
        let leader = &mut leading.leader;
        let (run, name) = (leader.run, leader.table().map(str::to_owned));
        let unknown = Error::Mismatch("an answer about an unknown table");
        match answer {
            Answer::Ready => leader.take_ready(),
            Answer::Ranges(differing) => leader.take_ranges(differing)?,
            Answer::Keys(keys) => {
                let database = self.database.as_ref().zip(name);
                let table = database.and_then(|(database, name)| database.table(&name));
                leader.take_keys(keys.to_vec(), &table.ok_or(unknown)?.table)?;
            }
            Answer::Fixed { base, found, copies, gone, newer } => {
                let table = name.ok_or(unknown)?;
                let authority = leader.yields(&table).then_some(Authority::Theirs);
                let (database, mut setting) = self.parts()?;
                let refused = match authority {
                    Some(_) => Vec::new(),
                    None => repair::copy(database, &mut setting, &table, base, copies)?.refused,
                };
                let copies = if authority.is_some() { copies } else { newer };
                let versions = Versions { copies, gone };
                let terms = (run, authority);
                let losers =
                    repair::yield_to(database, &mut setting, &table, base, &versions, terms)?;
                self.note_losers(&losers);
                let kept = if authority.is_some() { 0 } else { losers.len() as u64 };
                let found = Differences { journaled: found.journaled + kept, ..found.clone() };
                if let Some(leading) = &mut self.leading {
                    leading.leader.take_fixed(&found, refused);
                }
            }
            Answer::Fetched { base, rows, more } => {
                let table = name.ok_or(unknown)?;
                let (database, mut setting) = self.parts()?;
                let copied = fill::take_copies(database, &mut setting, &table, base, rows)?;
                if let Some(leading) = &mut self.leading {
                    leading.leader.take_fetched(copied.new, copied.last, more, copied.refused)?;
                }
            }
        }
        Ok(())
    }

    fn take_question(
        &mut self,
        run: u64,
        index: u32,
        question: Question<'_>,
    ) -> Result<CompareStep, Error> {
        self.note_asked(index, &question);
        if let Some(follower) = &mut self.follower {
            let filling = matches!(question, Question::Fill(..) | Question::Fetch(_));
            follower.note_filling(filling);
        }
        let closed = || Error::Mismatch("the database is not open here");
        let follower = self.follower.as_mut().ok_or_else(closed)?;
        let (name, apply) = (follower.table(index)?, follower.apply);
        let database = self.database.as_ref().ok_or_else(closed)?;
        let table = &database
            .table(&name)
            .ok_or(Error::Mismatch("a comparison of a table that is not here"))?
            .table;
        let authority = follower.authorities.get(&name).copied();
        let dated = matches!(&question, Question::Fix(_, rows) if rows.iter().any(is_dated));
        let stamps = if dated { follower.stamps(database)? } else { None };
        let stamps = stamps.as_deref();
        let terms = |base| Terms { base, run, apply, authority, stamps };
        let fixed = match question {
            Question::Ranges(after, ranges) => {
                return follower.ranges(database, table, after.clone(), ranges.to_vec());
            }
            Question::Rows(span, rows) => {
                return Follower::rows(database, table, &span, rows.to_vec());
            }
            Question::Fetch(span) => return Follower::fetched(database, table, &span),
            Question::Fix(base, rows) => {
                let (database, mut setting) = self.parts()?;
                repair::fix(database, &mut setting, &name, rows, &terms(base))?
            }
            Question::Fill(base, rows) => {
                let (database, mut setting) = self.parts()?;
                fill::fill(database, &mut setting, &name, rows, &terms(base))?
            }
        };
        let base = self.applied();
        self.note_losers(&fixed.losers);
        if let Some(follower) = &mut self.follower {
            follower.note(&fixed.found);
        }
        let repair::Fixed { found, copies, gone, newer, .. } = fixed;
        if newer.is_empty() {
            return Ok(CompareStep::Fixed { base, found, copies, gone });
        }
        Ok(CompareStep::FixedNewer { base, found, copies, gone, newer })
    }

    /// The primary asks in the order of tables and keys: what lies before is done.
    fn note_asked(&mut self, index: u32, question: &Question<'_>) {
        let after = match question {
            Question::Ranges(after, _) => (*after).clone(),
            Question::Rows(span, _) | Question::Fetch(span) => span.after.clone(),
            Question::Fix(..) | Question::Fill(..) => return,
        };
        let Some(follower) = self.follower.as_ref().filter(|_| self.received.is_some()) else {
            return;
        };
        let tables = follower.tables.clone();
        if follower.current() > index {
            // Another pass: all of them.
            self.note_compared(&tables, tables.len(), None);
        } else {
            self.note_compared(&tables, index as usize, after);
        }
    }

    /// How far the partner's log is applied here.
    fn applied(&self) -> Seq {
        let applied = self.database.as_ref().and_then(|database| database.meta.applied);
        applied.map_or(Seq(0), |applied| applied.seq)
    }
}
