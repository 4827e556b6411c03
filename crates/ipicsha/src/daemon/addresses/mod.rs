//! Addresses that the active server has and the standby has not.
//!
//! Decides how they are taken, kept and given up; whether this server may have them is decided by its role.
//! Each is given to the interface for D only and renewed while this daemon says so: one that is frozen
//! loses it by itself. Who else has one keeps it: then it is an alarm, and tried again.

mod frames;

use std::{
    fmt::Write as _,
    io::Read as _,
    net::IpAddr,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::frames::Network;
use crate::config::AddressFile;

/// The kernel counts seconds, and a busy machine is late now and then.
const LIFETIME_LEAST: Duration = Duration::from_secs(3);
/// How long an answer of whoever has the address may take.
const PROBE: Duration = Duration::from_millis(100);
/// What somebody else has taken from the interface is given back within this.
const RENEWED: Duration = Duration::from_secs(5);
/// How long the program `ip` may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Everybody on the network is told again this often.
const ANNOUNCED: Duration = Duration::from_secs(60);

/// May this server have the addresses?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// It is active.
    Serves,
    /// It has just started and does not know yet: what it had before runs out by itself.
    Undecided,
    /// The same, but it was the active one: what is still here stays.
    WasActive,
    /// It is active, and so is the partner, which is to be found: it has them until one of both goes.
    Second,
    /// It is standby.
    No,
    /// HA is not configured: nothing of this machine is touched, and who served goes on.
    Unconfigured,
}

/// An address as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressRow {
    pub(crate) address: String,
    pub(crate) interface: String,
    /// This server has it.
    pub(crate) here: bool,
    /// Why it has not, although it should.
    pub(crate) trouble: Option<String>,
}

enum Order {
    Take(Duration, oneshot::Sender<()>),
    GiveUp(oneshot::Sender<()>),
    Keep(Right, Duration),
    Announce,
}

/// The addresses of this server; cheap to clone.
#[derive(Clone)]
pub(crate) struct Addresses {
    /// `None`: there are none.
    orders: Option<Sender<Order>>,
    rows: Arc<Mutex<Vec<AddressRow>>>,
}

impl Addresses {
    pub(crate) fn start(files: &[AddressFile]) -> std::io::Result<Self> {
        let held: Vec<Held> = files.iter().cloned().map(Held::new).collect();
        let rows = Arc::new(Mutex::new(held.iter().map(Held::row).collect()));
        if held.is_empty() {
            return Ok(Self { orders: None, rows });
        }
        let (orders, received) = channel();
        let keeper = Keeper { held, wanted: false, second: false, rows: Arc::clone(&rows) };
        thread::Builder::new().name("addresses".into()).spawn(move || keeper.run(&received))?;
        Ok(Self { orders: Some(orders), rows })
    }

    /// Takes all of them; returns once that was tried.
    pub(crate) async fn take(&self, lifetime: Duration) {
        self.ask(|done| Order::Take(lifetime, done)).await;
    }

    /// Gives all of them up; returns once nobody reaches this server by them.
    pub(crate) async fn give_up(&self) {
        self.ask(Order::GiveUp).await;
    }

    async fn ask(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let Some(orders) = &self.orders else { return };
        let (done, answered) = oneshot::channel();
        if orders.send(order(done)).is_ok() {
            let _ = answered.await; // the daemon ends
        }
    }

    /// To be called every second: renews what this server may have, and gives up what it may not.
    pub(crate) fn keep(&self, right: Right, lifetime: Duration) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order::Keep(right, lifetime)); // the daemon ends
        }
    }

    /// Tells the network again who has them, if this server does.
    pub(crate) fn announce(&self) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order::Announce); // the daemon ends
        }
    }

    pub(crate) fn rows(&self) -> Vec<AddressRow> {
        lock(&self.rows).clone()
    }
}

fn lock(rows: &Mutex<Vec<AddressRow>>) -> MutexGuard<'_, Vec<AddressRow>> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One address.
struct Held {
    file: AddressFile,
    /// When it was given to the interface last, and for how long; `None`: it was not, by this daemon.
    renewed: Option<(Instant, Duration)>,
    /// When what an earlier daemon has left was kept last.
    kept: Option<Instant>,
    announced: Option<Instant>,
    /// A daemon before this one may have left it.
    unknown: bool,
    trouble: Option<String>,
}

impl Held {
    fn new(file: AddressFile) -> Self {
        Self { file, renewed: None, kept: None, announced: None, unknown: true, trouble: None }
    }

    fn row(&self) -> AddressRow {
        AddressRow {
            address: self.file.address.to_string(),
            interface: self.file.interface.clone(),
            here: self.renewed.is_some(),
            trouble: self.trouble.clone(),
        }
    }

    /// Takes or renews it.
    fn hold(&mut self, lifetime: Duration) {
        let lifetime = lifetime.max(LIFETIME_LEAST);
        // D can have been changed: the kernel knows the one before.
        let due = self.renewed.is_none_or(|(renewed, granted)| {
            renewed.elapsed() >= (granted.min(lifetime) / 4).min(RENEWED)
        });
        let result = if due { self.renew(lifetime) } else { Ok(()) };
        let result = result.and_then(|()| self.announce());
        let trouble = result.err();
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => {
                    tracing::warn!(address = %self.file.address, trouble, "the address is not here")
                }
                None => tracing::info!(address = %self.file.address, "the address is here"),
            }
        }
        self.trouble = trouble;
    }

    fn renew(&mut self, lifetime: Duration) -> Result<(), String> {
        let AddressFile { address, interface } = &self.file;
        // What ran out meanwhile may be somebody else's by now.
        let lost = self.renewed.is_none_or(|(renewed, granted)| renewed.elapsed() >= granted);
        if lost {
            self.renewed = None;
            let network = open(interface, address.ip)?;
            let owner = network
                .probe(address.ip, PROBE)
                .map_err(|error| format!("{interface}: {error}"))?;
            if let Some(mac) = owner {
                let mac = mac.iter().fold(String::new(), |mut text, byte| {
                    let colon = if text.is_empty() { "" } else { ":" };
                    let _ = write!(text, "{colon}{byte:02x}");
                    text
                });
                return Err(format!("{mac} has it on the network of {interface}"));
            }
        }
        self.give("replace", lifetime)?;
        if lost {
            self.announced = None;
        }
        (self.renewed, self.unknown) = (Some((Instant::now(), lifetime)), false);
        Ok(())
    }

    fn give(&self, verb: &str, lifetime: Duration) -> Result<(), String> {
        let AddressFile { address, interface } = &self.file;
        let seconds = lifetime.as_secs_f64().ceil().to_string();
        let text = address.to_string();
        let mut words = vec!["address", verb, &text, "dev", interface, "valid_lft", &seconds];
        if address.ip.is_ipv6() {
            words.extend(["preferred_lft", "0", "nodad"]);
        } else {
            words.extend(["preferred_lft", &seconds]);
        }
        ip(&words)
    }

    /// Keeps what is here from before this start, and takes nothing that is not.
    fn keep_if_here(&mut self, lifetime: Duration) {
        let lifetime = lifetime.max(LIFETIME_LEAST);
        if self.kept.is_none_or(|kept| kept.elapsed() >= (lifetime / 4).min(RENEWED)) {
            self.kept = Some(Instant::now());
            // It is not here: it has run out, or never was.
            let _ = self.give("change", lifetime);
        }
    }

    fn announce(&mut self) -> Result<(), String> {
        if self.announced.is_none_or(|at| at.elapsed() >= ANNOUNCED) {
            let AddressFile { address, interface } = &self.file;
            let announced = open(interface, address.ip)?.announce(address.ip);
            announced.map_err(|error| format!("{interface}: {error}"))?;
            self.announced = Some(Instant::now());
        }
        Ok(())
    }

    fn give_up(&mut self) {
        if self.renewed.take().is_some() || self.unknown {
            let text = self.file.address.to_string();
            // It may have run out, or never have been here.
            let _ = ip(&["address", "delete", &text, "dev", &self.file.interface]);
            tracing::info!(address = text, "the address is not here any more");
        }
        (self.announced, self.kept, self.unknown, self.trouble) = (None, None, false, None);
    }
}

fn open(interface: &str, ip: IpAddr) -> Result<Network, String> {
    Network::open(interface, ip).map_err(|error| format!("{interface}: {error}"))
}

/// The program of the system that knows all kinds of interfaces.
fn ip(words: &[&str]) -> Result<(), String> {
    let failed = |why: &str| format!("`ip {}`: {why}", words.join(" "));
    let mut command = Command::new("ip");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&error.to_string()))?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| failed(&error.to_string()))? {
            Some(status) => break status,
            None if begin.elapsed() >= PATIENCE => {
                // One that hangs in the kernel is left to it.
                let _ = child.kill();
                return Err(failed("it takes too long"));
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut errors) = child.stderr.take() {
        let _ = errors.read_to_string(&mut said); // what it said is only shown
    }
    Err(failed(said.trim()))
}

/// What the thread has.
struct Keeper {
    held: Vec<Held>,
    wanted: bool,
    /// The partner has them, although this server is active: nothing is taken until that is over.
    second: bool,
    rows: Arc<Mutex<Vec<AddressRow>>>,
}

impl Keeper {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(mut order) = orders.recv() {
            // Who was slow looks at the newest right only.
            while matches!(order, Order::Keep(..))
                && let Ok(newer) = orders.try_recv()
            {
                order = newer;
            }
            let done = self.carry_out(order);
            *lock(&self.rows) = self.held.iter().map(Held::row).collect();
            if let Some(done) = done {
                let _ = done.send(()); // nobody waits any more
            }
        }
    }

    fn carry_out(&mut self, order: Order) -> Option<oneshot::Sender<()>> {
        match order {
            Order::Take(_, done) if self.second => {
                self.wanted = true;
                Some(done)
            }
            Order::Take(lifetime, done) => {
                self.wanted = true;
                self.held.iter_mut().for_each(|held| held.hold(lifetime));
                Some(done)
            }
            Order::GiveUp(done) => {
                (self.wanted, self.second) = (false, false);
                self.held.iter_mut().for_each(Held::give_up);
                Some(done)
            }
            Order::Keep(Right::Unconfigured, _) if self.second => None,
            Order::Keep(Right::Serves | Right::Unconfigured, lifetime) if self.wanted => {
                self.second = false;
                self.held.iter_mut().for_each(|held| held.hold(lifetime));
                None
            }
            Order::Keep(Right::WasActive, lifetime) => {
                self.held.iter_mut().for_each(|held| held.keep_if_here(lifetime));
                None
            }
            // It is told with the next order to keep them.
            Order::Announce => {
                self.held.iter_mut().for_each(|held| held.announced = None);
                None
            }
            Order::Keep(Right::Serves | Right::Undecided | Right::Unconfigured, _) => None,
            Order::Keep(Right::Second, _) => {
                self.second = true;
                self.held.iter_mut().for_each(Held::give_up);
                None
            }
            Order::Keep(Right::No, _) => {
                (self.wanted, self.second) = (false, false);
                self.held.iter_mut().for_each(Held::give_up);
                None
            }
        }
    }
}
