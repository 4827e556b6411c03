//! Carries out each output of the core, strictly in order. `Persist` is a barrier: a daemon that
//! cannot persist ends at once, before anybody hears of what it could not remember.

use ipicsha_core::{
    Output,
    config::{PairName, PartitionPolicy, Timing},
    message::Control,
};

use super::{event_loop::Daemon, roles::RoleChange, witness::OfPair};

impl Daemon {
    pub(crate) async fn execute_all(&mut self) {
        while let Some(output) = self.node.poll_output() {
            self.execute(output).await;
        }
    }

    async fn execute(&mut self, output: Output) {
        match output {
            Output::Persist(state) => {
                if let Err(error) = self.store.save(&state) {
                    tracing::error!(%error, "the state cannot be written; the daemon ends now");
                    std::process::abort();
                }
                let config = state.ha.config.as_ref();
                self.set_interval(config.map(|config| config.timing));
                if config.is_none_or(|config| config.policy != PartitionPolicy::Witness) {
                    self.databases.lift_right();
                }
            }
            Output::Send(control) => self.send(control),
            Output::Reply(request, reply) => {
                if let Some(waiter) = self.waiting.remove(&request) {
                    let _ = waiter.send(reply); // the command line went away
                }
            }
            Output::TrustChanged | Output::PinsChanged => self.connect(),
            Output::Capture(true) => self.capture(),
            Output::Capture(false) => {
                self.databases.remove_all();
                self.directories.remove_all();
            }
            Output::AskWitness { number, epoch, known, hold, keep } => {
                self.witness.ask(number, &self.of_pair(), (epoch, known), (hold, keep));
            }
            Output::PingWitness { number } => {
                self.witness.ping(number, &self.of_pair(), *self.interval.borrow());
            }
            Output::LeaveWitness { number } => self.witness.leave(&self.of_pair(), number),
            Output::AllowWrites { until } => self.databases.allow_writes(Some(until)),
            Output::Activate { drained } => {
                self.change_role(RoleChange::Activate {
                    databases: self.databases.senders(),
                    drained,
                    lifetime: self.address_lifetime(),
                })
                .await;
            }
            Output::Deactivate => {
                self.change_role(RoleChange::Deactivate(self.databases.senders())).await;
            }
            Output::CloseWrites { limit } => {
                let (databases, directories) =
                    (self.databases.senders(), self.directories.senders());
                let change = RoleChange::CloseWrites { databases, directories, limit };
                self.change_role(change).await;
            }
            Output::Replicate(gate) => {
                self.databases.set_gate(gate);
                self.directories.set_gate(gate);
            }
            Output::Compare(request) => {
                if !self.databases.compare(&request, &self.events) {
                    let cause = "it is not protected on the primary".to_owned();
                    let (run, database) = (request.run, request.database);
                    self.send(Control::RepairRefused { run, database, cause });
                }
            }
            Output::Record(event) => self.record(event),
            Output::Exit => self.exit = true,
        }
    }

    /// HA is configured: every database and directory takes part from now on.
    fn capture(&mut self) {
        let config = self.node.persisted().ha.config.clone();
        self.set_interval(config.as_ref().map(|config| config.timing));
        if config.is_some_and(|config| config.policy != PartitionPolicy::Witness) {
            self.databases.allow_writes(None);
        }
        if let Some(rank) = self.node.persisted().configured_as {
            self.databases.install(rank);
            self.directories.install(rank);
        }
        self.measure();
    }

    /// Name that both servers agreed on, else that of the file.
    fn pair(&self) -> &PairName {
        let config = self.node.persisted().ha.config.as_ref();
        config.map_or(&self.config.pair, |config| &config.pair)
    }

    fn of_pair(&self) -> OfPair {
        let partner = self.node.persisted().partner.as_ref().map(|partner| partner.server);
        OfPair { name: self.pair().clone(), partner }
    }

    async fn change_role(&self, change: RoleChange) {
        if self.roles.send(change).await.is_err() {
            tracing::error!("role changes are not carried out any more; the daemon ends now");
            std::process::abort();
        }
    }

    fn set_interval(&self, timing: Option<Timing>) {
        let interval = timing.map_or(std::time::Duration::from_secs(1), Timing::interval);
        self.interval.send_if_modified(|now| std::mem::replace(now, interval) != interval);
    }
}
