//! Mumble's server runs under the pair: most of its tables have no PRIMARY KEY, it brings its own
//! triggers, writes with REPLACE, and comes in rollback-journal mode.

use anyhow::{Context, Result, ensure};
use ipicsha_e2e::{
    Pair, Server, Settings, Side, fresh_pair,
    mumble::{self, DATABASE, Mumble},
};

/// One number that a query of the database gives.
fn count(server: &Server, sql: &str) -> Result<i64> {
    let application = server.application(DATABASE)?;
    application.number(sql).with_context(|| format!("{}: {sql}", server.side.name()))
}

/// The tables of Mumble are what makes this a test: without PRIMARY KEY, with triggers, all in use.
fn the_database_is_as_awkward_as_thought(pair: &Pair) -> Result<()> {
    let tables = "FROM sqlite_schema s WHERE type = 'table' \
         AND name NOT LIKE 'sqlite%' AND name NOT LIKE '\\_ipicsha%' ESCAPE '\\'";
    let keyless = format!(
        "SELECT count(*) {tables} AND NOT EXISTS (SELECT 1 FROM pragma_table_info(s.name) WHERE pk)"
    );
    let triggers = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' \
         AND name NOT LIKE '\\_ipicsha%' ESCAPE '\\'";
    ensure!(count(&pair.alpha, &format!("SELECT count(*) {tables}"))? >= 13);
    ensure!(count(&pair.alpha, &keyless)? >= 10);
    ensure!(count(&pair.alpha, triggers)? >= 16);
    for table in [
        "users",
        "user_info",
        "channels",
        "channel_info",
        "groups",
        "group_members",
        "acl",
        "channel_links",
        "bans",
        "slog",
        "config",
        "servers",
        "meta",
    ] {
        ensure!(count(&pair.alpha, &format!("SELECT count(*) FROM {table}"))? > 0, "{table}");
    }
    Ok(())
}

#[test]
fn mumble_keeps_channels_rules_and_users_over_a_planned_failover_and_kill_9() -> Result<()> {
    let service = mumble::service()?;
    let settings = Settings::fast()
        .databases(&[DATABASE])
        .service(Side::Alpha, &service)
        .service(Side::Bravo, &service);
    fresh_pair(settings, |pair| {
        let port = pair.network.application_port()?;
        let on_alpha = Mumble::configure(&pair.alpha, &pair.network, port)?;
        let on_bravo = Mumble::configure(&pair.bravo, &pair.network, port)?;
        on_alpha.first_start(&pair.alpha)?;
        ensure!(pair.alpha.application(DATABASE)?.text("PRAGMA journal_mode")? == "delete");
        pair.make_ready()?;
        for side in Side::BOTH {
            let mode = pair.server(side).application(DATABASE)?.text("PRAGMA journal_mode")?;
            ensure!(mode == "wal", "{} has journal mode {mode}", side.name());
        }

        on_alpha.wait(&pair.alpha)?;
        ensure!(on_bravo.look(&pair.bravo).is_err(), "the standby runs the service");
        on_alpha.furnish(&pair.alpha, "anna")?;
        mumble::expect(&on_alpha, &pair.alpha, &["anna"])?;
        the_database_is_as_awkward_as_thought(pair)?;
        let certificate = on_alpha.look(&pair.alpha)?["certificate"].clone();
        let refused = on_bravo.set_password(&pair.bravo, "stolen")?;
        ensure!(refused.stderr.contains("IPICSHA: this server is standby"), "{refused:?}");

        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        mumble::expect(&on_bravo, &pair.bravo, &["anna"])?;
        ensure!(on_alpha.look(&pair.alpha).is_err(), "the service still runs on alpha");
        on_bravo.furnish(&pair.bravo, "ben")?;
        mumble::expect(&on_bravo, &pair.bravo, &["anna", "ben"])?;
        // What a crash may take with it is only what is not there yet: wait for the other server.
        pair.wait_equal()?;
        pair.bravo.kill_everything()?;
        pair.alpha.wait("it is active", |status| status.role() == "active")?;
        mumble::expect(&on_alpha, &pair.alpha, &["anna", "ben"])?;
        on_alpha.furnish(&pair.alpha, "cleo")?;

        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        mumble::expect(&on_alpha, &pair.alpha, &["anna", "ben", "cleo"])?;
        ensure!(on_alpha.look(&pair.alpha)?["certificate"] == certificate, "another certificate");
        pair.wait_equal()?;
        only_last_words_lost_against_the_other_servers_log(pair)
    })
}

/// Nothing was changed on both servers at once but Mumble's log: when its daemon is killed it still
/// writes that it stops, and the other server's Mumble, which cannot know, goes on in that place. Rows
/// of the log are known by their rowid only, so one of the two loses, and is kept.
fn only_last_words_lost_against_the_other_servers_log(pair: &Pair) -> Result<()> {
    for side in Side::BOTH {
        let list = pair.server(side).ask(&["conflicts", "list"])?;
        let list = list.as_array().context("no list")?;
        let of_the_log = |entry: &serde_json::Value| {
            entry["table"] == "slog"
                && entry["loser_text"].as_str().is_some_and(|text| text.contains("msg = "))
        };
        ensure!(list.iter().all(of_the_log), "{}: {list:#?}", side.name());
    }
    Ok(())
}
