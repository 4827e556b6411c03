//! Tests of the whole link: real TLS over real loopback sockets.

mod blocking;
mod duplex;
mod hostile;
mod identity;
mod pair;
mod trust;
mod witness;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipicsha_core::{id::ServerId, trust::Partner};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::client::TlsStream;

use crate::{
    Channel, Dial, Duplex, Error, FrameReceiver, FrameSender, Hello, Identity, Incoming,
    Introduction, Listener, ListenerConfig, PROTOCOL, TrustAction, connect, dial,
    pin::{self, Accepted},
};

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long to look for something that must not come.
const MOMENT: Duration = Duration::from_millis(150);

struct Server {
    directory: TempDir,
    identity: Arc<Identity>,
    id: ServerId,
    name: &'static str,
}

impl Server {
    fn new(name: &'static str, id: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(directory.path(), name, 1_700_000_000).unwrap();
        Self { directory, identity: Arc::new(identity), id: ServerId(id), name }
    }

    fn with_identity(&self, identity: Identity) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, identity: Arc::new(identity), id: self.id, name: self.name }
    }

    /// This server as its partner has pinned it.
    fn as_partner(&self) -> Partner {
        Partner {
            server: self.id,
            name: self.name.into(),
            address: "127.0.0.1:3444".into(),
            certificate: self.identity.certificate_der().to_vec(),
            next_certificate: None,
        }
    }

    fn hello(&self, channel: Channel) -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            server: self.id,
            name: self.name.into(),
            channel,
        }
    }

    fn introduction(&self, listen_address: Option<&str>) -> Introduction {
        Introduction {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            server: self.id,
            name: self.name.into(),
            listen_address: listen_address.map(Into::into),
            action: TrustAction::Set,
        }
    }

    fn listen(&self, partner: Option<Partner>) -> Listening {
        self.listen_with(partner, PATIENCE)
    }

    fn listen_with(&self, partner: Option<Partner>, deadline: Duration) -> Listening {
        let (sender, incoming) = mpsc::channel(8);
        let identity = Arc::clone(&self.identity);
        let config = ListenerConfig::new(identity, self.name, self.directory.path(), sender);
        let config = ListenerConfig { partner, deadline, ..config };
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), config).unwrap();
        Listening { listener, incoming }
    }

    fn dial<'a>(&'a self, target: SocketAddr, partner: &'a Partner, channel: Channel) -> Dial<'a> {
        Dial {
            target,
            local: None,
            partner,
            identity: &self.identity,
            hello: self.hello(channel),
            timeout: PATIENCE,
            user_timeout: Some(Duration::from_secs(5)),
        }
    }

    async fn connect(
        &self,
        target: SocketAddr,
        partner: &Partner,
        channel: Channel,
    ) -> Result<FrameSender, Error> {
        connect(&self.dial(target, partner, channel)).await
    }

    /// TLS that has said nothing yet.
    async fn raw(&self, target: SocketAddr, accepted: Accepted) -> TlsStream<TcpStream> {
        let alpn = match &accepted {
            Accepted::AnyCertificate => pin::ALPN_TRUST,
            Accepted::Known(_) => pin::ALPN_WITNESS,
            Accepted::Pinned(_) | Accepted::Nobody => pin::ALPN_PAIR,
        };
        let tcp = dial::tcp(target, None).await.unwrap();
        dial::tls(tcp, target, pin::client_config(&self.identity, accepted), alpn).await.unwrap()
    }
}

struct Listening {
    listener: Listener,
    incoming: mpsc::Receiver<Incoming>,
}

impl Listening {
    fn address(&self) -> SocketAddr {
        self.listener.local_address()
    }

    async fn connection(&mut self) -> (Hello, FrameReceiver) {
        match timeout(PATIENCE, self.incoming.recv()).await.unwrap().unwrap() {
            Incoming::Connection { hello, receiver } => (hello, receiver),
            other @ (Incoming::Trust { .. } | Incoming::Duplex { .. }) => {
                panic!("unexpected {other:?}")
            }
        }
    }

    async fn duplex(&mut self) -> Duplex {
        match timeout(PATIENCE, self.incoming.recv()).await.unwrap().unwrap() {
            Incoming::Duplex { duplex, .. } => duplex,
            other @ (Incoming::Trust { .. } | Incoming::Connection { .. }) => {
                panic!("unexpected {other:?}")
            }
        }
    }

    async fn nothing_came(&mut self) {
        let came = timeout(MOMENT, self.incoming.recv()).await;
        assert!(came.is_err(), "unexpected {came:?}");
    }
}

/// `alpha` trusts `bravo` and listens for it; each has the other pinned.
fn pair() -> (Server, Server) {
    (Server::new("alpha", 0xa), Server::new("bravo", 0xb))
}
