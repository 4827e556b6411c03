//! `certificate renew`: a new key and certificate, while everything goes on.
//!
//! Decides the order: the witness and the partner know the new one before it is used. What was made for a
//! renewal that did not come to its end is used by the next one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipicsha_core::{admin::AdminCommand, config::PairName, time::WallTime};
use ipicsha_link::{Identity, WitnessClient, WitnessQuestion, WitnessReply};
use serde_json::json;
use tokio::sync::oneshot;

use super::{clock, event::Event, event_loop::Daemon, listen, trust, witness::Witness, work::Task};
use crate::{
    api::Answer,
    config::WitnessAt,
    exit::{Failure, Kind},
};

/// Folder of the identity to come, in the state directory.
const NEXT: &str = "next-identity";
/// How long the witness may take.
const WITNESS_LIMIT: Duration = Duration::from_secs(5);
/// The old listener has its port until its task has ended.
const LISTEN_TRIES: u32 = 100;
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

impl Task {
    pub(super) async fn renew_certificate(&self) -> Answer {
        if self.partner.is_none() {
            let message =
                "this server is not trusted with a partner: nobody has to know its certificate";
            return Err(Failure::new(Kind::NotPermitted, message).hinted(
                "stop the daemon, remove key.pem and certificate.pem from the state directory, and start it",
            ));
        }
        let next = self.next_identity()?;
        let certificate = next.certificate_der().to_vec();
        if let Some((at, pair)) = &self.witness {
            known_to_witness(at, pair, &next).await?;
        }
        trust::ask(&self.events, AdminCommand::AnnounceCertificate(certificate)).await?;
        let (sender, receiver) = oneshot::channel();
        let ending = || Failure::new(Kind::Unreachable, "the daemon is ending");
        self.events.send(Event::Renew(sender)).await.map_err(|_| ending())?;
        receiver.await.map_err(|_| ending())??;
        Ok(json!({
            "result": "done",
            "note": format!(
                "certificate {}, valid until {}; the partner knows it, and forgets the old one by itself",
                next.fingerprint(),
                crate::wording::time(next.not_after().saturating_mul(1000)),
            ),
            "fingerprint": next.fingerprint().to_string(),
        }))
    }

    fn next_folder(&self) -> PathBuf {
        self.config.state_file(NEXT)
    }

    fn next_identity(&self) -> Result<Identity, Failure> {
        let server = &self.config.file.server;
        let (in_use, now) = (self.context.identity.fingerprint(), clock::wall_seconds());
        Identity::prepare(&self.next_folder(), in_use, &server.name, now)
            .map_err(|error| trust::failure(&error))
    }
}

/// A witness that does not know the new certificate would be lost with the old one.
async fn known_to_witness(at: &WitnessAt, pair: &PairName, next: &Identity) -> Result<(), Failure> {
    let WitnessAt::Server { address, fingerprint } = at else { return Ok(()) };
    let mut client = WitnessClient::new(*address, *fingerprint, Arc::new(next.clone()));
    let question = WitnessQuestion::Ping { pair: pair.to_string() };
    let why = match client.ask(&question, WITNESS_LIMIT).await {
        Ok(WitnessReply::Noted) => return Ok(()),
        Ok(WitnessReply::Failed(cause)) => cause,
        Ok(WitnessReply::Granted | WitnessReply::Refused { .. }) => {
            "it answers something else".into()
        }
        Err(error) => error.to_string(),
    };
    let fingerprint = next.fingerprint();
    Err(Failure::new(Kind::Refused, format!("the witness does not take the new certificate: {why}"))
        .hinted(&format!(
            "add \"{fingerprint}\" to `certificates` of the pair in the witness's configuration, then run this again"
        )))
}

impl Daemon {
    /// The identity that was announced is this server's from now on: the listener and all connections are
    /// made anew with it, and nothing else changes.
    pub(crate) async fn renew(&mut self) -> Result<(), Failure> {
        let directory = self.config.file.server.state_directory.clone();
        let identity = Identity::replace(&directory, &directory.join(NEXT));
        let identity = Arc::new(identity.map_err(|error| trust::failure(&error))?);
        self.link_context.identity = Arc::clone(&identity);
        let (at, server) = (self.config.witness.as_ref(), self.store.server());
        self.witness = Witness::start(at, server, &self.link_context);
        let partner = self.node.persisted().partner.clone();
        // Its connections end with it: the partner dials anew, and meets the new identity.
        if let Some(old) = self.listener.take() {
            old.set_partner(None);
        }
        let mut tries = 0;
        self.listener = loop {
            match listen(&self.config, &identity, partner.clone(), self.incoming.clone()) {
                Ok(listener) => break Some(listener),
                Err(failure) if tries >= LISTEN_TRIES => {
                    tracing::error!(%failure, "the daemon ends, to be started again");
                    std::process::abort();
                }
                Err(_) => tokio::time::sleep(LISTEN_PAUSE).await,
            }
            tries += 1;
        };
        self.connect();
        let ends = WallTime(identity.not_after().saturating_mul(1000));
        let certificate = identity.certificate_der().to_vec();
        let (waiter, _) = oneshot::channel(); // it is always done
        self.ask(AdminCommand::CertificateInUse { certificate, ends }, waiter);
        tracing::info!(certificate = %identity.fingerprint(), "the certificate was renewed");
        Ok(())
    }
}
