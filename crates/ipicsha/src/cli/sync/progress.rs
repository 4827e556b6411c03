//! How far it is, on a terminal or in a log.
//!
//! Decides what is worth a line. Must not decide what is transferred.

use std::time::{Duration, Instant};

use ipicsha_files::sync::{Progress, Stats};

use super::quantity;

const TERMINAL_EVERY: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Makes progress lines.
#[derive(Debug)]
pub(super) struct Meter {
    begin: Instant,
    file_begin: Instant,
    file_bytes_before: u64,
    last_line: Option<Instant>,
    /// What was told last, for the last line.
    latest: Option<Progress>,
    /// The whole transfer, not single files.
    of_all: bool,
    terminal: bool,
    human: u8,
}

impl Meter {
    pub(super) fn new(of_all: bool, terminal: bool, human: u8) -> Self {
        let now = Instant::now();
        let (begin, file_begin) = (now, now);
        Self {
            begin,
            file_begin,
            file_bytes_before: 0,
            last_line: None,
            latest: None,
            of_all,
            terminal,
            human,
        }
    }

    /// The line to show now, if any; the first part returns to the begin of the line.
    pub(super) fn line(&mut self, progress: &Progress) -> Option<String> {
        let now = Instant::now();
        if self.of_all {
            self.latest = Some(progress.clone());
        }
        if progress.file_bytes < self.file_bytes_before {
            self.file_begin = now;
        }
        self.file_bytes_before = if progress.file_done { 0 } else { progress.file_bytes };
        let every = if self.terminal { TERMINAL_EVERY } else { LOG_EVERY };
        let due = self.last_line.is_none_or(|last| now.duration_since(last) >= every);
        let last_of_file = progress.file_done && !self.of_all;
        let first_in_log = !self.terminal && self.last_line.is_none();
        if !(due && !first_in_log || last_of_file) {
            self.last_line.get_or_insert(now);
            return None;
        }
        self.last_line = Some(now);
        let line = self.text(progress, now);
        if progress.file_done {
            self.file_begin = now;
        }
        Some(line)
    }

    /// The line at the end, for the whole transfer. What came since the last word of it stands in the
    /// numbers at the end, when it was gone through to its end.
    pub(super) fn last(&mut self, ended: Option<&Stats>) -> Option<String> {
        let mut progress = self.latest.take()?;
        if let Some(stats) = ended {
            (progress.bytes, progress.planned_bytes) =
                (stats.transferred_bytes, stats.transferred_bytes);
            progress.files_done = stats.transferred;
            progress.entries = stats.entries.total();
            progress.checked = progress.entries;
            progress.scan_done = true;
        }
        Some(self.text(&progress, Instant::now()))
    }

    fn text(&self, progress: &Progress, now: Instant) -> String {
        let (bytes, total, begin) = if self.of_all {
            (progress.bytes, progress.planned_bytes, self.begin)
        } else {
            (progress.file_bytes, progress.file_size, self.file_begin)
        };
        let share = u128::from(bytes.min(total)) * 100;
        let percent = share.checked_div(u128::from(total)).unwrap_or(100);
        let seconds = now.duration_since(begin).as_secs_f64().max(0.001);
        let rate = bytes as f64 / seconds;
        let left = if progress.file_done && !self.of_all {
            seconds
        } else {
            total.saturating_sub(bytes) as f64 / rate.max(1.0)
        };
        let mut line = format!(
            "{:>15} {percent:>3}% {} {}",
            quantity::human(bytes, self.human),
            rate_text(rate),
            clock(left)
        );
        if progress.file_done || self.of_all {
            let check = if progress.scan_done { "to-chk" } else { "ir-chk" };
            let left = progress.entries.saturating_sub(progress.checked);
            let (files, entries) = (progress.files_done, progress.entries);
            line.push_str(&format!(" (xfr#{files}, {check}={left}/{entries})"));
        }
        line
    }
}

fn rate_text(rate: f64) -> String {
    let mut value = rate / 1024.0;
    for unit in ["kB/s", "MB/s"] {
        if value < 1024.0 {
            return format!("{value:>7.2}{unit}");
        }
        value /= 1024.0;
    }
    format!("{value:>7.2}GB/s")
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.min(9999.0 * 3600.0) as u64;
    format!("{:>4}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use ipicsha_files::sync::Counts;

    use super::*;

    #[test]
    fn progress_of_all_counts_everything_and_ends_with_a_line() {
        let mut meter = Meter::new(true, false, 1);
        let mut progress = Progress { planned_bytes: 4_000_000, ..Progress::default() };
        (progress.bytes, progress.entries, progress.checked) = (1_000_000, 8, 6);
        assert_eq!(meter.line(&progress), None);
        let line = meter.last(None).expect("a line");
        assert!(line.starts_with("      1,000,000  25% "), "{line}");
        assert!(line.ends_with(" (xfr#0, ir-chk=2/8)"), "{line}");
        assert_eq!(meter.last(None), None);
        meter.line(&progress);
        let entries = Counts { files: 9, ..Counts::default() };
        let (transferred, transferred_bytes) = (2, 4_000_000);
        let stats = Stats { entries, transferred, transferred_bytes, ..Stats::default() };
        let line = meter.last(Some(&stats)).expect("a line");
        assert!(line.starts_with("      4,000,000 100% "), "{line}");
        assert!(line.ends_with(" (xfr#2, to-chk=0/9)"), "{line}");
        // Contents with holes may be larger than anything that is multiplied.
        (progress.bytes, progress.planned_bytes) = (u64::MAX / 2, u64::MAX);
        meter.line(&progress);
        assert!(meter.last(None).expect("a line").contains("  49% "));
    }

    #[test]
    fn a_finished_file_has_a_line_in_every_log() {
        let mut meter = Meter::new(false, false, 1);
        let mut progress = Progress { file_size: 2_000_000, ..Progress::default() };
        progress.file_bytes = 1_000_000;
        assert_eq!(meter.line(&progress), None);
        progress.file_bytes = 2_000_000;
        (progress.file_done, progress.files_done, progress.scan_done) = (true, 1, true);
        (progress.entries, progress.checked) = (396, 227);
        let line = meter.line(&progress).expect("a line");
        assert!(line.starts_with("      2,000,000 100% "), "{line}");
        assert!(line.ends_with(" (xfr#1, to-chk=169/396)"), "{line}");
        assert_eq!(
            (rate_text(149_893.0), clock(3725.0)),
            (" 146.38kB/s".into(), "   1:02:05".into())
        );
    }
}
