//! Trac runs under the pair: half of its tables have no PRIMARY KEY, and it comes in rollback-journal
//! mode. Its environment lies on both servers; only the database is replicated.

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, fresh_pair,
    trac::{self, DATABASE, Trac},
};

/// What was written, and in which order.
#[derive(Default)]
struct Written {
    pages: Vec<String>,
    tickets: Vec<String>,
}

impl Written {
    /// Writes on the active server by every way that Trac has.
    fn write(&mut self, trac: &Trac, pair: &Pair, at: Side) -> Result<()> {
        let server = pair.server(at);
        let (number, name) = (self.pages.len() + 1, at.name());
        let page = format!("Duty{number}");
        trac.edit(server, &page, "first thoughts")?;
        trac.edit(server, &page, &format!("{name} has duty {number}"))?;
        let ticket = trac.ticket(server, &format!("ticket {number} from {name}"))?;
        ensure!(ticket == number.to_string(), "ticket {ticket} came instead of {number}");
        trac.comment(server, &ticket, &format!("{name} takes {number}"))?;
        trac.set_name(server, &format!("anna on {name}"))?;
        trac::admin(server, &["milestone", "add", &format!("shift {number}")])?.ok()?;
        // Four come with every new Trac.
        trac::admin(server, &["milestone", "remove", &format!("milestone{number}")])?.ok()?;
        trac::admin(server, &["version", "add", &format!("v{number}")])?.ok()?;
        self.pages.push(format!("{name} has duty {number}"));
        self.tickets.push(format!("ticket {number} from {name}"));
        Ok(())
    }

    /// Everything can be read at a server.
    fn expect(&self, trac: &Trac, pair: &Pair, at: Side) -> Result<()> {
        let server = pair.server(at);
        trac.wait(server)?;
        let shown = trac.get(server, "/wiki")?;
        ensure!(shown.contains("logged in as"), "the login did not survive: {shown}");
        for (index, text) in self.pages.iter().enumerate() {
            let shown = trac.get(server, &format!("/wiki/Duty{}?format=txt", index + 1))?;
            ensure!(shown.trim() == text, "{} shows {shown:?} instead of {text:?}", at.name());
        }
        for (index, summary) in self.tickets.iter().enumerate() {
            let number = index + 1;
            let shown = trac.get(server, &format!("/ticket/{number}?format=tab"))?;
            for expected in [summary.as_str(), "critical", "night shift", "station"] {
                ensure!(shown.contains(expected), "ticket {number}: no {expected:?}: {shown}");
            }
            let comments = trac.get(server, &format!("/ticket/{number}?format=rss"))?;
            ensure!(comments.contains(&format!("takes {number}")), "ticket {number}: {comments}");
            let milestones = trac.get(server, "/roadmap")?;
            ensure!(milestones.contains(&format!("shift {number}")), "{milestones}");
        }
        Ok(())
    }
}

#[test]
fn trac_pages_and_tickets_survive_a_planned_failover_and_kill_9() -> Result<()> {
    let settings = Settings::fast()
        .databases(&[DATABASE])
        .service(Side::Alpha, trac::SERVICE)
        .service(Side::Bravo, trac::SERVICE);
    fresh_pair(settings, |pair| {
        let port = pair.network.application_port()?;
        let on_alpha = Trac::configure(&pair.alpha, &pair.network, port)?;
        let on_bravo = Trac::configure(&pair.bravo, &pair.network, port)?;
        Trac::initialise(&pair.alpha)?;
        Trac::copy_environment(&pair.alpha, &pair.bravo)?;
        ensure!(pair.alpha.application(DATABASE)?.text("PRAGMA journal_mode")? == "delete");
        pair.make_ready()?;
        ensure!(pair.bravo.application(DATABASE)?.text("PRAGMA journal_mode")? == "wal");

        let mut written = Written::default();
        on_alpha.wait(&pair.alpha)?;
        ensure!(on_bravo.get(&pair.bravo, "/about").is_err(), "the standby runs the service");
        on_alpha.login(&pair.alpha)?;
        written.write(&on_alpha, pair, Side::Alpha)?;
        written.expect(&on_alpha, pair, Side::Alpha)?;
        let refused = trac::admin(&pair.bravo, &["milestone", "remove", "shift 1"])?;
        ensure!(refused.stderr.contains("IPICSHA: this server is standby"), "{refused:?}");

        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        written.expect(&on_bravo, pair, Side::Bravo)?;
        ensure!(on_alpha.get(&pair.alpha, "/about").is_err(), "the service still runs on alpha");
        written.write(&on_bravo, pair, Side::Bravo)?;
        written.expect(&on_bravo, pair, Side::Bravo)?;
        // What a crash may take with it is only what is not there yet: wait for the other server.
        pair.wait_equal()?;
        pair.bravo.kill_everything()?;
        pair.alpha.wait("it is active", |status| status.role() == "active")?;
        written.expect(&on_alpha, pair, Side::Alpha)?;
        written.write(&on_alpha, pair, Side::Alpha)?;

        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        written.expect(&on_alpha, pair, Side::Alpha)?;
        pair.wait_equal()?;
        ensure!(pair.alpha.application(DATABASE)?.number(KEYLESS)? >= 11, "another Trac");
        for side in Side::BOTH {
            // Nothing was changed on both servers at once.
            let list = pair.server(side).ask(&["conflicts", "list"])?;
            ensure!(list.as_array().is_some_and(Vec::is_empty), "{}: {list:#}", side.name());
        }
        Ok(())
    })
}

/// Tables of Trac that have no PRIMARY KEY.
const KEYLESS: &str = "SELECT count(*) FROM sqlite_schema s WHERE type = 'table' \
     AND substr(name, 1, 9) <> '_ipicsha_' AND substr(name, 1, 7) <> 'sqlite_' \
     AND NOT EXISTS (SELECT 1 FROM pragma_table_info(s.name) WHERE pk)";
