//! A time to come, as people write it.

use chrono::{DateTime, Days, Local, NaiveDateTime, NaiveTime, TimeZone};

/// Milliseconds since 1970.
pub(super) fn of(text: &str) -> Result<i64, String> {
    after(text, Local::now()).map(|at| at.timestamp_millis())
}

/// The first such time after `now`.
fn after<Z: TimeZone>(text: &str, now: DateTime<Z>) -> Result<DateTime<Z>, String> {
    let wrong = || {
        format!(
            "{text:?} is no time: write it as 03:00, '2026-12-01 03:00' or 2026-12-01T03:00:00Z"
        )
    };
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.with_timezone(&now.timezone()));
    }
    let zone = now.timezone();
    let local = |at: NaiveDateTime| {
        zone.from_local_datetime(&at)
            .earliest()
            .ok_or_else(|| format!("{text:?} does not exist on that day"))
    };
    for format in ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            return local(at);
        }
    }
    let time = ["%H:%M", "%H:%M:%S"].iter().find_map(|f| NaiveTime::parse_from_str(text, f).ok());
    let time = time.ok_or_else(wrong)?;
    let today = now.date_naive();
    let at = local(today.and_time(time))?;
    if at > now {
        return Ok(at);
    }
    local(today.checked_add_days(Days::new(1)).ok_or_else(wrong)?.and_time(time))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    #[test]
    fn a_time_of_day_is_the_next_one_and_a_date_is_itself() {
        let now: DateTime<Utc> = "2026-11-25T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("13:00", "2026-11-25T13:00:00Z"),
            ("03:00", "2026-11-26T03:00:00Z"),
            ("12:00:00", "2026-11-26T12:00:00Z"),
            ("2026-12-01 03:00", "2026-12-01T03:00:00Z"),
            ("2026-12-01T03:00:30", "2026-12-01T03:00:30Z"),
            ("2026-12-01T03:00:00+02:00", "2026-12-01T01:00:00Z"),
        ] {
            let expected: DateTime<Utc> = expected.parse().unwrap();
            assert_eq!(after(text, now), Ok(expected), "{text}");
        }
        for bad in ["", "3", "25:00", "tomorrow", "2026-02-30 03:00"] {
            assert!(after(bad, now).is_err(), "{bad}");
        }
    }
}
