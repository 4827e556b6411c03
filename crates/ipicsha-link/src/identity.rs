//! Who this server is: its own key and self-signed certificate, made once and kept.
//!
//! Decides when a new identity may be made (only when there is none at all). Must not know whom this
//! server trusts.

use std::{fmt, path::Path, str::FromStr, sync::Arc, time::Duration};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    der,
    error::Error,
    pin,
    stored::{self, Readers, damaged},
};

/// How long a new certificate is valid: three years with their leap day (spec A3).
pub const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(1096 * 24 * 60 * 60);

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";
/// 1 January 3000: a clock beyond it is broken, and the certificate's date must stay writable.
const UNIX_SECONDS_MAX: i64 = 32_503_680_000;

/// SHA-256 of a certificate, for people to compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of any certificate (DER).
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint: 64 hexadecimal digits, as `ipicsha trust show` prints them")]
pub struct FingerprintError(String);

/// Reads what [`fmt::Display`] writes; dashes, colons and spaces do not count.
impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || FingerprintError(text.to_owned());
        let digits = text.chars().filter(|c| !matches!(c, '-' | ':' | ' '));
        let digits: Option<Vec<u8>> =
            digits.map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

/// Groups of four hexadecimal digits, as in `7f3a-91c2-...`.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pair) in self.0.chunks_exact(2).enumerate() {
            let dash = if index == 0 { "" } else { "-" };
            write!(f, "{dash}{:02x}{:02x}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Key and certificate of this server.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    not_after: i64,
}

impl Identity {
    /// Loads `key.pem` and `certificate.pem` from `directory`, or makes both when neither is there.
    /// Blocks on the disk. `server_name` and `now_unix_seconds` are used only for a new certificate.
    ///
    /// # Errors
    /// Never replaces anything: one file missing, damaged, readable by others, or a key that does
    /// not belong to the certificate is an error.
    pub fn load_or_create(
        directory: &Path,
        server_name: &str,
        now_unix_seconds: i64,
    ) -> Result<Self, Error> {
        let (key_path, certificate_path) = (directory.join(KEY), directory.join(CERTIFICATE));
        finish_creation(&key_path, &certificate_path)?;
        let key = stored::read(&key_path, Readers::OwnerOnly)?;
        let certificate = stored::read(&certificate_path, Readers::Anybody)?;
        match (key, certificate) {
            (Some(key), Some(certificate)) => {
                Self::parse(&key_path, &key, &certificate_path, &certificate)
            }
            (Some(_), None) => Err(Error::HalfMissing { path: certificate_path, beside: key_path }),
            (None, Some(_)) => Err(Error::HalfMissing { path: key_path, beside: certificate_path }),
            (None, None) => {
                let (key, certificate) = generate(server_name, now_unix_seconds)?;
                stored::private_directory(directory)?;
                let staged_key = stored::stage(&key_path, key.as_bytes())?;
                stored::write(&certificate_path, certificate.as_bytes())?;
                stored::commit(&staged_key, &key_path)?;
                Self::parse(&key_path, key.as_bytes(), &certificate_path, certificate.as_bytes())
            }
        }
    }

    /// Loads what [`Self::load_or_create`] made; `None` when there is nothing yet. Changes nothing.
    ///
    /// # Errors
    /// As [`Self::load_or_create`].
    pub fn load(directory: &Path) -> Result<Option<Self>, Error> {
        let (key_path, certificate_path) = (directory.join(KEY), directory.join(CERTIFICATE));
        let key = stored::read(&key_path, Readers::OwnerOnly)?;
        let certificate = stored::read(&certificate_path, Readers::Anybody)?;
        match (key, certificate) {
            (Some(key), Some(certificate)) => {
                Self::parse(&key_path, &key, &certificate_path, &certificate).map(Some)
            }
            (Some(_), None) => Err(Error::HalfMissing { path: certificate_path, beside: key_path }),
            (None, _) => Ok(None),
        }
    }

    /// The identity that is to replace the one `in_use`: what lies in `next` from a replacement that was not
    /// made, or a new one. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Self::load_or_create`]; half an identity and the one in use are made anew.
    pub fn prepare(
        next: &Path,
        in_use: Fingerprint,
        server_name: &str,
        now_unix_seconds: i64,
    ) -> Result<Self, Error> {
        let make = || Self::load_or_create(next, server_name, now_unix_seconds);
        match make() {
            Ok(identity) if identity.fingerprint == in_use => {}
            Err(Error::HalfMissing { .. }) => {}
            other => return other,
        }
        stored::remove_directory(next)?;
        make()
    }

    /// Puts the identity in `next` in the place of the one in `directory`, durably: a crash leaves the old
    /// one or the new one.
    ///
    /// # Errors
    /// There is none in `next`, or the disk refuses.
    pub fn replace(directory: &Path, next: &Path) -> Result<Self, Error> {
        let damaged_next = || damaged(next, "it holds no identity");
        let key = stored::read(&next.join(KEY), Readers::OwnerOnly)?.ok_or_else(damaged_next)?;
        let certificate =
            stored::read(&next.join(CERTIFICATE), Readers::Anybody)?.ok_or_else(damaged_next)?;
        let (key_path, certificate_path) = (directory.join(KEY), directory.join(CERTIFICATE));
        let identity = Self::parse(&key_path, &key, &certificate_path, &certificate)?;
        let staged = stored::stage(&key_path, &key)?;
        stored::write(&certificate_path, &certificate)?;
        stored::commit(&staged, &key_path)?;
        // What is left of it is the same as what is in place.
        let _ = std::fs::remove_dir_all(next);
        Ok(identity)
    }

    /// The certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.certified.cert.first().expect("parse put exactly one certificate in").as_ref()
    }

    /// The fingerprint of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Last second at which the certificate is valid, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// What an impostor can show: the certificate of one server, with the key of another.
    #[cfg(test)]
    pub(crate) fn forged(certificate_of: &Self, key_of: &Self) -> Self {
        let certificates = certificate_of.certified.cert.clone();
        let certified = CertifiedKey::new(certificates, Arc::clone(&key_of.certified.key));
        Self { certified: Arc::new(certified), ..certificate_of.clone() }
    }

    fn parse(
        key_path: &Path,
        key: &[u8],
        certificate_path: &Path,
        certificate: &[u8],
    ) -> Result<Self, Error> {
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| damaged(key_path, error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|error| damaged(certificate_path, error.to_string()))?;
        let not_after = der::not_after(&certificate)
            .ok_or_else(|| damaged(certificate_path, "it holds no certificate"))?;
        let key = pin::provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| damaged(key_path, error.to_string()))?;
        let fingerprint = Fingerprint::of(&certificate);
        let certified = CertifiedKey::new(vec![certificate], key);
        certified.keys_match().map_err(|error| {
            damaged(certificate_path, format!("it does not belong to the key in {KEY}: {error}"))
        })?;
        Ok(Self { certified: Arc::new(certified), fingerprint, not_after })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.fingerprint)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Ends a creation or a replacement that a crash stopped between its two renames: the certificate is in
/// place, its key still has the staged name. A staged key of any other certificate is left alone.
fn finish_creation(key_path: &Path, certificate_path: &Path) -> Result<(), Error> {
    let staged = stored::staged_path(key_path);
    if !certificate_path.exists() || !staged.exists() {
        return Ok(());
    }
    let belongs = || -> Result<bool, Error> {
        let key = stored::read(&staged, Readers::OwnerOnly)?.unwrap_or_default();
        let certificate = stored::read(certificate_path, Readers::Anybody)?.unwrap_or_default();
        Ok(Identity::parse(&staged, &key, certificate_path, &certificate).is_ok())
    };
    if !key_path.exists() || belongs()? {
        stored::commit(&staged, key_path)?;
    }
    Ok(())
}

fn generate(server_name: &str, now: i64) -> Result<(Zeroizing<String>, String), Error> {
    let failed = |error: rcgen::Error| Error::Certificate(error.to_string());
    if !(0..=UNIX_SECONDS_MAX).contains(&now) {
        return Err(Error::Certificate(format!("the clock shows the impossible time {now}")));
    }
    let start = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.unsigned_abs());
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, server_name);
    params.not_before = start;
    params.not_after = start + CERTIFICATE_VALIDITY;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((Zeroizing::new(key.serialize_pem()), certificate.pem()))
}
