//! The password proof: OPAQUE (RFC 9807) over ristretto255 with argon2.
//!
//! The only module that speaks to `opaque-ke`. Messages are plain bytes outside. It decides whether
//! a password is the one; it knows neither files nor connections.

use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialFinalization, CredentialRequest,
    CredentialResponse, Identifiers, Ristretto255, ServerLogin, ServerLoginParameters,
    ServerRegistration, ServerSetup, TripleDh, argon2::Argon2, errors::ProtocolError,
};
use rand_core::OsRng;
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::password::ADMIN_USER;

struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, Sha512>;
    type Ksf = Argon2<'static>;
}

/// The proof does not hold, or a message of it is no such message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotProven;

impl From<ProtocolError> for NotProven {
    fn from(_: ProtocolError) -> Self {
        // Which step failed is of use only to somebody who guesses.
        Self
    }
}

/// What a server keeps of its admin password; the password cannot be computed from it but by
/// guessing through argon2.
pub(crate) struct Record {
    setup: ServerSetup<Suite>,
    registration: ServerRegistration<Suite>,
}

/// Bytes of a [`Record`]: server setup, then registration.
pub(crate) const RECORD_BYTES: usize = SETUP_BYTES + REGISTRATION_BYTES;
const SETUP_BYTES: usize = 128;
const REGISTRATION_BYTES: usize = 192;

impl Record {
    /// Both halves of the registration, run in this process. Takes about 0.2 s of CPU.
    pub(crate) fn register(password: &[u8]) -> Result<Self, NotProven> {
        let mut random = OsRng;
        let setup = ServerSetup::<Suite>::new(&mut random);
        let client = ClientRegistration::<Suite>::start(&mut random, password)?;
        let server =
            ServerRegistration::<Suite>::start(&setup, client.message, ADMIN_USER.as_bytes())?;
        let parameters = ClientRegistrationFinishParameters::new(identifiers(), None);
        let upload = client.state.finish(&mut random, password, server.message, parameters)?;
        Ok(Self { setup, registration: ServerRegistration::finish(upload.message) })
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let setup = Zeroizing::new(self.setup.serialize().to_vec());
        Zeroizing::new([setup.as_slice(), self.registration.serialize().as_slice()].concat())
    }

    pub(crate) fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Result<Self, NotProven> {
        let (setup, registration) = bytes.split_at(SETUP_BYTES);
        Ok(Self {
            setup: ServerSetup::deserialize(setup)?,
            registration: ServerRegistration::deserialize(registration)?,
        })
    }

    /// Answers the first message of somebody who wants to prove the password.
    pub(crate) fn challenge(
        &self,
        request: &[u8],
        context: &[u8],
    ) -> Result<(Judge, Vec<u8>), NotProven> {
        let start = ServerLogin::start(
            &mut OsRng,
            &self.setup,
            Some(self.registration.clone()),
            CredentialRequest::deserialize(request)?,
            ADMIN_USER.as_bytes(),
            server_parameters(context),
        )?;
        Ok((Judge { state: start.state }, start.message.serialize().to_vec()))
    }
}

/// The server's half of one attempt.
pub(crate) struct Judge {
    state: ServerLogin<Suite>,
}

impl Judge {
    /// Decides the attempt by the last message.
    pub(crate) fn decide(self, proof: &[u8], context: &[u8]) -> Result<(), NotProven> {
        let proof = CredentialFinalization::deserialize(proof)?;
        self.state.finish(proof, server_parameters(context))?;
        Ok(())
    }
}

/// The half of the one who knows the password.
pub(crate) struct Prover {
    state: ClientLogin<Suite>,
    password: Zeroizing<Vec<u8>>,
}

impl Prover {
    /// Begins an attempt; returns the first message.
    pub(crate) fn start(password: &str) -> Result<(Self, Vec<u8>), NotProven> {
        let password = Zeroizing::new(password.as_bytes().to_vec());
        let start = ClientLogin::<Suite>::start(&mut OsRng, &password)?;
        let request = start.message.serialize().to_vec();
        Ok((Self { state: start.state, password }, request))
    }

    /// Checks that the other end knows the record of this password in this very context, and only
    /// then returns the last message. Takes about 0.2 s of CPU.
    pub(crate) fn prove(self, challenge: &[u8], context: &[u8]) -> Result<Vec<u8>, NotProven> {
        let challenge = CredentialResponse::deserialize(challenge)?;
        let parameters = ClientLoginFinishParameters::new(Some(context), identifiers(), None);
        let finish = self.state.finish(&mut OsRng, &self.password, challenge, parameters)?;
        Ok(finish.message.serialize().to_vec())
    }
}

fn identifiers() -> Identifiers<'static> {
    Identifiers { client: Some(ADMIN_USER.as_bytes()), server: Some(b"ipicsha") }
}

fn server_parameters(context: &[u8]) -> ServerLoginParameters<'_, 'static> {
    ServerLoginParameters { context: Some(context), identifiers: identifiers() }
}
