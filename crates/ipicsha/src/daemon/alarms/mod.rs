//! The alarms that are raised on this server: since when, who acknowledged them, and whom they are told.
//!
//! Decides what is sent and when; which alarms there are, and which server sends them, is the core's
//! business. What is remembered over a restart keeps its number and is not sent again.

mod channels;
mod delivery;
mod verbs;
mod word;

use std::path::PathBuf;

use ipicsha_core::{status::Alarm, time::WallTime};
use serde::{Deserialize, Serialize};

use self::{channels::Channel, delivery::Delivery, word::Word};
use super::persist;
use crate::config::Config;
pub(crate) use delivery::WayRow;
pub(crate) use word::{Sender, What, kind};

/// After a start the core needs this long, in milliseconds, to see again what was wrong before.
const SEEN_AGAIN: i64 = 120_000;
/// How long the daemon's end waits for words under way.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// An alarm that is raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Raised {
    pub(crate) id: u64,
    pub(crate) since_unix_ms: i64,
    pub(crate) alarm: Alarm,
    /// When an administrator said that he knows of it.
    pub(crate) acknowledged_unix_ms: Option<i64>,
    /// What he said.
    #[serde(default)]
    pub(crate) note: Option<String>,
    /// When word of it was queued last; `None`: the partner sends it.
    pub(crate) told_unix_ms: Option<i64>,
    /// It arrived somewhere.
    pub(crate) arrived: bool,
    /// Queued by this run of the daemon.
    #[serde(skip)]
    told_here: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    next: u64,
    raised: Vec<Raised>,
}

/// What `alarms list` shows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AlarmsView {
    pub(crate) alarms: Vec<Raised>,
    pub(crate) ways: Vec<WayRow>,
}

/// All alarms of this server.
pub(crate) struct Alarms {
    path: PathBuf,
    next: u64,
    raised: Vec<Raised>,
    /// From before this start, not seen again yet.
    unseen: Vec<u64>,
    started: WallTime,
    repeat_ms: Option<i64>,
    delivery: Delivery,
}

impl Alarms {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(config: &Config, now: WallTime) -> Self {
        let file = &config.file.alarms;
        let delivery = Delivery::new(Channel::all(file, &config.file.server.name));
        let repeat = file.repeat().and_then(|repeat| i64::try_from(repeat.as_millis()).ok());
        Self::open(config.state_file("alarms.json"), now, repeat, delivery)
    }

    fn open(path: PathBuf, now: WallTime, repeat_ms: Option<i64>, delivery: Delivery) -> Self {
        // One that cannot be read costs the numbers and acknowledgements, nothing else.
        let read = std::fs::read(&path).ok();
        let remembered: Remembered =
            read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let unseen = remembered.raised.iter().map(|raised| raised.id).collect();
        let (next, raised) = (remembered.next.max(1), remembered.raised);
        Self { path, next, raised, unseen, started: now, repeat_ms, delivery }
    }

    /// Takes over what is wrong now; `sends` says whether this server tells it.
    pub(crate) fn update(
        &mut self,
        now: WallTime,
        current: &[Alarm],
        sends: impl Fn(&Alarm) -> bool,
        sender: &Sender,
    ) {
        let before = self.raised.clone();
        for alarm in current {
            match self.raised.iter_mut().find(|raised| raised.alarm.is_still(alarm)) {
                Some(raised) => {
                    raised.alarm = alarm.clone();
                    let id = raised.id;
                    self.unseen.retain(|unseen| *unseen != id);
                }
                None => self.raise(now, alarm),
            }
        }
        self.clear(now, current, sender);
        self.tell(now, sends, sender);
        let figures = |all: &[Raised]| -> Vec<Raised> {
            // Of those only the figures change every second.
            all.iter().map(|r| Raised { alarm: Alarm::SplitBrain, ..r.clone() }).collect()
        };
        if figures(&before) != figures(&self.raised) {
            self.save();
        }
    }

    fn raise(&mut self, now: WallTime, alarm: &Alarm) {
        self.raised.push(Raised {
            id: self.next,
            since_unix_ms: now.0,
            alarm: alarm.clone(),
            acknowledged_unix_ms: None,
            note: None,
            told_unix_ms: None,
            arrived: false,
            told_here: false,
        });
        self.next += 1;
    }

    /// Who was told that it began is told that it is over.
    fn clear(&mut self, now: WallTime, current: &[Alarm], sender: &Sender) {
        let waits = now.millis_since(self.started) < SEEN_AGAIN;
        let unseen = &self.unseen;
        let over = |raised: &mut Raised| {
            let waiting = waits && unseen.contains(&raised.id);
            !waiting && !current.iter().any(|alarm| raised.alarm.is_still(alarm))
        };
        for raised in self.raised.extract_if(.., over) {
            if raised.told_unix_ms.is_some() {
                let word = Word::new(What::Cleared, raised.id, now, sender.clone(), &raised.alarm);
                self.delivery.queue(&word);
            }
        }
    }

    fn tell(&mut self, now: WallTime, sends: impl Fn(&Alarm) -> bool, sender: &Sender) {
        if !self.delivery.is_any() {
            return;
        }
        for raised in &mut self.raised {
            raised.arrived |= self.delivery.has_arrived(raised.id);
            if self.unseen.contains(&raised.id) || !sends(&raised.alarm) {
                continue;
            }
            // Queued before a restart and never arrived: the queue is gone.
            let lost = !raised.arrived && !raised.told_here;
            let due = self.repeat_ms.is_some_and(|repeat| {
                raised.acknowledged_unix_ms.is_none()
                    && raised.told_unix_ms.is_some_and(|told| now.0 - told >= repeat)
            });
            let what = match raised.told_unix_ms {
                None => What::Raised,
                Some(_) if lost => What::Raised,
                Some(_) if due => What::Reminder,
                Some(_) => continue,
            };
            let word = Word::new(what, raised.id, now, sender.clone(), &raised.alarm);
            if self.delivery.queue(&word) {
                (raised.told_unix_ms, raised.told_here) = (Some(now.0), true);
            }
        }
    }

    fn save(&self) {
        let remembered = Remembered { next: self.next, raised: self.raised.clone() };
        let saved = serde_json::to_vec_pretty(&remembered)
            .map_err(std::io::Error::from)
            .and_then(|bytes| persist::write_durably(&self.path, &bytes));
        if let Err(error) = saved {
            tracing::warn!(path = %self.path.display(), %error, "alarms are not remembered");
        }
    }

    /// Notes that an administrator knows; the numbers that were meant. `None`: all.
    pub(crate) fn acknowledge(
        &mut self,
        now: WallTime,
        id: Option<u64>,
        note: Option<&str>,
    ) -> Vec<u64> {
        let meant = |raised: &&mut Raised| id.is_none_or(|id| raised.id == id);
        let mut acknowledged = Vec::new();
        for raised in self.raised.iter_mut().filter(meant) {
            raised.acknowledged_unix_ms = raised.acknowledged_unix_ms.or(Some(now.0));
            raised.note = note.map(str::to_owned).or(raised.note.take());
            acknowledged.push(raised.id);
        }
        if !acknowledged.is_empty() {
            self.save();
        }
        acknowledged
    }

    pub(crate) fn view(&self) -> AlarmsView {
        AlarmsView { alarms: self.raised.clone(), ways: self.delivery.rows() }
    }

    /// At the end of the daemon: what is under way gets a moment to arrive.
    pub(crate) async fn end(&self) {
        let begin = std::time::Instant::now();
        while self.delivery.is_waiting() && begin.elapsed() < LAST_WORDS {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Tries every way once.
    pub(crate) fn test(
        &self,
        now: WallTime,
        sender: Sender,
    ) -> impl Future<Output = Vec<WayRow>> + Send + use<> {
        self.delivery.clone().test(Word::test(now, sender))
    }
}

#[cfg(test)]
mod tests;
