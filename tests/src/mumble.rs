//! Mumble's server, a voice chat server on SQLite that nobody here wrote: unpacked unmodified from
//! the package of Debian 12, run as a service of the pair, used over its own protocol.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    debian::unpacked,
    net::Network,
    process::{Ran, own_certificate, run},
    server::Server,
    wait::{SOON, wait_for},
};

/// Name of its database in the pair.
pub const DATABASE: &str = "mumble";
/// Password of its own administrator.
const PASSWORD: &str = "loud and clear";
const PACKAGE: &str = "mumble-server";
const CLIENT: &str = include_str!("python/mumble.py");

/// The server's command line without arguments.
fn program() -> Result<Vec<String>> {
    let home = unpacked(PACKAGE, "e2e-mumble", |home| Ok(starts(&command_line(home)?)))?;
    command_line(&home)
}

fn starts(command: &[String]) -> bool {
    let ran = run(Command::new(&command[0]).args(&command[1..]).arg("-version"), SOON);
    ran.is_ok_and(|ran| ran.code == Some(0))
}

fn command_line(home: &Path) -> Result<Vec<String>> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let root = home.join("root");
    let libraries = root.join("usr/lib").join(triplet);
    let text = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path in UTF-8");
    Ok(vec![
        "/usr/bin/env".into(),
        format!("LD_LIBRARY_PATH={}", text(&libraries)?),
        format!("QT_PLUGIN_PATH={}", text(&libraries.join("qt5/plugins"))?),
        text(&root.join("usr/sbin/murmurd"))?,
    ])
}

/// The `[[service]]` block that runs Mumble under the pair.
///
/// # Errors
/// Mumble cannot be fetched.
pub fn service() -> Result<String> {
    let mut start = program()?;
    start.extend(["-fg", "-ini", "HOME/mumble.ini"].map(ToOwned::to_owned));
    Ok(format!(
        "[[service]]\nname = \"mumble\"\ndriver = \"exec\"\ndirectory = \"HOME\"\nstart = {start:?}\n"
    ))
}

/// One Mumble on one server.
#[derive(Clone, Debug)]
pub struct Mumble {
    address: String,
    program: Vec<String>,
}

impl Mumble {
    /// Writes its configuration on `server`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(server: &Server, network: &Network, port: u16) -> Result<Self> {
        let host = network.host(server.side);
        let text = format!(
            "database={}\ndbDriver=QSQLITE\ndbus=\nice=\nlogfile=\npidfile=\nbonjour=false\n\
             host={host}\nport={port}\nusers=20\nmessageburst=500\nmessagelimit=500\n\
             autobanAttempts=0\nautobanTime=0\nallowping=false\n",
            server.database(DATABASE).display()
        );
        server.write("mumble.ini", text)?;
        Ok(Self { address: format!("{host}:{port}"), program: program()? })
    }

    /// Makes the database as on any new machine: sets the password of SuperUser.
    ///
    /// # Errors
    /// Mumble refuses.
    pub fn first_start(&self, server: &Server) -> Result<()> {
        let ran = self.set_password(server, PASSWORD)?;
        ensure!(server.database(DATABASE).exists(), "no database: {ran:?}");
        Ok(())
    }

    /// `murmurd -supw`, Mumble's own way to write its database from outside.
    ///
    /// # Errors
    /// It cannot be run. A refusal is no error here, nor told by the exit code of every release.
    pub fn set_password(&self, server: &Server, password: &str) -> Result<Ran> {
        let mut command = server.command(&self.program[0]);
        command.args(&self.program[1..]).args(["-ini", "mumble.ini", "-supw", password]);
        run(command.current_dir(&server.home), SOON)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&self, server: &Server) -> Result<()> {
        let what = format!("Mumble answers on {}", server.side.name());
        wait_for(&what, SOON, || self.look(server).ok())?;
        Ok(())
    }

    /// As SuperUser: makes a channel of this name with a description, an inner channel, a link, a
    /// group, access rules and a ban, removes another channel that had some of these, and registers a
    /// user of the same name, who comments twice and moves.
    ///
    /// # Errors
    /// A step is refused.
    pub fn furnish(&self, server: &Server, name: &str) -> Result<()> {
        self.client(server, name, &["furnish", name])?.ok().map(|_| ())
    }

    /// What the server shows to its administrator.
    ///
    /// # Errors
    /// It does not answer.
    pub fn look(&self, server: &Server) -> Result<Value> {
        self.client(server, "looking", &["look"])?.json()
    }

    /// What a registered user finds after logging in with the certificate it was registered with.
    ///
    /// # Errors
    /// It does not answer.
    pub fn login(&self, server: &Server, name: &str) -> Result<Value> {
        self.client(server, name, &["login", name])?.json()
    }

    fn client(&self, server: &Server, name: &str, arguments: &[&str]) -> Result<Ran> {
        // The user's own, wherever it logs in from.
        let folder = server.home.parent().context("the folder of the pair")?;
        let pem = folder.join(format!("{name}.pem"));
        if !pem.exists() {
            own_certificate(folder, name)?;
        }
        let mut command = server.command("python3");
        command.args(["-c", CLIENT, &self.address, PASSWORD]).arg(pem).args(arguments);
        run(&mut command, SOON)
    }
}

/// What is expected of a Mumble in which these names were furnished, in this order.
///
/// # Errors
/// Something is missing or too much.
pub fn expect(mumble: &Mumble, server: &Server, names: &[&str]) -> Result<()> {
    mumble.wait(server)?;
    let shown = mumble.look(server)?;
    let here = server.side.name();
    ensure!(shown["users"] == serde_json::json!(names), "{}: {shown}", here);
    let bans: Vec<String> = names.iter().map(|name| format!("banned by {name}")).collect();
    ensure!(shown["bans"] == serde_json::json!(bans), "{}: {shown}", here);
    let channels = shown["channels"].as_object().context("no channels")?;
    ensure!(channels.len() == 1 + 2 * names.len(), "{}: {shown}", here);
    for (index, name) in names.iter().enumerate() {
        let inner = &channels[&format!("{name}/inner room")];
        ensure!(inner["description"] == format!("behind {name}"), "{name}: {shown}");
        ensure!(inner["links"] == serde_json::json!([name]), "{name}: {shown}");
        ensure!(inner["rules"] == 2 && inner["inherits"] == 0, "{name}: {shown}");
        let number = index + 1;
        ensure!(inner["crews"][format!("crew {name}")] == serde_json::json!([number]), "{shown}");
        let found = mumble.login(server, name)?;
        let expected = serde_json::json!({
            "number": number, "comment": format!("words of {name}"), "channel": "inner room",
        });
        ensure!(found == expected, "{name} finds {found} on {}", here);
    }
    Ok(())
}
