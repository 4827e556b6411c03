//! `--stop-at`: a time to come, as rsync's users write it.
//!
//! Decides what the parts that are left out mean: the next time that fits. Must not read clocks.

use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, TimeDelta, Timelike};

/// The longest way to a date that exists: from one 29th of February to the next.
const DAYS_MAX: u64 = 8 * 366;

/// What of a time is given.
#[derive(Debug, Default)]
struct Given {
    year: Option<u32>,
    month: Option<u32>,
    day: Option<u32>,
    hour: Option<u32>,
    minute: Option<u32>,
}

/// The time after `now` that `Y-M-DTH:M` means, where parts may be missing from the left (`14:00`,
/// `1-30`, `30T12:00`, `:59`); `None` when it is no time, or gone.
pub(super) fn next(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    let given = read(text)?;
    let found = match given {
        Given { day: None, hour: None, minute: Some(minute), .. } => {
            let this = now.date().and_hms_opt(now.hour(), minute, 0)?;
            if this > now { this } else { this + TimeDelta::hours(1) }
        }
        Given { year: Some(year), month: Some(month), day: Some(day), .. } => {
            let year = i32::try_from(if year < 100 { 2000 + year } else { year }).ok()?;
            of_day(NaiveDate::from_ymd_opt(year, month, day)?, &given)?
        }
        Given { month, day, .. } => {
            let fits = |date: &NaiveDate| {
                month.is_none_or(|month| date.month() == month)
                    && day.is_none_or(|day| date.day() == day)
            };
            let days =
                (0..=DAYS_MAX).filter_map(|days| now.date().checked_add_days(Days::new(days)));
            days.filter(fits).find_map(|day| of_day(day, &given).filter(|at| *at > now))?
        }
    };
    (found > now).then_some(found)
}

fn of_day(day: NaiveDate, given: &Given) -> Option<NaiveDateTime> {
    day.and_hms_opt(given.hour.unwrap_or(0), given.minute.unwrap_or(0), 0)
}

fn read(text: &str) -> Option<Given> {
    let (date, time) = match text.split_once(['T', 't']) {
        Some((date, time)) => (date, time),
        None if text.contains(':') => ("", text),
        None => (text, ""),
    };
    let mut given = Given::default();
    if !date.is_empty() {
        let parts: Option<Vec<u32>> = date.split(['-', '/']).map(number).collect();
        match parts?[..] {
            [day] => given.day = Some(day),
            [month, day] => (given.month, given.day) = (Some(month), Some(day)),
            [year, month, day] => {
                (given.year, given.month, given.day) = (Some(year), Some(month), Some(day));
            }
            _ => return None,
        }
    }
    match time.split_once(':') {
        Some(("", minute)) if date.is_empty() => given.minute = Some(number(minute)?),
        Some((hour, minute)) => {
            (given.hour, given.minute) = (Some(number(hour)?), Some(number(minute)?));
        }
        None if time.is_empty() && !date.is_empty() => {}
        None => return None,
    }
    Some(given)
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_next_that_fits() {
        let now = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").unwrap();
        let at = now("2026-11-30T14:05:20");
        for (text, expected) in [
            ("2026-12-24T18:30", "2026-12-24T18:30:00"),
            ("27/1/2", "2027-01-02T00:00:00"),
            ("14:06", "2026-11-30T14:06:00"),
            ("T14:06", "2026-11-30T14:06:00"),
            ("14:05", "2026-12-01T14:05:00"),
            (":06", "2026-11-30T14:06:00"),
            (":05", "2026-11-30T15:05:00"),
            ("1-30", "2027-01-30T00:00:00"),
            ("30", "2026-12-30T00:00:00"),
            ("31T12:00", "2026-12-31T12:00:00"),
            ("31T", "2026-12-31T00:00:00"),
            ("2/29", "2028-02-29T00:00:00"),
        ] {
            assert_eq!(next(text, at), Some(now(expected)), "{text}");
        }
        for bad in [
            "",
            "T",
            ":",
            "x",
            "-5",
            "24:00",
            "1:60",
            "1:2:3",
            "5T12",
            "2-30",
            "1-2-3-4",
            "2026-13-1",
            "2026-11-30T14:05",
            "2020-1-1",
            "+1",
            "1-+2",
        ] {
            assert_eq!(next(bad, at), None, "{bad}");
        }
    }
}
