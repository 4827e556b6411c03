//! What is told, to whom, and what a restart remembers: with a real socket of syslog.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use super::*;

const MINUTE: i64 = 60_000;

struct Server {
    folder: tempfile::TempDir,
    syslog: UnixDatagram,
    alarms: Alarms,
}

fn open(folder: &Path, now: i64) -> Alarms {
    let (journal, syslog) = (PathBuf::new(), folder.join("log"));
    let delivery = Delivery::new(vec![Channel::System { journal, syslog }]);
    Alarms::open(folder.join("alarms.json"), WallTime(now), Some(60 * MINUTE), delivery)
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let syslog = UnixDatagram::bind(folder.path().join("log")).unwrap();
        syslog.set_nonblocking(true).unwrap();
        let alarms = open(folder.path(), 0);
        Self { folder, syslog, alarms }
    }

    fn restart(&mut self, now: i64) {
        self.alarms = open(self.folder.path(), now);
    }

    /// What arrives of this; nothing more comes once a test has come.
    async fn tell(&mut self, now: i64, current: &[Alarm], sends: bool) -> Vec<String> {
        self.alarms.update(WallTime(now), current, |_| sends, &Sender::default());
        let mut queued = 0;
        while queued < 200 && self.alarms.delivery.is_waiting() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            queued += 1;
        }
        let mut told = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.syslog.recv(&mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let word = line.split(": alarm ").nth(1).unwrap_or_default();
            told.push(word.split(':').next().unwrap_or_default().to_owned());
        }
        self.alarms.update(WallTime(now), current, |_| sends, &Sender::default());
        told
    }
}

#[tokio::test]
async fn an_alarm_is_told_once_then_in_reminders_until_it_is_acknowledged() {
    let mut server = Server::new();
    let alarm = [Alarm::PartnerDown];
    assert_eq!(server.tell(0, &alarm, true).await, ["raised"]);
    assert_eq!(server.tell(59 * MINUTE, &alarm, true).await, [""; 0]);
    assert_eq!(server.tell(60 * MINUTE, &alarm, true).await, ["reminder"]);
    assert!(server.alarms.acknowledge(WallTime(61 * MINUTE), Some(7), None).is_empty());
    assert_eq!(server.alarms.acknowledge(WallTime(61 * MINUTE), Some(1), Some("on it")), [1]);
    assert_eq!(server.tell(1000 * MINUTE, &alarm, true).await, [""; 0]);
    assert_eq!(server.tell(1001 * MINUTE, &[], true).await, ["cleared"]);
    assert_eq!(server.alarms.view().alarms, []);
    assert_eq!(server.tell(1002 * MINUTE, &alarm, true).await, ["raised"]);
    assert_eq!(server.alarms.view().alarms[0].id, 2);
}

#[tokio::test]
async fn what_the_partner_sends_is_not_sent_here_unless_it_is_lost() {
    let mut server = Server::new();
    let alarm = [Alarm::SplitBrain];
    assert_eq!(server.tell(0, &alarm, false).await, [""; 0]);
    assert_eq!(server.tell(1, &alarm, true).await, ["raised"]);
    assert_eq!(server.tell(2, &[], false).await, ["cleared"]);
}

#[tokio::test]
async fn a_restart_forgets_no_acknowledgement_and_tells_nothing_twice() {
    let mut server = Server::new();
    let both = [Alarm::PartnerDown, Alarm::RepairDue];
    assert_eq!(server.tell(0, &both, true).await, ["raised", "raised"]);
    server.alarms.acknowledge(WallTime(5), Some(1), Some("known"));
    server.restart(MINUTE);
    // The core does not see it again at once.
    assert_eq!(server.tell(MINUTE, &[], true).await, [""; 0]);
    assert_eq!(server.tell(2 * MINUTE, &[Alarm::PartnerDown], true).await, [""; 0]);
    let first = &server.alarms.view().alarms[0];
    assert_eq!((first.id, first.note.as_deref()), (1, Some("known")));
    // What is not seen again within two minutes is over.
    assert_eq!(server.tell(4 * MINUTE, &[Alarm::PartnerDown], true).await, ["cleared"]);
    assert_eq!(server.alarms.view().alarms.len(), 1);
}

#[tokio::test]
async fn word_that_was_under_way_when_the_daemon_ended_goes_again() {
    let mut server = Server::new();
    std::fs::remove_file(server.folder.path().join("log")).unwrap();
    server.alarms.update(WallTime(0), &[Alarm::PartnerDown], |_| true, &Sender::default());
    while server.alarms.view().ways[0].error.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.syslog = UnixDatagram::bind(server.folder.path().join("log")).unwrap();
    server.syslog.set_nonblocking(true).unwrap();
    server.restart(MINUTE);
    assert_eq!(server.tell(MINUTE, &[Alarm::PartnerDown], true).await, ["raised"]);
}
