//! `ipicsha witness`: a third machine that decides for any number of pairs who may be active.
//!
//! Decides nothing itself: [`Lease`] does. Here it is remembered durably, and its configuration is read
//! anew when it changes. Must not know anything of the pairs but their certificates.

mod config;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use ipicsha_core::{
    WitnessAnswer,
    epoch::Epoch,
    id::ServerId,
    time::MonoTime,
    witness::{Grant, Lease},
};
use ipicsha_link::{
    Fingerprint, Identity, WitnessQuestion, WitnessReply, WitnessService, serve_witness,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

pub(crate) use config::DEFAULT_PATH;
use config::WitnessConfig;

use crate::{
    daemon::{monotonic, wall_seconds, write_durably},
    exit::{Failure, Kind},
};

/// Name in the certificate of a witness.
const NAME: &str = "witness";

/// What a witness works with.
struct Book {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    config: WitnessConfig,
    /// When the file was last changed, as far as it was read.
    changed: Option<SystemTime>,
    /// What was granted before this was granted by another process, at the latest then.
    started: MonoTime,
    /// By name of the pair.
    leases: BTreeMap<String, Lease>,
}

impl Book {
    fn open(path: &Path) -> Result<Self, Failure> {
        let changed = modified(path);
        let config = WitnessConfig::load(path)?;
        let inner = Inner { config, changed, started: monotonic(), leases: BTreeMap::new() };
        Ok(Self { path: path.into(), inner: Mutex::new(inner) })
    }

    /// The book, with the configuration as it is on the disk now.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = modified(&self.path);
        if changed.is_some() && changed != inner.changed {
            inner.changed = changed;
            match WitnessConfig::load(&self.path) {
                Ok(config) => {
                    tracing::info!(pairs = config.pairs.len(), "the configuration was read anew");
                    inner.config = config;
                }
                Err(failure) => {
                    tracing::error!(%failure, "the configuration is wrong; the old one stays in force");
                }
            }
        }
        inner
    }

    fn known(&self) -> BTreeSet<Fingerprint> {
        self.lock().config.pairs.iter().flat_map(|pair| pair.certificates).collect()
    }

    fn answer(&self, who: Fingerprint, question: WitnessQuestion) -> WitnessReply {
        let mut inner = self.lock();
        let (WitnessQuestion::Grant { pair: named, .. } | WitnessQuestion::Leave { pair: named }) =
            &question;
        let pair = inner.config.pairs.iter().find(|pair| pair.certificates.contains(&who));
        let Some(pair) = pair.filter(|pair| pair.name == *named) else {
            return WitnessReply::Failed(format!(
                "it knows this server in no pair called {named}: `pair.name` and the witness's configuration must agree"
            ));
        };
        let name = pair.name.clone();
        match question {
            WitnessQuestion::Leave { .. } => match inner.lease(&name) {
                Ok(lease) => {
                    lease.leave(monotonic(), id_of(who));
                    WitnessReply::Noted
                }
                Err(failure) => WitnessReply::Failed(failure.message),
            },
            WitnessQuestion::Grant { epoch, hold, .. } => inner.grant(&name, who, epoch, hold),
        }
    }
}

impl Inner {
    fn lease(&mut self, pair: &str) -> Result<&mut Lease, Failure> {
        if !self.leases.contains_key(pair) {
            let grant = read_grant(&self.config.lease_path(pair))?;
            self.leases.insert(pair.to_owned(), Lease::resume(grant, self.started));
        }
        Ok(self.leases.entry(pair.to_owned()).or_default())
    }

    /// Nobody hears of a grant that is not on the disk.
    fn grant(
        &mut self,
        pair: &str,
        who: Fingerprint,
        epoch: Epoch,
        hold: std::time::Duration,
    ) -> WitnessReply {
        let path = self.config.lease_path(pair);
        let lease = match self.lease(pair) {
            Ok(lease) => lease,
            Err(failure) => return WitnessReply::Failed(failure.message),
        };
        let before = lease.clone();
        match lease.ask(monotonic(), id_of(who), epoch, hold) {
            WitnessAnswer::Granted => {
                let changed = lease.grant() != before.grant();
                if changed && let Err(error) = write_grant(&path, lease.grant()) {
                    *lease = before;
                    tracing::error!(%error, path = %path.display(), "a grant cannot be written");
                    return WitnessReply::Failed(format!("its disk cannot be written: {error}"));
                }
                if changed {
                    tracing::info!(pair, certificate = %who, %epoch, "granted");
                }
                WitnessReply::Granted
            }
            WitnessAnswer::Refused { epoch, left } => WitnessReply::Refused { epoch, left },
            WitnessAnswer::Failed(cause) => WitnessReply::Failed(cause),
        }
    }
}

/// A server is known by its certificate, whatever it says of itself.
fn id_of(certificate: Fingerprint) -> ServerId {
    let mut id = [0; 8];
    id.copy_from_slice(&certificate.as_bytes()[..8]);
    ServerId(u64::from_le_bytes(id))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn read_grant(path: &Path) -> Result<Option<Grant>, Failure> {
    let damaged = |why: String| {
        Failure::new(Kind::Failed, format!("{} of the witness is damaged: {why}", path.display()))
            .hinted("remove it when both servers of the pair are reachable and well")
    };
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
    }
}

fn write_grant(path: &Path, grant: Option<&Grant>) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    write_durably(path, &serde_json::to_vec_pretty(&grant)?)
}

fn identity(config: &WitnessConfig) -> Result<Identity, Failure> {
    Identity::load_or_create(&config.state_directory, NAME, wall_seconds())
        .map_err(|error| Failure::new(Kind::Failed, error.to_string()))
}

/// Runs the witness until it is told to end.
pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    crate::daemon::log_to_stderr();
    let book = Arc::new(Book::open(path)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    runtime.block_on(serve(book))
}

async fn serve(book: Arc<Book>) -> Result<(), Failure> {
    let config = book.lock().config.clone();
    let identity = Arc::new(identity(&config)?);
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::new(Kind::Failed, format!("cannot listen on {}: {error}", config.listen))
            .hinted("correct `listen`, or end what listens there")
    })?;
    let address = listener.local_addr().map_err(anyhow::Error::from)?;
    tracing::info!(%address, certificate = %identity.fingerprint(), pairs = config.pairs.len(), "witness started");
    let (of_known, of_answer) = (Arc::clone(&book), Arc::clone(&book));
    let service = Arc::new(WitnessService {
        identity,
        known: Box::new(move || of_known.known()),
        answer: Box::new(move |who, question| of_answer.answer(who, question)),
    });
    let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager is told");
    }
    tokio::select! {
        () = serve_witness(listener, service) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("witness ended");
    Ok(())
}

/// What `ipicsha witness show` prints.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Shown {
    pub(crate) listen: String,
    pub(crate) certificate: String,
    pub(crate) pairs: Vec<ShownPair>,
}

/// One pair of it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ShownPair {
    pub(crate) name: String,
    /// Certificate of the server that was granted the role last, and the epoch.
    pub(crate) granted: Option<(String, u64)>,
}

/// Certificate and last grants, as they are on the disk; makes the certificate where there is none.
pub(crate) fn show(path: &Path) -> Result<Shown, Failure> {
    let config = WitnessConfig::load(path)?;
    let identity = identity(&config)?;
    let pairs = config.pairs.iter().map(|pair| {
        let grant = read_grant(&config.lease_path(&pair.name))?;
        let granted = grant.and_then(|grant| {
            let who = pair.certificates.iter().find(|who| id_of(**who) == grant.server)?;
            Some((who.to_string(), grant.epoch.0))
        });
        Ok(ShownPair { name: pair.name.clone(), granted })
    });
    Ok(Shown {
        listen: config.listen.to_string(),
        certificate: identity.fingerprint().to_string(),
        pairs: pairs.collect::<Result<_, Failure>>()?,
    })
}
