//! Radicale, a calendar server with files only that nobody here wrote: installed unmodified from PyPI,
//! run as a service of the pair, used over HTTP as a calendar program does.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};

use crate::{
    net::Network,
    process::{Background, run},
    server::Server,
    settings::Settings,
    tree::Tree,
    venv,
    wait::{SOON, wait_for},
};

/// Name of the watched directory with its calendars.
pub const DIRECTORY: &str = "calendars";
/// What Radicale can make again, and its lock: of one server only.
const OWN: [&str; 3] = [".Radicale.lock", ".Radicale.cache", ".Radicale.tmp-*"];
const REQUEST: &str = include_str!("python/request.py");
const ALL_EVENTS: &str = "<C:calendar-query xmlns:D='DAV:' xmlns:C='urn:ietf:params:xml:ns:caldav'>\
     <D:prop><C:calendar-data/></D:prop>\
     <C:filter><C:comp-filter name='VCALENDAR'/></C:filter></C:calendar-query>";

/// The settings of a pair that runs Radicale and watches its calendars.
///
/// # Errors
/// Radicale cannot be installed.
pub fn settings() -> Result<Settings> {
    let run = venv::program("radicale")?;
    let service = format!(
        "[[service]]\nname = \"radicale\"\ndriver = \"exec\"\ndirectory = \"HOME\"\n\
         start = [{run:?}, \"--config\", \"radicale.cfg\"]\n"
    );
    let filter = OWN.map(|name| format!("- {name}"));
    let settings = Settings::fast().directory(DIRECTORY, &format!("filter = {filter:?}"));
    let both = crate::Side::BOTH.into_iter();
    Ok(both.fold(settings, |settings, side| settings.service(side, &service)))
}

/// One Radicale on one server.
#[derive(Clone, Debug)]
pub struct Radicale {
    url: String,
}

impl Radicale {
    /// Writes its configuration on `server` and makes the directory of its calendars.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn configure(server: &Server, network: &Network, port: u16) -> Result<Self> {
        let at = format!("{}:{port}", network.host(server.side));
        let folder = server.directory(DIRECTORY);
        fs::create_dir_all(&folder)?;
        let rights = "[all]\nuser = .*\ncollection = .*\npermissions = RrWw\n";
        let rights = server.write("radicale-rights.cfg", rights)?;
        let text = format!(
            "[server]\nhosts = {at}\n\n[auth]\ntype = none\n\n\
             [rights]\ntype = from_file\nfile = {}\n\n\
             [storage]\nfilesystem_folder = {}\n\n[web]\ntype = none\n",
            rights.display(),
            folder.display()
        );
        server.write("radicale.cfg", text)?;
        Ok(Self { url: format!("http://{at}") })
    }

    /// Runs Radicale without a pair, until the value is dropped.
    ///
    /// # Errors
    /// It does not answer.
    pub fn run_alone(&self, server: &Server) -> Result<Background> {
        let (_, log) = server.create("radicale-alone.log")?;
        let mut command = server.command(venv::program("radicale")?);
        command.args(["--config", "radicale.cfg"]).current_dir(&server.home);
        let running = Background::spawn(&mut command, log.try_clone()?, log)?;
        self.wait(server)?;
        Ok(running)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&self, server: &Server) -> Result<()> {
        wait_for(&format!("Radicale answers on {}", server.side.name()), SOON, || {
            self.answers(server).then_some(())
        })
    }

    /// Whether it answers at all.
    pub fn answers(&self, server: &Server) -> bool {
        self.request(server, "OPTIONS", "/", "").is_ok()
    }

    /// Makes a calendar.
    ///
    /// # Errors
    /// It is refused.
    pub fn make_calendar(&self, server: &Server, calendar: &str) -> Result<()> {
        self.expect(server, "MKCALENDAR", &format!("/{calendar}/"), "", "201").map(drop)
    }

    /// Writes an event; its summary is its name.
    ///
    /// # Errors
    /// It is refused.
    pub fn put(&self, server: &Server, calendar: &str, event: &str) -> Result<()> {
        let text = format!(
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//e2e//EN\r\nBEGIN:VEVENT\r\nUID:{event}\r\n\
             DTSTAMP:20260101T000000Z\r\nDTSTART:20260101T080000Z\r\nSUMMARY:{event}\r\n\
             END:VEVENT\r\nEND:VCALENDAR\r\n"
        );
        self.expect(server, "PUT", &format!("/{calendar}/{event}.ics"), &text, "201").map(drop)
    }

    /// One event as it was written.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, server: &Server, calendar: &str, event: &str) -> Result<String> {
        self.expect(server, "GET", &format!("/{calendar}/{event}.ics"), "", "200")
    }

    /// Names of all events of a calendar, as a calendar program asks for them.
    ///
    /// # Errors
    /// It does not answer.
    pub fn events(&self, server: &Server, calendar: &str) -> Result<BTreeSet<String>> {
        let answer = self.expect(server, "REPORT", &format!("/{calendar}/"), ALL_EVENTS, "207")?;
        let names = answer.lines().filter_map(|line| line.strip_prefix("SUMMARY:"));
        Ok(names.map(|name| name.trim().to_owned()).collect())
    }

    fn expect(
        &self,
        server: &Server,
        method: &str,
        path: &str,
        body: &str,
        wanted: &str,
    ) -> Result<String> {
        let (status, answer) = self.request(server, method, path, body)?;
        ensure!(status == wanted, "{method} {path}: {status}: {answer}");
        Ok(answer)
    }

    fn request(
        &self,
        server: &Server,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(String, String)> {
        let mut command = server.command("python3");
        command.args(["-c", REQUEST, method, &format!("{}{path}", self.url), body]);
        let text = run(&mut command, SOON)?.ok()?;
        let (status, answer) = text.split_once('\n').context("an answer")?;
        Ok((status.to_owned(), answer.to_owned()))
    }
}

/// The calendars of a server as an eye of its own sees them, without what is of one server only.
///
/// # Errors
/// Something cannot be read.
pub fn calendars(server: &Server) -> Result<Tree> {
    let mut tree = Tree::of(&server.directory(DIRECTORY))?.without_ours();
    let own = |name: &str| OWN.iter().any(|own| name.starts_with(own.trim_end_matches('*')));
    tree.0.retain(|path, _| !path.split('/').any(own));
    Ok(tree)
}
