//! The way to the witness: one task that asks, in order, and tells the core what came of it.
//!
//! Decides how long an answer is waited for. Must not decide what follows from it.

mod etcd;
mod gateway;

use std::{sync::Arc, time::Duration};

use ipicsha_core::{Input, WitnessAnswer, config::PairName, epoch::Epoch, id::ServerId};
use ipicsha_link::{Error, Identity, WitnessClient, WitnessQuestion, WitnessReply};
use tokio::sync::mpsc;

use etcd::Etcd;

use super::{event::Event, link::LinkContext};
use crate::config::WitnessAt;

/// Questions that may wait; the core has one under way at a time.
const QUEUE: usize = 8;
/// An answer is waited for a part of the time that is asked for, within these.
const PART: u32 = 5;
const LIMITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is to be said.
struct Word {
    /// Of the core's question; none of what needs no answer.
    number: Option<u64>,
    question: WitnessQuestion,
    partner: Option<ServerId>,
    limit: Duration,
}

/// Whose role it is.
pub(crate) struct OfPair {
    /// Agreed on, or to be.
    pub(crate) name: PairName,
    /// While there is trust.
    pub(crate) partner: Option<ServerId>,
}

/// The witness of this server, if it has one.
pub(crate) struct Witness {
    words: Option<mpsc::Sender<Word>>,
    events: mpsc::Sender<Event>,
}

impl Witness {
    pub(crate) fn start(
        at: Option<&WitnessAt>,
        server: ServerId,
        LinkContext { identity, events, .. }: &LinkContext,
    ) -> Self {
        let words = at.map(|at| {
            let way = Way::to(at, server, identity);
            let (sender, words) = mpsc::channel(QUEUE);
            tokio::spawn(talk(way, words, events.clone()));
            sender
        });
        Self { words, events: events.clone() }
    }

    /// Asks for the role; the core hears of the answer, whatever it is.
    pub(crate) fn ask(
        &self,
        number: u64,
        of: &OfPair,
        (epoch, known): (Epoch, Epoch),
        (hold, keep): (Duration, bool),
    ) {
        let question =
            WitnessQuestion::Grant { pair: of.name.to_string(), epoch, known, hold, keep };
        self.say(number, (question, of.partner), (hold / PART).clamp(LIMITS.0, LIMITS.1));
    }

    /// Asks whether it is there; the core hears of the answer.
    pub(crate) fn ping(&self, number: u64, of: &OfPair, interval: Duration) {
        let limit = interval.clamp(LIMITS.0, LIMITS.1);
        let question = WitnessQuestion::Ping { pair: of.name.to_string() };
        self.say(number, (question, of.partner), limit);
    }

    fn say(
        &self,
        number: u64,
        (question, partner): (WitnessQuestion, Option<ServerId>),
        limit: Duration,
    ) {
        let word = Word { number: Some(number), question, partner, limit };
        let failed = |cause: &str| Some(WitnessAnswer::Failed(cause.into()));
        let answer = match &self.words {
            // What it kept it keeps for nobody.
            None if matches!(word.question, WitnessQuestion::Leave { .. }) => {
                Some(WitnessAnswer::Noted)
            }
            None => failed("no witness is in the configuration file here"),
            Some(words) if words.try_send(word).is_err() => failed("it is still being asked"),
            Some(_) => None,
        };
        if let Some(answer) = answer {
            let input = Input::Witness(number, answer);
            let events = self.events.clone();
            tokio::spawn(async move {
                let _ = events.send(Event::Node(input)).await; // a closed channel: the daemon ends
            });
        }
    }

    /// The role is free; the core hears of the answer if it asks by a number.
    pub(crate) fn leave(&self, of: &OfPair, number: Option<u64>) {
        let question = WitnessQuestion::Leave { pair: of.name.to_string() };
        if let Some(number) = number {
            return self.say(number, (question, of.partner), LIMITS.1);
        }
        if let Some(words) = &self.words {
            // Without it the role is free when its time is over.
            let _ = words.try_send(Word {
                number: None,
                question,
                partner: of.partner,
                limit: LIMITS.1,
            });
        }
    }
}

/// The witness that is asked.
enum Way {
    Server(Box<WitnessClient>),
    Etcd(Arc<Etcd>),
    /// It cannot be asked as it is configured.
    None(String),
}

impl Way {
    fn to(at: &WitnessAt, server: ServerId, identity: &Arc<Identity>) -> Self {
        match at {
            WitnessAt::Server { address, fingerprint } => {
                let client = WitnessClient::new(*address, *fingerprint, Arc::clone(identity));
                Self::Server(Box::new(client))
            }
            WitnessAt::Etcd(at) => match Etcd::new(at, server) {
                Ok(etcd) => Self::Etcd(Arc::new(etcd)),
                Err(cause) => Self::None(format!("{cause}; correct `[witness.etcd]` and restart")),
            },
        }
    }

    async fn ask(&mut self, word: &Word) -> Result<WitnessReply, String> {
        match self {
            Self::Server(client) => {
                client.ask(&word.question, word.limit).await.map_err(|error| said(&error))
            }
            Self::Etcd(etcd) => {
                let (etcd, question) = (Arc::clone(etcd), word.question.clone());
                let (partner, limit) = (word.partner, word.limit);
                let asked = move || etcd.ask(&question, partner, limit);
                let asked = tokio::task::spawn_blocking(asked).await;
                asked.unwrap_or_else(|error| Err(error.to_string()))
            }
            Self::None(cause) => Err(cause.clone()),
        }
    }
}

async fn talk(mut way: Way, mut words: mpsc::Receiver<Word>, events: mpsc::Sender<Event>) {
    while let Some(word) = words.recv().await {
        let result = way.ask(&word).await;
        let Some(number) = word.number else {
            if let Err(error) = result {
                tracing::debug!(%error, "the witness was not told that the role is free");
            }
            continue;
        };
        let answer = match result {
            Ok(WitnessReply::Granted) => WitnessAnswer::Granted,
            Ok(WitnessReply::Refused { epoch, left, kept }) => {
                WitnessAnswer::Refused { epoch, left, kept }
            }
            Ok(WitnessReply::Failed(cause)) => WitnessAnswer::Failed(cause),
            Ok(WitnessReply::Noted) => WitnessAnswer::Noted,
            Err(cause) => WitnessAnswer::Failed(cause),
        };
        if events.send(Event::Node(Input::Witness(number, answer))).await.is_err() {
            return; // the daemon ends
        }
    }
}

/// Errors of the link speak of a partner.
fn said(error: &Error) -> String {
    if let Error::OtherCertificate { address } = error {
        return format!(
            "{address} shows another certificate than the one in `witness.certificate`; compare with `ipicsha witness show` there"
        );
    }
    if let Error::NotTrustedThere { address } = error {
        return format!(
            "{address} does not know the certificate of this server; add it to the witness's configuration"
        );
    }
    error.to_string()
}
