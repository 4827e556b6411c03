//! The directory of our own at the top of a watched directory.
//!
//! Decides what tells it from a directory that merely has its name. Must not know what the marker
//! says.

use crate::{meta::Kind, path::Name, resolve::Dir};

/// Directory of our own in the root.
pub(crate) const OWN: &[u8] = b".ipicsha";
/// Says which index the root belongs to.
pub(crate) const MARKER: &[u8] = b"root";

/// Whether `name` in `dir` is our own: of one server alone, so that nobody copies or deletes it.
pub(crate) fn is_own(dir: &Dir, name: &Name) -> bool {
    name.as_bytes() == OWN && dir.child(name).is_ok_and(|own| has_marker(&own))
}

/// Whether a directory that has the name of our own holds a marker.
pub(crate) fn has_marker(own: &Dir) -> bool {
    let marker = Name::new(MARKER).expect("it is a name");
    own.entry(&marker).is_ok_and(|meta| meta.kind == Kind::File)
}
