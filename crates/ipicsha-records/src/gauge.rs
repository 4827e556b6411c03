//! How full a transaction log is, and where it is heading (spec C4).
//!
//! Decides what counts as used and how its bytes are estimated. Reads only; must not know what
//! follows from a full log.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ipicsha_core::{id::Seq, status::LogForecast};
use rusqlite::{Connection, Row, types::ValueRef};
use serde::Serialize;

use crate::capacity::LogCapacity;

/// Entries of which the size is looked at.
const SAMPLE: i64 = 64;
/// The rate is that of so long a time: long enough for a burst not to look like the end, short
/// enough to see a bulk job.
const WINDOW: Duration = Duration::from_secs(60);
/// Nothing is said about the rate before it was watched for so long.
const WATCHED: Duration = Duration::from_secs(3);
/// Between two points of the rate.
const STEP: Duration = Duration::from_secs(1);
/// Whoever changes the log is followed by a look; without one for so long nothing has changed.
const QUIET: Duration = Duration::from_secs(5);

/// What of a log the entries behind the partner take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogUse {
    /// Entries the partner has not applied.
    pub entries: u64,
    /// Their bytes in the database file: the average size of at most 64 of them, evenly spread,
    /// times their number. A sample costs the same for a log of any length, and needs no counter
    /// in the application's transactions; where few keys are much longer than the others it is
    /// only as good as the sample. Free space in pages is not counted (a log that is only appended
    /// to has hardly any).
    pub bytes: u64,
    /// Room.
    pub capacity: LogCapacity,
    /// When it reaches 90 %.
    pub forecast: LogForecast,
    /// Changes were overwritten that the partner never had.
    pub overflowed: bool,
    /// Newest entry when this was measured.
    #[serde(skip)]
    pub(crate) last: Seq,
}

impl LogUse {
    /// Nothing of this room.
    pub(crate) fn none(capacity: LogCapacity) -> Self {
        Self {
            entries: 0,
            bytes: 0,
            capacity,
            forecast: LogForecast::Unknown,
            overflowed: false,
            last: Seq(0),
        }
    }

    /// The worse of entries and bytes.
    pub fn percent(&self) -> f64 {
        let of = |used: u64, room: u64| used as f64 / room.max(1) as f64 * 100.0;
        of(self.entries, self.capacity.entries()).max(of(self.bytes, self.capacity.bytes))
    }
}

/// The size of entries in a part of the log.
#[derive(Clone, Copy)]
struct Sample {
    from: Seq,
    to: Seq,
    average: f64,
}

/// Measures one log again and again.
#[derive(Default)]
pub(crate) struct Gauge {
    sample: Option<Sample>,
    points: VecDeque<(Instant, f64)>,
    last: Option<(Instant, f64)>,
}

impl Gauge {
    /// Estimated bytes of the entries behind `base`.
    pub(crate) fn bytes(
        &mut self,
        db: &Connection,
        keys: usize,
        base: Seq,
        last: Seq,
    ) -> rusqlite::Result<u64> {
        let used = (last.0 - base.0).max(0);
        if used == 0 {
            self.sample = None;
            return Ok(0);
        }
        // A sample of nearly the same entries is good enough.
        let moved = |sample: &Sample| {
            (base.0 - sample.from.0).abs() + (last.0 - sample.to.0).abs() > used / SAMPLE
        };
        if self.sample.as_ref().is_none_or(moved) {
            self.sample =
                Some(Sample { from: base, to: last, average: average(db, keys, base, last)? });
        }
        Ok((self.sample.map_or(0.0, |sample| sample.average) * used as f64) as u64)
    }

    /// Where a log goes that is filled to `percent` now.
    pub(crate) fn forecast(&mut self, now: Instant, percent: f64) -> LogForecast {
        let since = |at: Instant| now.saturating_duration_since(at);
        if let Some((at, before)) = self.last.replace((now, percent))
            && since(at) > QUIET
        {
            // What is new began just now: spread over the silence it would look harmless.
            self.points = VecDeque::from([(now.checked_sub(STEP).unwrap_or(now), before)]);
        }
        while self.points.get(1).is_some_and(|(at, _)| since(*at) >= WINDOW) {
            self.points.pop_front();
        }
        let Some((first, then)) = self.points.front().copied() else {
            self.points.push_back((now, percent));
            return LogForecast::Unknown;
        };
        if self.points.back().is_some_and(|(at, _)| since(*at) >= STEP) {
            self.points.push_back((now, percent));
        }
        let watched = since(first);
        if watched < WATCHED {
            return LogForecast::Unknown;
        }
        LogForecast::new(percent, (percent - then) / watched.as_secs_f64())
    }

    /// What was seen belongs to another time: another room, another history.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Average size of entries in `base+1..=last`. What the ring has taken from a sample is left out.
fn average(db: &Connection, keys: usize, base: Seq, last: Seq) -> rusqlite::Result<f64> {
    let columns: String = (1..=keys).map(|n| format!(",k{n}")).collect();
    let sql = format!("SELECT seq,t,op,ms{columns} FROM _ipicsha_log WHERE seq=?1");
    let mut statement = db.prepare_cached(&sql)?;
    let used = last.0 - base.0;
    let count = used.min(SAMPLE);
    let (mut bytes, mut found) = (0, 0_u32);
    for n in 1..=count {
        // Ends with `last`, which the ring never takes.
        let seq = base.0
            + i64::try_from(i128::from(used) * i128::from(n) / i128::from(count)).unwrap_or(used);
        let mut rows = statement.query([seq])?;
        if let Some(row) = rows.next()? {
            bytes += size(row, 4 + keys)?;
            found += 1;
        }
    }
    Ok(if found == 0 { 0.0 } else { bytes as f64 / f64::from(found) })
}

/// Bytes of one row in SQLite's file format: pointer, two lengths, header, values.
fn size(row: &Row<'_>, columns: usize) -> rusqlite::Result<u64> {
    let mut header = 2; // its own length, and NULL for the rowid
    let mut body = 0;
    for index in 1..columns {
        let (kind, bytes) = match row.get_ref(index)? {
            ValueRef::Null => (1, 0),
            ValueRef::Integer(integer) => (1, integer_size(integer)),
            ValueRef::Real(_) => (1, 8),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                let bytes = bytes.len() as u64;
                (varint_size(bytes.saturating_mul(2) + 13), bytes)
            }
        };
        header += kind;
        body += bytes;
    }
    let rowid: i64 = row.get(0)?;
    Ok(2 + varint_size(header + body) + varint_size(rowid.cast_unsigned()) + header + body)
}

fn varint_size(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7).min(9))
}

fn integer_size(value: i64) -> u64 {
    if matches!(value, 0 | 1) {
        return 0;
    }
    // With its sign.
    let bits = 65 - (if value < 0 { !value } else { value }).leading_zeros();
    match bits.div_ceil(8) {
        bytes @ 1..=4 => u64::from(bytes),
        5..=6 => 6,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_time_and_is_that_of_the_last_minute() {
        let (mut gauge, start) = (Gauge::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(gauge.forecast(at(0), 10.0), LogForecast::Unknown);
        assert_eq!(gauge.forecast(at(2), 12.0), LogForecast::Unknown, "too early to say");
        // One percent a second.
        for second in 3..=50 {
            let percent = 10.0 + second as f64;
            let seconds = 80 - second;
            assert_eq!(gauge.forecast(at(second), percent), LogForecast::Full { seconds });
        }
        // It stops growing: a minute later that is seen.
        for second in 51..=110 {
            assert_ne!(gauge.forecast(at(second), 60.0), LogForecast::Unknown);
        }
        assert_eq!(gauge.forecast(at(112), 60.0), LogForecast::None);
        assert_eq!(gauge.forecast(at(114), 20.0), LogForecast::None, "it drains");
        assert!(gauge.points.len() < 70, "{}", gauge.points.len());
    }

    #[test]
    fn a_burst_after_a_silence_is_not_spread_over_the_silence() {
        let (mut gauge, start) = (Gauge::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        gauge.forecast(at(0), 0.0);
        assert_eq!(gauge.forecast(at(3600), 10.0), LogForecast::Unknown, "it has just begun");
        gauge.forecast(at(3601), 20.0);
        assert_eq!(gauge.forecast(at(3602), 30.0), LogForecast::Full { seconds: 6 });
    }

    #[test]
    fn the_worse_of_entries_and_bytes_counts() {
        let capacity = LogCapacity { entries: 10_000, bytes: 1_000_000 };
        let used = LogUse { entries: 5_000, bytes: 800_000, ..LogUse::none(capacity) };
        assert!((used.percent() - 80.0).abs() < 1e-9);
        let used = LogUse { bytes: 1, ..used };
        assert!((used.percent() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn the_estimate_is_near_what_the_pages_take() {
        for key in ["abs(random() % 1000000)", "hex(randomblob(18))", "hex(randomblob(200))"] {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(&format!(
                "CREATE TABLE _ipicsha_log(seq INTEGER PRIMARY KEY, t, op, ms, k1);
                 WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n<20000)
                 INSERT INTO _ipicsha_log SELECT n,3,2,1700000000000+n,{key} FROM s;"
            ))
            .unwrap();
            let taken = "SELECT sum(pgsize) FROM dbstat WHERE name='_ipicsha_log'";
            let taken: f64 = db.query_row(taken, [], |row| row.get(0)).unwrap();
            let mut gauge = Gauge::default();
            let estimate = gauge.bytes(&db, 1, Seq(0), Seq(20_000)).unwrap() as f64;
            assert!((0.85..1.15).contains(&(estimate / taken)), "{key}: {estimate} of {taken}");
            let half = gauge.bytes(&db, 1, Seq(10_000), Seq(20_000)).unwrap() as f64;
            assert!((0.45..0.55).contains(&(half / estimate)), "{key}: {half} of {estimate}");
            assert_eq!(gauge.bytes(&db, 1, Seq(20_000), Seq(20_000)).unwrap(), 0);
        }
    }
}
