//! Critical services with two daemons: what is down for too long moves the role, what an administrator
//! stops does not, and whatever a service does has an end.

use std::fs;

use anyhow::{Result, ensure};
use ipicsha_e2e::{Server, Settings, Side, ready_pair, wait::SOON, wait_for};

/// Runs until it is stopped; well unless a file `broken` is beside it. It counts its starts, and its
/// checks count from the begin: it may be broken before it was looked at.
const APP: &str = "[[service]]\nname = \"app\"\ndriver = \"exec\"\nstart_timeout_seconds = 0.0\n\
    start = [\"sh\", \"-c\", \"echo >> HOME/starts; exec sleep 100000\"]\nrestarts = 1000\n\
    [[service.check]]\nkind = \"exec\"\ncommand = [\"test\", \"!\", \"-e\", \"HOME/broken\"]\n\
    interval_seconds = 0.2\nfailures = 2\n";

fn settings(service: &str) -> Settings {
    settings_with(1.5, service)
}

fn settings_with(delay: f64, service: &str) -> Settings {
    Settings::fast()
        .pair(&format!("critical_service_delay_seconds = {delay:?}"))
        .service(Side::Alpha, service)
        .service(Side::Bravo, service)
}

fn starts(server: &Server) -> usize {
    fs::read_to_string(server.home.join("starts")).map_or(0, |text| text.lines().count())
}

#[test]
fn spec_b3_b10_f3_a_service_that_fails_its_check_is_restarted_then_moves_and_is_mended()
-> Result<()> {
    ready_pair(settings(APP), |pair| {
        let broken = pair.alpha.write("broken", "")?;
        pair.alpha.wait("the alarm", |status| status.has_alarm("critical_service_down"))?;
        let status = pair.bravo.wait("it takes over", |status| {
            status.state() == "Running in Backup Mode" && status.standby_status() != "Ready"
        })?;
        ensure!(status.reason() == "Critical Service Down", "{status:?}");
        ensure!(starts(&pair.alpha) > 1, "it was not started again first");
        let down = "Failed Over with Critical Services Not Running";
        pair.alpha.wait("it knows why", |status| status.state() == down)?;
        ensure!(pair.alpha.status()?.service_pids().is_empty(), "a standby runs services");
        pair.bravo.cli(&["--yes", "fallback"])?.refused(3, "its critical services cannot run")?;
        fs::remove_file(broken)?;
        pair.alpha.ask(&["service", "start"])?;
        pair.alpha.wait("mended", |status| status.state() == "Failed Over")?;
        pair.bravo.wait("ready", |status| status.standby_status() == "Ready")?;
        pair.bravo.ask(&["fallback"])?;
        pair.wait_roles(Side::Alpha)?;
        pair.alpha.wait("the service runs", |status| status.service_pids().len() == 1)?;
        Ok(())
    })
}

/// Its check succeeds only two seconds after a start.
const SLOW: &str = "[[service]]\nname = \"app\"\ndriver = \"exec\"\nrestarts = 1000\n\
    start = [\"sh\", \"-c\", \"echo >> HOME/starts; rm -f HOME/well; sleep 2; echo >> HOME/well; exec sleep 100000\"]\n\
    [[service.check]]\nkind = \"exec\"\ncommand = [\"test\", \"-e\", \"HOME/well\"]\n\
    interval_seconds = 0.2\nfailures = 2\n";

#[test]
fn spec_b3_a_service_may_take_its_time_to_start() -> Result<()> {
    ready_pair(settings_with(60.0, SLOW), |pair| {
        let well = || pair.alpha.home.join("well").exists().then_some(());
        wait_for("it is well", SOON, well)?;
        ensure!(starts(&pair.alpha) == 1, "it was started again before it could be well");
        ensure!(!pair.alpha.status()?.has_alarm("critical_service_down"), "it was called down");
        // Once it was well a failure counts at once, and what is started again has its time again.
        fs::remove_file(pair.alpha.home.join("well"))?;
        wait_for("it is started again", SOON, || (starts(&pair.alpha) > 1).then_some(()))?;
        wait_for("it is well again", SOON, well)?;
        ensure!(starts(&pair.alpha) == 2, "it was not given its time");
        Ok(())
    })
}

#[test]
fn a_service_that_is_not_well_within_its_time_is_started_again() -> Result<()> {
    let service = SLOW.replace("restarts = 1000", "restarts = 1000\nstart_timeout_seconds = 0.5");
    ready_pair(settings(&service), |pair| {
        wait_for("it is started again", SOON, || (starts(&pair.alpha) > 1).then_some(()))?;
        pair.alpha.wait("the alarm", |status| status.has_alarm("critical_service_down"))?;
        Ok(())
    })
}

#[test]
fn spec_b3_a_service_that_does_not_start_moves_the_role_although_it_is_tried_again() -> Result<()> {
    let service = "[[service]]\nname = \"app\"\ndriver = \"exec\"\n\
        start = [\"sh\", \"-c\", \"test ! -e HOME/broken || exit 3; exec sleep 100000\"]\n";
    // Longer than the pause between two tries.
    let settings = Settings::fast()
        .pair("critical_service_delay_seconds = 6.0")
        .service(Side::Alpha, service)
        .service(Side::Bravo, service)
        .expects_error("the service does not start");
    ready_pair(settings, |pair| {
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        pair.alpha.write("broken", "")?;
        pair.bravo.cli(&["--yes", "failover"])?.refused(1, "alpha is active, but could not")?;
        pair.alpha.wait("the alarm", |status| status.has_alarm("critical_service_down"))?;
        for side in Side::BOTH {
            let check = pair.server(side).cli(&["ha-status", "--check"])?;
            ensure!(check.code == Some(2), "the pair serves nobody: {check:?}");
        }
        pair.bravo.wait("it takes over", |status| status.role() == "active")?;
        pair.bravo.wait("the operator is told", |status| status.has_alarm("role_moved"))?;
        let down = "Failed Over with Critical Services Not Running";
        pair.alpha.wait("it says why", |status| status.state() == down)?;
        Ok(())
    })
}

#[test]
fn spec_b4_a_database_that_fails_its_check_is_a_database_failure() -> Result<()> {
    let service = "[[service]]\nname = \"app\"\ndriver = \"exec\"\nstart = [\"sleep\", \"100000\"]\n\
        [[service.check]]\nkind = \"sqlite\"\npath = \"HOME/probed.db\"\ninterval_seconds = 0.2\n\
        failures = 2\n[[service.check]]\nkind = \"exec\"\ncommand = [\"sleep\", \"100000\"]\n\
        timeout_seconds = 0.2\nfailures = 1000\n";
    ready_pair(settings(service), |pair| {
        // Nobody made the file on either server: the role moves once, and no further.
        let reason = |status: &ipicsha_e2e::Status| status.reason() == "Database Failure";
        pair.bravo.wait("it takes over, or shows why not", reason)?;
        let check = |server: &Server| server.status().map(|status| status.role().to_owned());
        let roles = [check(&pair.alpha)?, check(&pair.bravo)?];
        ensure!(roles == ["standby", "active"], "{roles:?}");
        for side in [&pair.alpha, &pair.bravo] {
            side.write("probed.db", "")?; // an empty file is an empty database
        }
        pair.bravo.wait("it serves", |status| status.state() == "Running in Backup Mode")?;
        Ok(())
    })
}

#[test]
fn spec_d7_f3_stopped_services_stay_stopped_and_are_not_down() -> Result<()> {
    let stubborn = "[[service]]\nname = \"app\"\ndriver = \"exec\"\nstop_timeout_seconds = 0.3\n\
        start = [\"sh\", \"-c\", \"trap '' TERM; while :; do sleep 1; done\"]\n";
    ready_pair(settings(stubborn), |pair| {
        pair.bravo.cli(&["--yes", "service", "stop-all"])?.refused(3, "is standby")?;
        pair.bravo.kill();
        pair.alpha.wait("alone", |status| status.has_alarm("partner_down"))?;
        pair.alpha
            .cli(&["--yes", "service", "stop", "nothing"])?
            .refused(3, "no service is called")?;
        let before = pair.alpha.status()?.service_pids();
        pair.alpha.ask(&["service", "stop-all"])?;
        let ended = || before.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true));
        ensure!(before.len() == 1 && ended(), "TERM is ignored: it is killed, and reaped");
        let status = pair.alpha.status()?;
        ensure!(status.service_pids().is_empty() && status.role() == "active", "{status:?}");
        ensure!(!status.has_alarm("critical_service_down"), "{status:?}");
        let rows = pair.alpha.ask(&["service", "status"])?;
        ensure!(rows[0]["stopped_by_administrator"] == true, "{rows}");
        pair.alpha.ask(&["service", "start-all"])?;
        let pids = || pair.alpha.status().ok().map(|status| status.service_pids());
        let first = wait_for("it runs", SOON, || pids().filter(|pids| pids.len() == 1))?;
        pair.alpha.ask(&["service", "restart", "app"])?;
        ensure!(pids().is_some_and(|now| now.len() == 1 && now != first), "another process");
        Ok(())
    })
}

#[test]
fn a_check_that_hangs_has_failed_at_its_limit_and_leaves_nothing_running() -> Result<()> {
    let service = "[[service]]\nname = \"app\"\ndriver = \"exec\"\nstart = [\"sleep\", \"100000\"]\nrestarts = 1000\n\
        start_timeout_seconds = 0.0\n\
        [[service.check]]\nkind = \"exec\"\ncommand = [\"sh\", \"-c\", \"test ! -e HOME/hang || exec sleep 100123\"]\n\
        interval_seconds = 0.2\ntimeout_seconds = 0.3\nfailures = 2\n";
    ready_pair(settings(service), |pair| {
        pair.alpha.write("hang", "")?;
        pair.bravo.wait("it takes over", |status| status.state() == "Running in Backup Mode")?;
        wait_for("no check is left behind", SOON, || {
            let running = pair.network.pids(Side::Alpha).into_iter().any(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains("100123")
            });
            (!running).then_some(())
        })
    })
}

#[test]
fn a_standby_without_the_program_of_a_service_is_not_ready() -> Result<()> {
    let service = |program: &str| {
        format!(
            "[[service]]\nname = \"app\"\ndriver = \"exec\"\nstart = [\"{program}\", \"100000\"]\n"
        )
    };
    let settings = Settings::fast()
        .service(Side::Alpha, &service("sleep"))
        .service(Side::Bravo, &service("HOME/not-installed"));
    ipicsha_e2e::fresh_pair(settings, |pair| {
        pair.start()?;
        pair.license()?;
        pair.trust()?;
        pair.protect()?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        let services = |status: &ipicsha_e2e::Status| status.standby_status().contains("service");
        let status = pair.alpha.wait("the standby is not ready, and why", services)?;
        ensure!(status.role() == "active", "{status:?}");
        pair.alpha.cli(&["--yes", "failover"])?.refused(3, "not ready")
    })
}
