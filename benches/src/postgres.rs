//! Two private PostgreSQL clusters, the second subscribed to the first by logical replication.

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::{
    clock::{self, Cost, poll},
    daemons::Latency,
    pg_client::Client,
    workload::{Change, Changes, Record, SCHEMA, first_id},
};

/// Where Debian puts it.
const BIN: &str = "/usr/lib/postgresql/15/bin";
const PREFIX: &str = "ipicsha-bench-pg-";
const LIMIT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(5);

/// Both clusters; gone when dropped.
pub(crate) struct Postgres {
    publisher: Cluster,
    subscriber: Cluster,
}

struct Cluster {
    process: Child,
    _folder: TempDir,
    port: u16,
    client: Client,
}

/// Whether it is installed.
pub(crate) fn is_installed() -> bool {
    Path::new(BIN).join("postgres").exists()
}

impl Postgres {
    /// Starts both with `rows` records each, replicating.
    pub(crate) fn start(rows: u64) -> Result<Self> {
        let (mut publisher, mut subscriber) = (Cluster::start()?, Cluster::start()?);
        for cluster in [&mut publisher, &mut subscriber] {
            cluster.client.query(SCHEMA)?;
            for start in (0..rows).step_by(10_000) {
                let records =
                    (start..rows.min(start + 10_000)).map(|n| Record::new(first_id(n), 0));
                cluster.client.query(&insert(records))?;
            }
            cluster.client.query("VACUUM ANALYZE rec")?;
            cluster.client.query("CHECKPOINT")?;
        }
        publisher.client.query("CREATE PUBLICATION p FOR TABLE rec")?;
        let sql = format!(
            "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={} user=postgres \
             dbname=postgres' PUBLICATION p WITH (copy_data = false)",
            publisher.port
        );
        subscriber.client.query(&sql)?;
        let mut pair = Self { publisher, subscriber };
        let record = Record::new(1, 0);
        pair.publisher.client.query(&insert([record.clone()].into_iter()))?;
        pair.wait_for(record.id)?;
        Ok(pair)
    }

    fn wait_for(&mut self, id: i64) -> Result<()> {
        let subscriber = &mut self.subscriber.client;
        let sql = format!("SELECT 1 FROM rec WHERE id={id}");
        poll("PostgreSQL replicates", LOOK, LIMIT, || Ok(subscriber.one(&sql)? == "1"))
    }

    fn cpu(&self) -> Result<f64> {
        Ok(self.publisher.cpu()? + self.subscriber.cpu()?)
    }

    /// Makes the changes with the subscription disabled, then measures until they are there.
    pub(crate) fn catch_up(&mut self, changes: &Changes) -> Result<Cost> {
        self.subscriber.client.query("ALTER SUBSCRIPTION s DISABLE")?;
        let publisher = &mut self.publisher.client;
        // Until then the subscription's worker may still take changes.
        poll("the subscription ends", LOOK, LIMIT, || {
            Ok(publisher.one("SELECT count(*) FROM pg_replication_slots WHERE active")? == "0")
        })?;
        for transaction in 0..changes.transactions() {
            publisher.query(&transaction_sql(&changes.of(transaction)))?;
        }
        for cluster in [&mut self.publisher, &mut self.subscriber] {
            cluster.client.query("CHECKPOINT")?;
        }
        let (wall, cpu) = (Instant::now(), self.cpu()?);
        self.subscriber.client.query("ALTER SUBSCRIPTION s ENABLE")?;
        self.wait_for(changes.last_insert())?;
        let cost = Cost { wall: wall.elapsed().as_secs_f64(), cpu: self.cpu()? - cpu };
        let sums = "SELECT concat_ws(',', count(*), sum(id), sum(state), sum(ts)) FROM rec";
        let clients = [&mut self.publisher.client, &mut self.subscriber.client];
        let [a, b] = clients.map(|client| client.one(sums));
        ensure!(a? == b?, "the clusters differ");
        Ok(cost)
    }

    /// Whether the subscriber shows a change only once it is on its disk; its default is `off`.
    pub(crate) fn set_durable(&mut self, on: bool) -> Result<()> {
        let value = if on { "on" } else { "off" };
        self.subscriber
            .client
            .query(&format!("ALTER SUBSCRIPTION s SET (synchronous_commit = {value})"))?;
        let record = Record::new(if on { 3 } else { 5 }, 0);
        // The worker starts anew: until it replicates again nothing is timed.
        self.publisher.client.query(&format!("DELETE FROM rec WHERE id={}", record.id))?;
        self.publisher.client.query(&insert([record.clone()].into_iter()))?;
        self.wait_for(record.id)?;
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    /// Single inserts, each watched until it is visible at the subscriber.
    pub(crate) fn latency(&mut self, first: i64, samples: u64) -> Result<Latency> {
        let subscriber = &mut self.subscriber.client;
        self.publisher.client.query(
            "PREPARE put(bigint,text,int,text,bigint) AS INSERT INTO rec VALUES($1,$2,$3,$4,$5)",
        )?;
        subscriber.query("PREPARE look(bigint) AS SELECT 1 FROM rec WHERE id=$1")?;
        let cpu = self.publisher.cpu()? + self.subscriber.cpu()?;
        let (publisher, subscriber) = (&mut self.publisher.client, &mut self.subscriber.client);
        let mut latency = Latency::measure(
            first,
            samples,
            |record| publisher.query(&format!("EXECUTE put{}", values(record))).map(drop),
            |record| Ok(subscriber.one(&format!("EXECUTE look({})", record.id))? == "1"),
        )?;
        for client in [publisher, subscriber] {
            client.query("DEALLOCATE ALL")?;
        }
        latency.cpu = (self.cpu()? - cpu) / samples as f64;
        Ok(latency)
    }
}

impl Cluster {
    fn start() -> Result<Self> {
        sweep();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        if geteuid().is_root() {
            let user = Command::new("id").args(["-u", "postgres"]).output()?.stdout;
            let user: u32 = String::from_utf8(user)?.trim().parse().context("user postgres")?;
            chown(folder.path(), Some(user), None)?;
        }
        let initdb = command("initdb").arg("-D").arg(&data).args(OPTIONS).output()?;
        ensure!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let sockets = folder.path().display();
        let mut settings =
            fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
        std::io::Write::write_all(
            &mut settings,
            format!(
                "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{sockets}'\n\
                 wal_level = logical\nmax_wal_size = 8GB\nshared_buffers = 256MB\n"
            )
            .as_bytes(),
        )?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut start = command("postgres");
        start.arg("-D").arg(&data).args(["-p", &port.to_string()]).current_dir(folder.path());
        start.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = start.spawn()?;
        let client = connect(folder.path(), port)?;
        Ok(Self { process, _folder: folder, port, client })
    }

    /// CPU of the server and all of its processes.
    fn cpu(&self) -> Result<f64> {
        let own = self.process.id();
        let mut sum = clock::process_cpu(own)?;
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        for child in children.split_whitespace() {
            // One that has ended meanwhile counts with its parent.
            sum += child.parse().map_or(Ok(0.0), clock::process_cpu).unwrap_or(0.0);
        }
        Ok(sum)
    }
}

/// Removes what a run that was killed has left behind.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path()); // what stays is swept the next time
        }
    }
}

const OPTIONS: [&str; 6] = ["-U", "postgres", "-A", "trust", "-E", "UTF8"];

/// A program of PostgreSQL, never as root, never outliving this process.
fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    if geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "INT", "--"]).arg(PathBuf::from(BIN).join(program));
    command.current_dir("/");
    command
}

fn connect(folder: &Path, port: u16) -> Result<Client> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Client::connect(folder, port) {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(error.context(log));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.process.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT); // fast shutdown; it may have ended
        }
        let _ = self.process.wait();
    }
}

fn values(r: &Record) -> String {
    format!("({},'{}',{},'{}',{})", r.id, r.unit, r.state, r.payload, r.ts)
}

fn insert(records: impl Iterator<Item = Record>) -> String {
    let rows: Vec<String> = records.map(|record| values(&record)).collect();
    format!("INSERT INTO rec VALUES {}", rows.join(","))
}

/// The same changes as in SQLite, in one transaction.
fn transaction_sql(changes: &[Change]) -> String {
    let (mut inserts, mut updates, mut deletes) = (Vec::new(), String::new(), Vec::new());
    for change in changes {
        match change {
            Change::Insert(record) => inserts.push(record.clone()),
            Change::Update(r) => {
                let comma = if updates.is_empty() { "" } else { "," };
                let _ = write!(updates, "{comma}({},{},'{}',{})", r.id, r.state, r.payload, r.ts);
            }
            Change::Delete(id) => deletes.push(id.to_string()),
        }
    }
    format!(
        "BEGIN; {}; UPDATE rec SET state=v.s, payload=v.p, ts=v.t FROM (VALUES {updates}) \
         v(id,s,p,t) WHERE rec.id=v.id; DELETE FROM rec WHERE id IN ({}); COMMIT",
        insert(inserts.into_iter()),
        deletes.join(",")
    )
}
