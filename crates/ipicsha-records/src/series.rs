//! Changes that the partner has read together are applied together, or not at all.
//!
//! Decides what of the messages that wait is complete. Must not know what is in it. Half of a series can be
//! half of a transaction of the application; should the partner be gone by then, it would be served.

use ipicsha_core::data::{Batch, Data, Follows};

/// The batch a message brings.
fn batch(data: &Data) -> Option<&Batch> {
    match data {
        Data::Batch(batch) => Some(batch),
        Data::Invite { .. }
        | Data::Attach(_)
        | Data::Schema { .. }
        | Data::Ack { .. }
        | Data::Compare { .. }
        | Data::Undo { .. }
        | Data::Expect { .. } => None,
    }
}

/// The batches at the beginning.
pub(crate) fn batches<'a>(
    waiting: impl IntoIterator<Item = &'a Data>,
) -> impl Iterator<Item = &'a Batch> {
    waiting.into_iter().map_while(batch)
}

/// Whether these messages begin with a series and nothing else, and its end is on its way.
pub(crate) fn is_begun<'a>(waiting: impl IntoIterator<Item = &'a Data>) -> bool {
    let mut batches = waiting.into_iter().map(batch).peekable();
    batches.peek().is_some_and(Option::is_some)
        && batches.all(|batch| batch.is_some_and(|batch| batch.follows == Follows::AtOnce))
}

/// How many of the batches are complete series: those of the first one, or all.
pub(crate) fn complete<'a>(batches: impl Iterator<Item = &'a Batch>, only_first: bool) -> usize {
    let ends = batches.enumerate().filter(|(_, batch)| batch.follows != Follows::AtOnce);
    let mut ends = ends.map(|(index, _)| index + 1);
    let end = if only_first { ends.next() } else { ends.last() };
    end.unwrap_or(0)
}
