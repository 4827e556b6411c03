//! `ipicsha witness`: a third machine that decides for any number of pairs who may be active.
//!
//! Decides which pair a question belongs to; its configuration is read anew when it changes. Must not know
//! anything of the pairs but their certificates.

mod config;
mod grants;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::SystemTime,
};

use ipicsha_core::time::MonoTime;
use ipicsha_link::{
    Asker, Fingerprint, Identity, WitnessQuestion, WitnessReply, WitnessService, serve_witness,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

pub(crate) use config::DEFAULT_PATH;
use config::WitnessConfig;
use grants::{Held, id_of};

use crate::{
    daemon::{monotonic, wall_seconds},
    exit::{Failure, Kind},
};

/// Name in the certificate of a witness.
const NAME: &str = "witness";

/// What a witness works with. A disk that hangs holds up only the pair whose grant is written.
struct Book {
    path: PathBuf,
    config: RwLock<Loaded>,
    /// What was granted before this was granted by another process, at the latest then.
    started: MonoTime,
    /// By name of the pair.
    leases: Mutex<BTreeMap<String, Arc<Mutex<Option<Held>>>>>,
}

struct Loaded {
    config: WitnessConfig,
    /// When the file was last changed, as far as it was read.
    changed: Option<SystemTime>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn open(path: &Path) -> Result<Self, Failure> {
        let changed = modified(path);
        let config = WitnessConfig::load(path)?;
        let loaded = RwLock::new(Loaded { config, changed });
        let leases = Mutex::default();
        Ok(Self { path: path.into(), config: loaded, started: monotonic(), leases })
    }

    /// The configuration as it is on the disk now.
    fn config(&self) -> WitnessConfig {
        let changed = modified(&self.path);
        let loaded = self.config.read().unwrap_or_else(PoisonError::into_inner);
        if changed.is_none() || changed == loaded.changed {
            return loaded.config.clone();
        }
        drop(loaded);
        let mut loaded = self.config.write().unwrap_or_else(PoisonError::into_inner);
        loaded.changed = changed;
        match WitnessConfig::load(&self.path) {
            Ok(config) => {
                tracing::info!(pairs = config.pairs.len(), "the configuration was read anew");
                loaded.config = config;
            }
            Err(failure) => {
                tracing::error!(%failure, "the configuration is wrong; the old one stays in force");
            }
        }
        loaded.config.clone()
    }

    fn known(&self) -> BTreeSet<Fingerprint> {
        self.config().pairs.iter().flat_map(|pair| pair.certificates.clone()).collect()
    }

    fn answer(&self, who: Asker, question: WitnessQuestion) -> WitnessReply {
        let config = self.config();
        let (WitnessQuestion::Grant { pair: named, .. }
        | WitnessQuestion::Ping { pair: named }
        | WitnessQuestion::Leave { pair: named }) = &question;
        let pair = config.pairs.iter().find(|pair| pair.certificates.contains(&who.certificate));
        let Some(pair) = pair.filter(|pair| pair.name == *named) else {
            return WitnessReply::Failed(format!(
                "it knows this server in no pair called {named}: `pair.name` and the witness's configuration must agree"
            ));
        };
        let held = Arc::clone(locked(&self.leases).entry(pair.name.clone()).or_default());
        let mut held = locked(&held);
        if held.is_none() {
            match Held::read(config.lease_path(&pair.name), self.started) {
                Ok(read) => *held = Some(read),
                Err(failure) => return WitnessReply::Failed(failure.message),
            }
        }
        let Some(held) = held.as_mut() else { return WitnessReply::Noted };
        held.answer(who, &pair.certificates, question)
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
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
    let config = book.config();
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
    /// Who was granted the role last.
    pub(crate) granted: Option<ShownGrant>,
}

/// The last grant to it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ShownGrant {
    /// Of the server.
    pub(crate) certificate: String,
    pub(crate) epoch: u64,
    /// Without end: HA ended there while the other server could not be reached.
    pub(crate) kept: bool,
}

/// Certificate and last grants, as they are on the disk; makes the certificate where there is none.
pub(crate) fn show(path: &Path) -> Result<Shown, Failure> {
    let config = WitnessConfig::load(path)?;
    let identity = identity(&config)?;
    let pairs = config.pairs.iter().map(|pair| {
        let grant = grants::read(&config.lease_path(&pair.name))?;
        let granted = grant.map(|grant| {
            let who = pair.certificates.iter().find(|who| id_of(**who) == grant.server);
            let who = who.map_or_else(
                || "a certificate that is not in the file".into(),
                ToString::to_string,
            );
            ShownGrant { certificate: who, epoch: grant.epoch.0, kept: grant.kept }
        });
        Ok(ShownPair { name: pair.name.clone(), granted })
    });
    Ok(Shown {
        listen: config.listen.to_string(),
        certificate: identity.fingerprint().to_string(),
        pairs: pairs.collect::<Result<_, Failure>>()?,
    })
}
