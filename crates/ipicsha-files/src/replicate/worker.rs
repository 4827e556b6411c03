//! The thread of one directory.

use std::sync::mpsc::{Sender, channel};

use ipicsha_core::file::File;

use super::{Command, DirectoryConfig, Event, Refused};

/// Where a worker's words go.
pub struct Outlets {
    /// Everything but contents; must not wait.
    pub events: Box<dyn Fn(Event) + Send>,
    /// Parts of contents, called from a thread that only reads and sends: may wait as long as the
    /// connection needs. `false`: there is no connection, what was to be sent is of no use.
    pub parts: Box<dyn Fn(File) -> bool + Send>,
}

/// Commands for one worker; it may have ended.
#[derive(Clone)]
pub struct CommandSender(Sender<Command>);

impl CommandSender {
    /// Queues a command; one to a worker that has ended is dropped.
    pub fn send(&self, command: Command) {
        let _ = self.0.send(command);
    }
}

/// The thread of one directory. Dropping it ends the thread and waits for it.
pub struct Worker {
    commands: CommandSender,
}

impl Worker {
    /// Starts replicating; the gate is closed and there is no link yet.
    ///
    /// # Errors
    /// The state folder cannot be used. A root that is missing is no error but a hold.
    pub fn spawn(config: DirectoryConfig, outlets: Outlets) -> Result<Self, Refused> {
        let (sender, _commands) = channel();
        let _ = (config, outlets);
        Ok(Self { commands: CommandSender(sender) })
    }

    /// Commands for it.
    pub fn sender(&self) -> CommandSender {
        self.commands.clone()
    }

    /// Queues a command.
    pub fn send(&self, command: Command) {
        self.commands.send(command);
    }
}
