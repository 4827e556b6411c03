//! What is known of the health of every service, and the report on it that the core gets. It decides
//! nothing: how long a service may be down is the core's.

use std::{sync::Arc, time::Duration};

use ipicsha_core::{Input, ServiceDown, ServiceKind, ServicesReport};
use tokio::sync::{mpsc, watch};

use crate::daemon::event::Event;

/// The report is told again after this, also when nothing has changed.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) name: String,
    pub(super) critical: bool,
    /// It should run: this server is active, and no administrator has stopped it.
    pub(super) wanted: bool,
    /// An administrator stopped it.
    pub(super) held: bool,
    /// Why its process or unit does not run.
    process: Option<String>,
    /// Its checks, each with why it fails.
    checks: Vec<(ServiceKind, Option<String>)>,
    /// While it is stopped: why it could not be started.
    startable: Option<String>,
}

impl Health {
    pub(super) fn new(name: &str, critical: bool) -> Self {
        Self { name: name.to_owned(), critical, ..Self::default() }
    }

    /// What is wrong, and of what kind it is.
    pub(super) fn trouble(&self) -> Option<(ServiceKind, &str)> {
        if !self.wanted {
            let startable = self.startable.as_deref().filter(|_| !self.held);
            return startable.map(|cause| (ServiceKind::Critical, cause));
        }
        let failing = |kind: ServiceKind| {
            self.checks.iter().find_map(move |(of, cause)| {
                cause.as_deref().filter(|_| *of == kind).map(|cause| (kind, cause))
            })
        };
        let process = || self.process.as_deref().map(|cause| (ServiceKind::Critical, cause));
        failing(ServiceKind::Database).or_else(process).or_else(|| failing(ServiceKind::Critical))
    }
}

/// All services, in the order of the configuration.
#[derive(Clone)]
pub(super) struct Conditions(Arc<watch::Sender<Vec<Health>>>);

/// One of them.
#[derive(Clone)]
pub(super) struct Condition {
    all: Conditions,
    index: usize,
}

impl Conditions {
    pub(super) fn new(all: Vec<Health>) -> Self {
        Self(Arc::new(watch::Sender::new(all)))
    }

    pub(super) fn of(&self, index: usize) -> Condition {
        Condition { all: self.clone(), index }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<Health>> {
        self.0.subscribe()
    }
}

impl Condition {
    pub(super) fn change(&self, change: impl FnOnce(&mut Health)) {
        self.all.0.send_if_modified(|all| {
            let Some(health) = all.get_mut(self.index) else { return false };
            let before = health.clone();
            change(health);
            *health != before
        });
    }

    /// Why its process or unit does not run; `None`: it does.
    pub(super) fn process(&self, cause: Option<String>) {
        self.change(|health| health.process = cause);
    }

    /// How one of its checks stands.
    pub(super) fn check(&self, number: usize, cause: Option<String>) {
        self.change(|health| {
            if let Some((_, known)) = health.checks.get_mut(number) {
                *known = cause;
            }
        });
    }

    /// It is to run, with these checks. Why it did not run before counts until it does: one that is
    /// tried again and again is down all the time.
    pub(super) fn wanted(&self, checks: &[ServiceKind]) {
        self.change(|health| {
            health.wanted = true;
            if !health.checks.iter().map(|(kind, _)| kind).eq(checks) {
                health.checks = checks.iter().map(|kind| (*kind, None)).collect();
            }
        });
    }

    /// It is stopped on purpose.
    pub(super) fn stopped(&self) {
        self.change(|health| {
            health.wanted = false;
            health.process = None;
            health.checks.clear();
        });
    }

    /// Why it could not be started, as was found out while it is stopped.
    pub(super) fn startable(&self, startable: Option<String>) {
        self.change(|health| {
            if !health.wanted {
                health.startable = startable;
            }
        });
    }
}

fn report(all: &[Health]) -> ServicesReport {
    let down = all.iter().filter(|health| health.critical).filter_map(|health| {
        let (kind, cause) = health.trouble()?;
        Some(ServiceDown { name: health.name.clone(), kind, cause: cause.to_owned() })
    });
    ServicesReport { down: down.collect() }
}

/// Tells the core what is down, at every change and every few seconds, until the daemon ends.
pub(super) async fn tell(conditions: Conditions, events: mpsc::Sender<Event>) {
    let mut changes = conditions.subscribe();
    drop(conditions);
    loop {
        let none = changes.borrow().is_empty();
        let report = report(&changes.borrow_and_update());
        if events.send(Event::Node(Input::Services(report))).await.is_err() {
            return;
        }
        if none {
            return; // nothing will ever be down
        }
        match tokio::time::timeout(TOLD_AGAIN, changes.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_should_run_is_down_and_databases_come_first() {
        let conditions = Conditions::new(vec![Health::new("a", true), Health::new("b", false)]);
        let told = || report(&conditions.0.borrow());
        let (a, b) = (conditions.of(0), conditions.of(1));
        assert_eq!(told().down, []);
        a.wanted(&[ServiceKind::Critical, ServiceKind::Database]);
        b.wanted(&[]);
        b.process(Some("it ended".into()));
        assert_eq!(told().down, [], "b is not critical");
        a.check(0, Some("no answer".into()));
        a.process(Some("it ended".into()));
        assert_eq!(told().down[0].cause, "it ended");
        a.check(1, Some("malformed".into()));
        assert_eq!(told().down[0].kind, ServiceKind::Database);
        a.startable(Some("its program is missing".into()));
        assert_eq!(told().down[0].cause, "malformed", "it runs: that says nothing");
        a.stopped();
        assert_eq!(told().down, []);
        a.startable(Some("its program is missing".into()));
        assert_eq!(told().down[0].cause, "its program is missing");
        a.change(|health| health.held = true);
        assert_eq!(told().down, [], "an administrator stopped it");
    }

    #[test]
    fn what_does_not_start_is_down_until_it_does() {
        let conditions = Conditions::new(vec![Health::new("a", true)]);
        let a = conditions.of(0);
        a.wanted(&[]);
        a.process(Some("it ended at once".into()));
        a.wanted(&[]);
        assert_eq!(report(&conditions.0.borrow()).down.len(), 1, "it is only tried again");
        a.process(None);
        assert_eq!(report(&conditions.0.borrow()).down, []);
        a.wanted(&[ServiceKind::Critical]);
        a.check(0, Some("no answer".into()));
        a.wanted(&[ServiceKind::Critical]);
        assert_eq!(
            report(&conditions.0.borrow()).down.len(),
            1,
            "its check fails until it does not"
        );
    }
}
