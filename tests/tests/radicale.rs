//! A real application with files only, which nobody here wrote, runs under the pair: Radicale.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, fresh_pair,
    radicale::{self, Radicale, calendars},
    wait::SOON,
    wait_for,
};

const CALENDAR: &str = "duty";

fn names(prefix: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// The server shows exactly these events, and each of them can be read.
fn expect(radicale: &Radicale, pair: &Pair, at: Side, events: &BTreeSet<String>) -> Result<()> {
    let server = pair.server(at);
    radicale.wait(server)?;
    let shown = radicale.events(server, CALENDAR)?;
    ensure!(shown == *events, "{} shows {shown:?} instead of {events:?}", at.name());
    for event in events {
        let text = radicale.get(server, CALENDAR, event)?;
        ensure!(text.contains(&format!("UID:{event}")), "{event} is {text}");
    }
    Ok(())
}

fn wait_same(pair: &Pair) -> Result<()> {
    let mut last = Vec::new();
    let differences = || -> Result<Vec<String>> {
        Ok(calendars(&pair.alpha)?.differences(&calendars(&pair.bravo)?))
    };
    let same = wait_for("the calendars are the same on both", SOON, || {
        last = differences().unwrap_or_else(|error| vec![format!("{error:#}")]);
        last.is_empty().then_some(())
    });
    same.with_context(|| format!("{last:#?}"))
}

#[test]
fn radicale_alone_keeps_what_is_written_to_it() -> Result<()> {
    fresh_pair(Settings::fast(), |pair| {
        let port = pair.network.application_port()?;
        let radicale = Radicale::configure(&pair.alpha, &pair.network, port)?;
        let _running = radicale.run_alone(&pair.alpha)?;
        radicale.make_calendar(&pair.alpha, CALENDAR)?;
        let events = names("alone", 3);
        for event in &events {
            radicale.put(&pair.alpha, CALENDAR, event)?;
        }
        expect(&radicale, pair, Side::Alpha, &events)?;
        let files = calendars(&pair.alpha)?;
        let kept =
            |event: &String| files.0.keys().any(|path| path.ends_with(&format!("{event}.ics")));
        ensure!(events.iter().all(kept), "{files:?}");
        Ok(())
    })
}

#[test]
fn calendars_written_at_the_active_are_served_by_the_other_server_after_failover() -> Result<()> {
    fresh_pair(radicale::settings()?, |pair| {
        let port = pair.network.application_port()?;
        let on_alpha = Radicale::configure(&pair.alpha, &pair.network, port)?;
        let on_bravo = Radicale::configure(&pair.bravo, &pair.network, port)?;
        pair.make_ready()?;

        on_alpha.wait(&pair.alpha)?;
        ensure!(!on_bravo.answers(&pair.bravo), "the standby runs the service");
        on_alpha.make_calendar(&pair.alpha, CALENDAR)?;
        let mut events = names("alpha", 20);
        for event in &events {
            on_alpha.put(&pair.alpha, CALENDAR, event)?;
        }
        // Not waited for: a planned failover waits for the files itself.
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        expect(&on_bravo, pair, Side::Bravo, &events)?;
        ensure!(!on_alpha.answers(&pair.alpha), "the service still runs on alpha");

        for event in names("bravo", 10) {
            on_bravo.put(&pair.bravo, CALENDAR, &event)?;
            events.insert(event);
        }
        pair.bravo.ask(&["failover"])?;
        pair.wait_roles(Side::Alpha)?;
        expect(&on_alpha, pair, Side::Alpha, &events)?;
        wait_same(pair)?;

        // What a crash may take with it is only what is not there yet.
        pair.alpha.kill_everything()?;
        pair.bravo.wait("it is active", |status| status.role() == "active")?;
        expect(&on_bravo, pair, Side::Bravo, &events)?;
        on_bravo.put(&pair.bravo, CALENDAR, "after-the-crash")?;
        events.insert("after-the-crash".into());
        pair.alpha.start()?;
        pair.wait_roles(Side::Bravo)?;
        wait_same(pair)?;
        expect(&on_bravo, pair, Side::Bravo, &events)
    })
}
