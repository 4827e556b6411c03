//! How etcd is spoken to: its version 3 interface as JSON over HTTP, which every etcd offers.
//!
//! Decides which of the endpoints is asked, and how long. Must not know what is kept there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::EtcdAt;

/// No answer of ours is near this.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// An endpoint gets at least this, however many there are.
const LEAST: Duration = Duration::from_millis(50);
/// A password is slow to check on purpose; it is done once, and after etcd has forgotten it.
const LOGIN: Duration = Duration::from_secs(1);

/// A key as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// `None`: there is no such key.
    pub(super) value: Option<Vec<u8>>,
    /// Revision of its last change; 0 where there is none.
    pub(super) revision: i64,
    /// The lease it hangs on; 0 where it stays.
    pub(super) lease: i64,
}

/// What a transaction does to a key.
pub(super) enum Change<'a> {
    Put { key: &'a str, value: Vec<u8>, lease: i64 },
    Delete { key: &'a str },
}

/// The way to an etcd cluster; each call waits for an answer.
pub(super) struct Gateway {
    endpoints: Vec<String>,
    agent: ureq::Agent,
    /// The endpoint that answered last.
    good: AtomicUsize,
    login: Option<Login>,
}

/// A user of etcd.
struct Login {
    user: String,
    /// Read at every login: whoever changes the password changes the file, and restarts nothing.
    password_file: PathBuf,
    /// What shows who asks, until etcd forgets it.
    token: Mutex<Option<String>>,
}

/// Why there is no answer that can be used.
struct NoAnswer {
    cause: String,
    /// The token is of no use any more; a new one may be.
    forgotten: bool,
}

impl From<String> for NoAnswer {
    fn from(cause: String) -> Self {
        Self { cause, forgotten: false }
    }
}

impl Gateway {
    /// Reads the files of the configuration.
    pub(super) fn new(at: &EtcdAt) -> Result<Self, String> {
        let roots = match &at.ca {
            Some(path) => RootCerts::new_with_certs(&certificates(path)?),
            None => RootCerts::PlatformVerifier,
        };
        let own = match &at.identity {
            Some((certificate, key)) => {
                let text = read(key)?;
                let key = PrivateKey::from_pem(&text).map_err(|error| named(key, &error))?;
                Some(ClientCert::new_with_certs(&certificates(certificate)?, key))
            }
            None => None,
        };
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .client_cert(own)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        let login = at.user.clone().map(|(user, password_file)| Login {
            user,
            password_file,
            token: Mutex::default(),
        });
        Ok(Self { endpoints: at.endpoints.clone(), agent, good: AtomicUsize::new(0), login })
    }

    /// Both keys at one moment, as the majority knows them.
    pub(super) fn read(&self, keys: [&str; 2], until: Instant) -> Result<[Read; 2], String> {
        let ranges = keys.map(|key| json!({ "request_range": { "key": encoded(key) } }));
        let answer = self.call("kv/txn", &json!({ "success": ranges }), until)?;
        let mut reads = [Read::default(), Read::default()];
        for (read, answer) in
            reads.iter_mut().zip(answer["responses"].as_array().into_iter().flatten())
        {
            if let Some(found) = answer["response_range"]["kvs"].get(0) {
                let value = BASE64_STANDARD.decode(found["value"].as_str().unwrap_or_default());
                *read = Read {
                    value: Some(value.map_err(|error| error.to_string())?),
                    revision: number(&found["mod_revision"]).ok_or("it names no revision")?,
                    lease: number(&found["lease"]).unwrap_or_default(),
                };
            }
        }
        Ok(reads)
    }

    /// A lease that ends by itself after at least `hold`.
    pub(super) fn lease(&self, hold: Duration, until: Instant) -> Result<i64, String> {
        let seconds = hold.as_secs() + u64::from(hold.subsec_nanos() > 0);
        let answer = self.call("lease/grant", &json!({ "TTL": seconds.to_string() }), until)?;
        let granted = number(&answer["TTL"]).and_then(|ttl| u64::try_from(ttl).ok());
        match (number(&answer["ID"]), granted) {
            (Some(id), Some(granted)) if id != 0 && granted >= seconds => Ok(id),
            _ => Err(format!("it grants no lease of {seconds} s: {answer}")),
        }
    }

    /// Makes the changes unless a key has changed since it was read; whether it did.
    pub(super) fn change(
        &self,
        unchanged: [(&str, &Read); 2],
        changes: &[Change<'_>],
        until: Instant,
    ) -> Result<bool, String> {
        let compare = unchanged.map(|(key, read)| {
            json!({
                "key": encoded(key), "target": "MOD", "result": "EQUAL",
                "mod_revision": read.revision.to_string(),
            })
        });
        let success: Vec<Value> = changes
            .iter()
            .map(|change| match change {
                Change::Put { key, value, lease } => json!({ "request_put": {
                    "key": encoded(key), "value": BASE64_STANDARD.encode(value),
                    "lease": lease.to_string(),
                }}),
                Change::Delete { key } => {
                    json!({ "request_delete_range": { "key": encoded(key) } })
                }
            })
            .collect();
        let answer =
            self.call("kv/txn", &json!({ "compare": compare, "success": success }), until)?;
        Ok(answer["succeeded"].as_bool().unwrap_or_default())
    }

    /// The first endpoint that answers, beginning with the one that did last.
    fn call(&self, path: &str, body: &Value, until: Instant) -> Result<Value, String> {
        let (first, count) = (self.good.load(Ordering::Relaxed), self.endpoints.len());
        let mut problem = String::new();
        for tried in 0..count {
            let index = (first + tried) % count;
            let endpoint = &self.endpoints[index];
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let fair = left / u32::try_from(count - tried).unwrap_or(u32::MAX);
            match self.ask(endpoint, path, body, fair.max(LEAST)) {
                Ok(answer) => {
                    self.good.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => problem = format!("etcd at {endpoint}: {error}"),
            }
        }
        // There may have been no time for the others.
        self.good.store((first + 1) % count, Ordering::Relaxed);
        Err(if problem.is_empty() { "etcd did not answer in time".into() } else { problem })
    }

    /// Asks one endpoint; once more with a new token when it does not know the old one any more.
    fn ask(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<Value, String> {
        let until = Instant::now() + limit;
        let url = format!("{endpoint}/v3/{path}");
        let known = self.login.as_ref().and_then(|login| lock(&login.token).clone());
        if self.login.is_none() || known.is_some() {
            match self.post(&url, body, known.as_deref(), limit) {
                Err(problem) if problem.forgotten && known.is_some() => {}
                result => return result.map_err(|problem| problem.cause),
            }
        }
        let left = |least| until.saturating_duration_since(Instant::now()).max(least);
        let token = self.log_in(endpoint, left(LOGIN))?;
        self.post(&url, body, token.as_deref(), left(LEAST)).map_err(|problem| problem.cause)
    }

    fn log_in(&self, endpoint: &str, limit: Duration) -> Result<Option<String>, String> {
        let Some(login) = &self.login else { return Ok(None) };
        let text = fs::read_to_string(&login.password_file);
        let text = text.map_err(|error| named(&login.password_file, &error))?;
        let password = text.trim_end_matches(['\r', '\n']);
        let body = json!({ "name": login.user, "password": password });
        let answer = self
            .post(&format!("{endpoint}/v3/auth/authenticate"), &body, None, limit)
            .map_err(|problem| problem.cause)?;
        let token = answer["token"].as_str().ok_or("it gives no token to its user")?.to_owned();
        *lock(&login.token) = Some(token.clone());
        Ok(Some(token))
    }

    fn post(
        &self,
        url: &str,
        body: &Value,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Value, NoAnswer> {
        let mut request = self.agent.post(url).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.config().timeout_global(Some(limit)).build();
        let mut answer = request.send(body.to_string()).map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&text).map_err(|_| format!("{status}, no JSON"))?;
        if status.is_success() {
            return Ok(value);
        }
        let cause = value["message"].as_str().or(value["error"].as_str()).unwrap_or(&text);
        // The second is said when users or their rights have changed since the token was given.
        let forgotten = status.as_u16() == 401 || cause.contains("revision of auth store is old");
        Err(NoAnswer { cause: format!("{status}: {cause}"), forgotten })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encoded(key: &str) -> String {
    BASE64_STANDARD.encode(key)
}

/// Large numbers are texts in JSON.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &dyn std::error::Error) -> String {
    format!("{}: {error}", path.display())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let text = read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| named(path, &error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(named(path, &io::Error::other("it holds no certificate")));
    }
    Ok(found)
}
