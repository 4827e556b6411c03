//! Services that are units of systemd. No systemd runs in the test hosts, so a `systemctl` that
//! writes down what it is asked stands in for it; what is proven is who is asked for what, and when.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Result, ensure};
use ipicsha_e2e::{Launch, Server, Settings, Side, binary, fresh_pair, wait::SOON, wait_for};

const SERVICE: &str =
    "\n[[service]]\nname = \"board\"\ndriver = \"systemd\"\nunit = \"board.service\"\n";

/// A daemon that finds the stand-in first; `systemctl start` fails while a file `broken` is there, with a
/// file `missing` there is no such unit, and with `deaf` the unit ends only when it is killed.
fn launch(server: &mut Server) -> Result<()> {
    let home = server.home.display().to_string();
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {home}/asked\n[ \"$1\" != show ] || [ ! -e {home}/missing ] || echo not-found\n\
         [ \"$1\" != kill ] || rm {home}/deaf\n\
         while [ \"$1\" = stop ] && [ -e {home}/deaf ]; do sleep 0.1; done\n\
         [ \"$1\" != start ] || [ ! -e {home}/broken ]\n"
    );
    let daemon =
        format!("#!/bin/sh\nPATH={home}:$PATH exec {} \"$@\"\n", binary::ipicsha()?.display());
    for (name, text) in [("systemctl", script), ("with-systemctl", daemon)] {
        let path = server.write(name, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let program = Some(server.home.join("with-systemctl"));
    server.launch(&Launch { program, ..Launch::default() })
}

fn last_asked(server: &Server, wanted: &str) -> Result<()> {
    wait_for(&format!("{} asks for {wanted}", server.side.name()), SOON, || {
        let asked = fs::read_to_string(server.home.join("asked")).ok()?;
        let is_order = |line: &&str| !line.starts_with("is-active") && !line.starts_with("show");
        let mut orders = asked.lines().filter(is_order);
        (orders.next_back() == Some(wanted)).then_some(())
    })
}

#[test]
fn a_unit_runs_where_its_server_is_active_and_is_tried_again_when_it_does_not_start() -> Result<()>
{
    let settings = Settings::fast()
        .service(Side::Alpha, SERVICE)
        .service(Side::Bravo, SERVICE)
        .expects_error("the service does not start");
    fresh_pair(settings, |pair| {
        for side in Side::BOTH {
            launch(pair.server_mut(side))?;
        }
        pair.license()?;
        pair.trust()?;
        pair.protect()?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        pair.wait_ready()?;
        last_asked(&pair.alpha, "start -- board.service")?;
        last_asked(&pair.bravo, "stop -- board.service")?;

        let broken = pair.bravo.write("broken", "")?;
        pair.alpha.cli(&["--yes", "failover"])?.refused(1, "bravo is active, but could not")?;
        last_asked(&pair.alpha, "stop -- board.service")?;
        let failed = |status: &ipicsha_e2e::Status| status.has_alarm("role_change_failed");
        pair.bravo.wait("the alarm", failed)?;
        ensure!(pair.bravo.status()?.state() == "Running in Failed Mode", "it says so");
        fs::remove_file(broken)?;
        pair.bravo.wait("it is tried again by itself", |status| !failed(status))?;
        last_asked(&pair.bravo, "start -- board.service")?;
        pair.wait_roles(Side::Bravo)
    })
}

#[test]
fn a_unit_that_does_not_stop_is_killed() -> Result<()> {
    let service = format!("{SERVICE}start_timeout_seconds = 0.5\n");
    let settings = Settings::fast().service(Side::Alpha, &service).service(Side::Bravo, &service);
    fresh_pair(settings, |pair| {
        for side in Side::BOTH {
            launch(pair.server_mut(side))?;
        }
        pair.make_ready_from_started()?;
        last_asked(&pair.alpha, "start -- board.service")?;
        pair.alpha.write("deaf", "")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        wait_for("it is killed", SOON, || {
            let asked = fs::read_to_string(pair.alpha.home.join("asked")).ok()?;
            asked.contains("kill --signal=SIGKILL -- board.service").then_some(())
        })?;
        last_asked(&pair.alpha, "stop -- board.service")?;
        ensure!(pair.alpha.log().contains("the unit is killed"), "its log says so");
        ensure!(!pair.alpha.status()?.has_alarm("role_change_failed"), "nothing has failed");
        Ok(())
    })
}

#[test]
fn a_standby_without_the_unit_of_a_service_is_not_ready() -> Result<()> {
    let settings = Settings::fast().service(Side::Alpha, SERVICE).service(Side::Bravo, SERVICE);
    fresh_pair(settings, |pair| {
        for side in Side::BOTH {
            launch(pair.server_mut(side))?;
        }
        pair.bravo.write("missing", "")?;
        pair.license()?;
        pair.trust()?;
        pair.protect()?;
        pair.wait_contact()?;
        pair.alpha.ask(&["configure"])?;
        let missing = "its unit board.service is missing";
        pair.bravo.wait("it says why", |status| format!("{status:?}").contains(missing))?;
        let services = |status: &ipicsha_e2e::Status| status.standby_status().contains("service");
        pair.alpha.wait("the standby is not ready", services)?;
        pair.alpha.cli(&["--yes", "failover"])?.refused(3, "not ready")
    })
}
