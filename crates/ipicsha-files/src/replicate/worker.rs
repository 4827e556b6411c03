//! The thread of one directory.

use std::{
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use ipicsha_core::file::File;

use super::{
    Command, DirectoryConfig, Event, Refused,
    bottleneck::Bottleneck,
    engine::{Engine, Message},
    reader::Reader,
    serve::Server,
};
use crate::sync::Names;

/// Where a worker's words go.
pub struct Outlets {
    /// Everything but contents; must not wait.
    pub events: Box<dyn Fn(Event) + Send>,
    /// Parts of contents, called from a thread that only reads and sends: may wait as long as the
    /// connection needs, and says how long that was; what it waits for beside the connection does not
    /// count. `None`: there is no connection, what was to be sent is of no use.
    pub parts: Box<dyn Fn(File) -> Option<Duration> + Send>,
    /// Bytes of content per second that `parts` lets pass at most.
    pub bandwidth_limit: Option<u64>,
}

/// Commands for one worker; it may have ended.
#[derive(Clone)]
pub struct CommandSender(Sender<Message>);

impl CommandSender {
    /// Queues a command; one to a worker that has ended is dropped.
    pub fn send(&self, command: Command) {
        let _ = self.0.send(Message::Command(command));
    }
}

/// The thread of one directory. Dropping it ends the thread and waits for it.
pub struct Worker {
    commands: CommandSender,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts replicating; the gate is closed and there is no link yet.
    ///
    /// # Errors
    /// The state folder cannot be used, or a filter rule. A root that is missing is no error but a
    /// hold.
    pub fn spawn(config: DirectoryConfig, outlets: Outlets) -> Result<Self, Refused> {
        let (sender, inbox) = channel();
        let owners = Arc::new(Names::of_this_machine());
        let threads = |error: std::io::Error| Refused {
            message: format!("cannot start the threads of a directory: {error}"),
            next_step: "raise the limits of processes and open files".into(),
        };
        let changed = sender.clone();
        let changed = move |path| drop(changed.send(Message::Changed(path)));
        let bottleneck = Bottleneck::new(outlets.bandwidth_limit);
        let name = config.name.clone();
        let server = Server::start(name, outlets.parts, Box::new(changed), bottleneck);
        let read = sender.clone();
        let read = move |done| drop(read.send(Message::Read(done)));
        let reader = Reader::start(Arc::clone(&owners), read);
        let (server, reader) = (server.map_err(threads)?, reader.map_err(threads)?);
        let name = format!("files-{}", config.name);
        let engine = Engine::new(config, outlets.events, sender.clone(), server, reader, owners)?;
        let thread = std::thread::Builder::new().name(name).spawn(move || engine.run(&inbox));
        let thread = Some(thread.map_err(threads)?);
        Ok(Self { commands: CommandSender(sender), thread })
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

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker that has ended needs no telling.
        let _ = self.commands.0.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}
