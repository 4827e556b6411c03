//! What users notice of every fault, on a real pair with heartbeats of 0.2 s and D = 1 s; the rows are those of
//! the table in README.md.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Launch, Pair, Settings, Side,
    disk::SmallDisk,
    faults::{barriered, suffer},
    fresh_pair,
    net::can_cut,
    note,
    process::signal,
    ready_pair,
    settings::BOARD,
    wait::SOON,
    wait_for,
    writers::Writers,
};
use rustix::process::Signal;

/// The primary serves again and both are equal.
fn as_before(pair: &mut Pair) -> Result<()> {
    if pair.bravo.status()?.role() == "active" {
        pair.bravo.wait("the standby is ready", |status| status.standby_status() == "Ready")?;
        pair.bravo.ask(&["failover"])?;
    }
    pair.wait_roles(Side::Alpha)?;
    pair.wait_ready()
}

/// Both have written: the secondary gives up, and its writes are merged.
fn end_split(pair: &mut Pair) -> Result<()> {
    wait_for("both know of one another", SOON, || {
        let (alpha, bravo) = (pair.alpha.status().ok()?, pair.bravo.status().ok()?);
        let one = [alpha.role(), bravo.role()].contains(&"standby") && bravo.partner_reachable();
        (one || bravo.is_split()).then_some(())
    })?;
    if pair.bravo.status()?.is_split() {
        pair.bravo.ask(&["go-standby"])?;
        pair.wait_roles(Side::Alpha)?;
    }
    as_before(pair)
}

#[test]
fn spec_b5_a_planned_failover() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let noticed = suffer(
            pair,
            "planned failover",
            |pair| pair.alpha.ask(&["failover"]).map(drop),
            as_before,
        )?;
        ensure!(noticed.twice_active == 0, "{noticed:?}");
        Ok(())
    })
}

#[test]
fn the_active_is_stopped_in_order() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let stop = |pair: &mut Pair| pair.alpha.stop_by(Signal::TERM).map(drop);
        let noticed = suffer(pair, "orderly stop of the active", stop, |pair| {
            pair.alpha.start()?;
            as_before(pair)
        })?;
        ensure!(noticed.twice_active == 0, "{noticed:?}");
        Ok(())
    })
}

#[test]
fn spec_b2_the_daemon_of_the_active_is_killed() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let kill = |pair: &mut Pair| {
            pair.alpha.kill();
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            pair.alpha.start()
        };
        suffer(pair, "kill -9 of the active's daemon, started again after D", kill, |pair| {
            end_split(pair)
        })?;
        Ok(())
    })
}

#[test]
fn the_daemon_of_the_active_is_frozen() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let freeze = |pair: &mut Pair| {
            signal(pair.alpha.pid()?, Signal::STOP);
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            signal(pair.alpha.pid()?, Signal::CONT);
            Ok(())
        };
        suffer(pair, "SIGSTOP of the active's daemon until it was replaced", freeze, |pair| {
            end_split(pair)
        })?;
        Ok(())
    })
}

#[test]
fn spec_d1_the_link_is_cut_both_ways() -> Result<()> {
    if !can_cut("the link is cut both ways")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        suffer(
            pair,
            "link cut both ways (policy availability)",
            |pair| pair.network.cut(),
            |pair| {
                pair.network.heal()?;
                end_split(pair)
            },
        )?;
        Ok(())
    })
}

#[test]
fn the_link_is_cut_one_way() -> Result<()> {
    if !can_cut("the link is cut one way")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        suffer(
            pair,
            "link cut from the active only",
            |pair| pair.network.cut_from(Side::Alpha),
            |pair| {
                pair.network.heal()?;
                end_split(pair)
            },
        )?;
        Ok(())
    })
}

#[test]
fn the_link_flaps() -> Result<()> {
    if !can_cut("the link flaps")? {
        return Ok(());
    }
    ready_pair(Settings::fast(), |pair| {
        let flap = |pair: &mut Pair| {
            for _ in 0..10 {
                pair.network.cut()?;
                thread::sleep(Duration::from_millis(300));
                pair.network.heal()?;
                thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        };
        suffer(pair, "link that flaps 10 times, 0.3 s each", flap, end_split)?;
        Ok(())
    })
}

/// A service that is not started again by itself, and moves the role at once when it is down.
fn with_service(check: &str) -> Settings {
    let service = format!(
        "[[service]]\nname = \"app\"\ndriver = \"exec\"\nstart = [\"sleep\", \"100000\"]\nrestarts = 0\n{check}"
    );
    let settings = Settings::fast().pair("critical_service_delay_seconds = 0.0");
    settings.service(Side::Alpha, &service).service(Side::Bravo, &service)
}

/// The services of alpha are well again, and it serves.
fn mended(pair: &mut Pair) -> Result<()> {
    pair.alpha.ask(&["service", "start"])?;
    as_before(pair)
}

#[test]
fn spec_b3_the_service_of_the_active_is_killed() -> Result<()> {
    let settings = with_service("").expects_error("the service is given up");
    ready_pair(settings, |pair| {
        let kill = |pair: &mut Pair| {
            let pids = wait_for("the service runs", SOON, || {
                pair.alpha
                    .status()
                    .ok()
                    .map(|status| status.service_pids())
                    .filter(|p| !p.is_empty())
            })?;
            pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            Ok(())
        };
        let noticed = suffer(pair, "kill -9 of the service (delay 0 s, no restart)", kill, mended)?;
        ensure!(noticed.twice_active == 0, "{noticed:?}");
        Ok(())
    })
}

#[test]
fn spec_d2_the_clock_of_the_active_runs_40_s_ahead() -> Result<()> {
    let apart = |pair: &Pair, apart: bool| {
        pair.bravo.wait("the clocks are judged", |status| status.has_alarm("clocks_apart") == apart)
    };
    ready_pair(Settings::fast(), |pair| {
        let set = |pair: &mut Pair| {
            pair.alpha.stop_by(Signal::USR1)?;
            pair.alpha.launch(&Launch { clock_offset_seconds: Some(40), ..Launch::default() })?;
            apart(pair, true).map(drop)
        };
        let noticed = suffer(pair, "clock of the active 40 s ahead", set, |pair| {
            ensure!(pair.alpha.status()?.role() == "active", "the role moved");
            pair.alpha.stop_by(Signal::USR1)?;
            pair.alpha.start()?;
            apart(pair, false)?;
            as_before(pair)
        })?;
        ensure!(noticed.twice_active == 0 && noticed.taken_over.is_none(), "{noticed:?}");
        Ok(())
    })
}

#[test]
fn spec_b4_the_disk_of_the_active_is_full() -> Result<()> {
    if !can_cut("a full disk")? {
        return Ok(());
    }
    let check = "[[service.check]]\nkind = \"sqlite\"\npath = \"HOME/data/board.sqlite\"\n\
                 interval_seconds = 0.2\nfailures = 2\n";
    let settings = with_service(check);
    fresh_pair(settings, |pair| {
        let data = pair.alpha.home.join("data");
        let _disk = SmallDisk::mount(&data, "16m")?;
        pair.make_ready()?;
        let fill = |pair: &mut Pair| {
            let file = std::fs::File::create(data.join("filler"))?;
            let full = std::io::copy(&mut std::io::repeat(0), &mut &file);
            ensure!(full.is_err(), "the disk is larger than expected");
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            Ok(())
        };
        let noticed = suffer(pair, "disk of the active full (check `sqlite`)", fill, |pair| {
            std::fs::remove_file(pair.alpha.home.join("data/filler"))?;
            mended(pair)
        })?;
        ensure!(noticed.twice_active == 0, "{noticed:?}");
        Ok(())
    })
}

#[test]
fn everything_on_both_servers_is_killed_at_once() -> Result<()> {
    ready_pair(Settings::fast(), |pair| {
        let writers = Writers::start(&pair.alpha, BOARD, "before", 2)?;
        let confirmed = barriered(&pair.alpha)?;
        writers.wait_acked(100)?;
        confirmed.wait_acked(10)?;
        let began = Instant::now();
        for side in Side::BOTH {
            pair.server_mut(side).kill_everything()?;
        }
        let acked = writers.after_kill().acked;
        let confirmed = confirmed.after_kill().acked;
        for side in Side::BOTH {
            pair.server_mut(side).spawn()?;
        }
        wait_for("a write is taken", SOON, || {
            pair.alpha.application(BOARD).ok()?.add_call("after", "all").ok()
        })?;
        let gap = began.elapsed().as_secs_f64();
        pair.wait_roles(Side::Alpha)?;
        pair.wait_ready()?;
        pair.wait_equal()?;
        let board = pair.bravo.application(BOARD)?;
        let lost = acked.iter().filter(|id| !matches!(board.call(id), Ok(Some(_)))).count();
        let ids = confirmed.iter().filter_map(|line| line.split(' ').next());
        let missing = ids.filter(|id| !matches!(board.call(id), Ok(Some(_)))).count();
        let name = "kill -9 of everything on both servers, started again at once";
        let of = confirmed.len();
        note(&format!("| {name} | - | - | {gap:.2} s | {lost} | {missing} of {of} | 0 |"));
        ensure!(lost == 0, "{lost} of {} acknowledged writes are lost", acked.len());
        ensure!(missing == 0, "{missing} of {of} confirmed writes are lost");
        Ok(())
    })
}

#[test]
fn spec_b2_with_heartbeats_of_200_ms_and_3_missed_the_standby_takes_over_within_1_5_s() -> Result<()>
{
    ready_pair(Settings::fast().missed_count(3), |pair| {
        let kill = |pair: &mut Pair| {
            pair.alpha.kill();
            pair.bravo.wait("it takes over", |status| status.role() == "active")?;
            pair.alpha.start()
        };
        suffer(pair, "kill -9 of the active's daemon, 0.2 s x 3", kill, end_split)?;
        Ok(())
    })
}
