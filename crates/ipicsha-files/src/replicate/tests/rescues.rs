//! What could not be kept is neither removed nor forgotten.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Instant,
};

use super::{
    super::{
        DirectoryStatus, Event, bottleneck::Bottleneck, engine::Engine, reader::Reader,
        serve::Server,
    },
    pair::Pair,
};
use crate::{
    path::RelativePath,
    place::{hold_new, is_temporary},
    sync::Names,
};

/// An engine on the first directory of a pair, which it has entered.
fn engine(pair: &Pair) -> (Engine, Receiver<Event>) {
    let config = pair.a.config.clone();
    let (events, heard) = channel();
    let (inbox, _) = channel();
    let owners = Arc::new(Names::of_this_machine());
    let (name, unlimited) = (config.name.clone(), Bottleneck::new(None));
    let server = Server::start(name, Box::new(|_| None), Box::new(drop), unlimited).unwrap();
    let reader = Reader::start(Arc::clone(&owners), drop).unwrap();
    let events = Box::new(move |event| drop(events.send(event)));
    let mut engine = Engine::new(config, events, inbox, server, reader, owners).unwrap();
    engine.enter_root().unwrap();
    (engine, heard)
}

fn status(engine: &mut Engine, heard: &Receiver<Event>) -> DirectoryStatus {
    engine.send_status();
    let told = heard.try_iter().filter_map(|event| match event {
        Event::Status(status) => Some(*status),
        Event::Send(_) | Event::Kept(_) | Event::Repairing(_) => None,
    });
    told.last().unwrap()
}

fn lost(pair: &Pair) -> Vec<PathBuf> {
    let listed = fs::read_dir(pair.a.path(".ipicsha")).unwrap();
    let paths = listed.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("/lost-")).collect()
}

#[test]
fn what_cannot_be_kept_has_a_name_that_nobody_removes_and_is_named_until_it_is_moved() {
    let pair = Pair::new();
    let (mut first, heard) = engine(&pair);
    let path = RelativePath::try_from(b"file".to_vec()).unwrap();
    let dir = first.root.as_ref().unwrap().top().clone();
    let hold = hold_new(&dir, |name| {
        std::io::Write::write_all(&mut dir.create_file(name, 0o600)?, b"work").unwrap();
        Ok(())
    });
    fs::remove_dir_all(pair.a.config.state.join("kept")).unwrap();
    first.keep_held(hold.unwrap(), &path);
    // As when the other version has its place.
    first.troubles.remove(&path);
    let shown = status(&mut first, &heard);
    assert_eq!((shown.troubles_total, shown.troubles[0].path.as_str()), (1, "file"));
    let [place] = &lost(&pair)[..] else { panic!("it is not in the root") };
    assert_eq!(fs::read(place).unwrap(), b"work");
    let name = place.file_name().unwrap().to_string_lossy().into_owned();
    assert!(shown.troubles[0].problem.contains(&name) && !is_temporary(name.as_bytes()));
    drop(first);
    let (mut second, heard) = engine(&pair);
    assert_eq!(status(&mut second, &heard).troubles_total, 1, "a restart forgets it");
    fs::remove_file(place).unwrap();
    second.report_status(Instant::now()).unwrap();
    assert_eq!(status(&mut second, &heard).troubles_total, 0);
}
