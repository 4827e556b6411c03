//! A real application that nobody here wrote runs under the pair: Isso, a comment server.

use anyhow::{Result, ensure};
use ipicsha_e2e::{
    Pair, Settings, Side, fresh_pair,
    isso::{self, DATABASE, Isso},
};

/// The comments that can be read at a server, in order.
fn expect(isso: &Isso, pair: &Pair, at: Side, comments: &[&str]) -> Result<()> {
    let server = pair.server(at);
    isso.wait(server)?;
    let shown = isso.comments(server)?;
    ensure!(shown == comments, "{} shows {shown:?} instead of {comments:?}", at.name());
    Ok(())
}

#[test]
fn isso_comments_survive_a_planned_failover_and_kill_9() -> Result<()> {
    let service = isso::service()?;
    let settings = Settings::fast()
        .databases(&[DATABASE])
        .service(Side::Alpha, &service)
        .service(Side::Bravo, &service);
    fresh_pair(settings, |pair| {
        let port = pair.network.application_port()?;
        let on_alpha = Isso::configure(&pair.alpha, &pair.network, port)?;
        let on_bravo = Isso::configure(&pair.bravo, &pair.network, port)?;
        on_alpha.first_start(&pair.alpha)?;
        pair.make_ready()?;

        on_alpha.wait(&pair.alpha)?;
        ensure!(on_bravo.comments(&pair.bravo).is_err(), "the standby runs the service");
        on_alpha.post(&pair.alpha, "alpha comments first")?;
        pair.alpha.ask(&["failover"])?;
        pair.wait_roles(Side::Bravo)?;
        expect(&on_bravo, pair, Side::Bravo, &["alpha comments first"])?;
        ensure!(on_alpha.comments(&pair.alpha).is_err(), "the service still runs on alpha");

        on_bravo.post(&pair.bravo, "bravo comments next")?;
        // What a crash may take with it is only what is not there yet: wait for the other server.
        pair.wait_equal()?;
        pair.bravo.kill_everything()?;
        pair.alpha.wait("it is active", |status| status.role() == "active")?;
        expect(&on_alpha, pair, Side::Alpha, &["alpha comments first", "bravo comments next"])?;

        on_alpha.post(&pair.alpha, "comments after the crash")?;
        pair.bravo.start()?;
        pair.wait_roles(Side::Alpha)?;
        pair.wait_equal()
    })
}
