//! What two `Attach` messages mean, seen from one of the two servers.
//!
//! Decides where each direction goes on, whether the databases have to be compared, and which
//! tables can follow. Pure, and symmetric: both servers come to matching results from the same two
//! messages. Must not know SQLite or time.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use ipicsha_core::{
    data::{Applied, Attach, Standing},
    id::Seq,
};

use crate::schema::SkippedTable;

/// Whose contents of a table count as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Mine,
    Theirs,
}

/// By name of the table; where there is none, versions are merged.
pub(crate) type Authorities = BTreeMap<String, Authority>;

/// The outcome, for one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Send what our log holds behind this.
    pub(crate) send_from: Seq,
    /// Our stored position in the partner's log from now on.
    pub(crate) applied: Applied,
    /// Both logs go on where they were read last.
    pub(crate) continued: bool,
    /// The contents may differ in more than what is queued, in every table.
    pub(crate) compare: bool,
    /// Only these tables may; empty when all are compared.
    pub(crate) partial: BTreeSet<String>,
    /// Tables of which one side's contents count as a whole.
    pub(crate) authorities: Authorities,
    /// Largest ids the partner has given out in AUTOINCREMENT tables.
    pub(crate) sequences: Vec<(String, i64)>,
    /// What is overwritten may be unknown to the other side: it is kept.
    pub(crate) journaled: bool,
    /// The schemas differ, and this side takes over that of the other or gives it its own.
    pub(crate) follows: Option<Authority>,
    /// Tables both can exchange.
    pub(crate) tables: BTreeSet<String>,
    /// Both have the same schema.
    pub(crate) alike: bool,
    /// Own tables the partner does not have.
    pub(crate) absent: BTreeSet<String>,
    /// Own tables that cannot follow.
    pub(crate) held: Vec<SkippedTable>,
}

/// Evaluates one exchange; `None` when a file is missing on either side.
pub(crate) fn agree(mine: &Attach, theirs: &Attach) -> Option<Agreement> {
    let (my_log, their_log) = (mine.log?, theirs.log?);
    let sending = my_log.continues(theirs.applied);
    let receiving = their_log.continues(mine.applied);
    let at_end =
        Applied { origin: their_log.origin, seq: their_log.last, wall: their_log.last_wall };
    let mut tables = BTreeSet::new();
    let mut held = Vec::new();
    let mut unequal = BTreeSet::new();
    let mut authorities = Authorities::new();
    let mut sequences = Vec::new();
    let mut absent = BTreeSet::new();
    for table in &mine.tables {
        let reason = match theirs.tables.iter().find(|other| other.name == table.name) {
            Some(other) if other.schema_hash == table.schema_hash => {
                if (table.standing, other.standing) != (Standing::Even, Standing::Even) {
                    unequal.insert(table.name.clone());
                }
                if let Some(authority) =
                    authority((table.standing, mine.open), (other.standing, theirs.open))
                {
                    authorities.insert(table.name.clone(), authority);
                }
                sequences.extend(other.sequence.map(|last| (table.name.clone(), last)));
                tables.insert(table.name.clone());
                continue;
            }
            Some(_) => {
                "its schema differs from the partner's: bring both to the same version of the application"
            }
            None => {
                absent.insert(table.name.clone());
                "the partner does not have it: create it there, too"
            }
        };
        held.push(SkippedTable { table: table.name.clone(), reason: reason.into() });
    }
    let compare = !(sending && receiving && mine.synced && theirs.synced);
    if compare {
        unequal.clear();
    }
    // Where both are written, or none, nobody can say whose schema is the newer one.
    let follows = match (mine.open, theirs.open) {
        _ if mine.schema == theirs.schema => None,
        (true, false) => Some(Authority::Mine),
        (false, true) => Some(Authority::Theirs),
        (true, true) | (false, false) => None,
    };
    let journaled = compare || (mine.open == theirs.open && !authorities.is_empty());
    Some(Agreement {
        continued: sending && receiving,
        journaled,
        send_from: theirs.applied.filter(|_| sending).map_or(my_log.last, |applied| applied.seq),
        applied: mine.applied.filter(|_| receiving).unwrap_or(at_end),
        compare,
        partial: unequal,
        authorities,
        sequences,
        follows,
        alike: mine.schema == theirs.schema,
        absent,
        tables,
        held,
    })
}

/// Of a table that was rewritten the contents of the active server count. Without one, or with
/// two, those of the side that has rewritten it as the active one.
fn authority(mine: (Standing, bool), theirs: (Standing, bool)) -> Option<Authority> {
    let weight = |standing| match standing {
        Standing::Yields => 0,
        Standing::Even | Standing::Behind => 1,
        Standing::Counts => 2,
    };
    let (mine_weight, theirs_weight) = (weight(mine.0), weight(theirs.0));
    if (mine_weight, theirs_weight) == (1, 1) {
        return None;
    }
    match mine.1.cmp(&theirs.1).then(mine_weight.cmp(&theirs_weight)) {
        Ordering::Less => Some(Authority::Theirs),
        Ordering::Equal => None,
        Ordering::Greater => Some(Authority::Mine),
    }
}

#[cfg(test)]
mod tests {
    use ipicsha_core::{
        data::{DatabaseUuid, LogExtent, Origin, TableState},
        id::DatabaseName,
        time::WallTime,
    };

    use super::*;

    fn origin(uuid: u8) -> Origin {
        Origin { uuid: DatabaseUuid([uuid; 16]), incarnation: 1 }
    }

    fn attach(uuid: u8, first: i64, last: i64, applied: Option<(u8, i64)>) -> Attach {
        Attach {
            database: DatabaseName("d".into()),
            turn: 1,
            log: Some(LogExtent {
                origin: origin(uuid),
                first: Seq(first),
                last: Seq(last),
                last_wall: Some(WallTime(last * 10)),
            }),
            applied: applied.map(|(uuid, seq)| Applied {
                origin: origin(uuid),
                seq: Seq(seq),
                wall: None,
            }),
            synced: true,
            tables: Vec::new(),
            schema: [0; 16],
            open: false,
        }
    }

    fn table(name: &str, hash: u8, standing: Standing) -> TableState {
        TableState { name: name.into(), schema_hash: [hash; 16], standing, sequence: None }
    }

    #[test]
    fn an_intact_pair_goes_on_where_it_stopped() {
        let (a, b) = (attach(1, 5, 9, Some((2, 3))), attach(2, 1, 4, Some((1, 4))));
        let at_a = agree(&a, &b).unwrap();
        let at_b = agree(&b, &a).unwrap();
        assert_eq!((at_a.send_from, at_a.applied.seq, at_a.compare), (Seq(4), Seq(3), false));
        assert_eq!((at_b.send_from, at_b.applied.seq, at_b.compare), (Seq(3), Seq(4), false));
    }

    #[test]
    fn every_break_leads_both_to_the_end_of_the_senders_log_and_to_a_comparison() {
        let b = |applied| attach(2, 1, 4, applied);
        let cases = [
            ("first contact", None),
            ("another file", Some((3, 7))),
            ("the ring went over it", Some((1, 3))),
            ("the sender was restored from an older copy", Some((1, 10))),
        ];
        for (what, applied) in cases {
            let a = attach(1, 5, 9, Some((2, 3)));
            let at_a = agree(&a, &b(applied)).unwrap();
            let at_b = agree(&b(applied), &a).unwrap();
            assert_eq!(at_a.send_from, Seq(9), "{what}");
            assert_eq!(
                at_b.applied,
                Applied { origin: origin(1), seq: Seq(9), wall: Some(WallTime(90)) },
                "{what}"
            );
            assert!(at_a.compare && at_b.compare, "{what}");
            assert_eq!(at_a.applied.seq, Seq(3), "{what}: the other direction is intact");
            assert_eq!(at_b.send_from, Seq(3), "{what}: the other direction is intact");
        }
        let (a, mut unsynced) = (attach(1, 5, 9, Some((2, 3))), b(Some((1, 9))));
        unsynced.synced = false;
        assert!(agree(&a, &unsynced).unwrap().compare && agree(&unsynced, &a).unwrap().compare);
    }

    #[test]
    fn tables_are_agreed_by_name_and_schema_and_compared_when_one_was_behind() {
        let (mut a, mut b) = (attach(1, 5, 9, Some((2, 3))), attach(2, 1, 4, Some((1, 4))));
        let even = |name, hash| table(name, hash, Standing::Even);
        a.tables = vec![even("same", 1), even("new", 1), even("other", 1)];
        b.tables = vec![even("same", 1), even("other", 2)];
        let at_a = agree(&a, &b).unwrap();
        assert_eq!(at_a.tables, BTreeSet::from(["same".to_owned()]));
        assert_eq!(at_a.held.len(), 2);
        assert!(!at_a.compare && at_a.partial.is_empty());
        assert_eq!(agree(&b, &a).unwrap().tables, at_a.tables);
        b.tables[0].standing = Standing::Behind;
        for agreement in [agree(&a, &b).unwrap(), agree(&b, &a).unwrap()] {
            assert_eq!(agreement.partial, BTreeSet::from(["same".to_owned()]));
            assert!(agreement.authorities.is_empty() && !agreement.compare);
        }
    }

    #[test]
    fn the_side_that_rewrote_a_table_as_the_active_one_counts() {
        use Standing::{Behind, Counts, Even, Yields};
        let (mut a, mut b) = (attach(1, 5, 9, Some((2, 3))), attach(2, 1, 4, Some((1, 4))));
        for (at_a, at_b, a_counts) in [
            (Counts, Even, Some(true)),
            (Counts, Yields, Some(true)),
            (Behind, Yields, Some(true)),
            (Yields, Even, Some(false)),
            (Counts, Counts, None),
            (Yields, Yields, None),
        ] {
            (a.tables, b.tables) = (vec![table("t", 1, at_a)], vec![table("t", 1, at_b)]);
            let seen = |mine: &Attach, theirs: &Attach| {
                agree(mine, theirs).unwrap().authorities.get("t").copied()
            };
            let side = |mine| if mine { Authority::Mine } else { Authority::Theirs };
            assert_eq!(seen(&a, &b), a_counts.map(side), "{at_a:?} {at_b:?}");
            assert_eq!(seen(&b, &a), a_counts.map(|a| side(!a)), "{at_a:?} {at_b:?}");
            // Whatever happened before, the one that is active now counts.
            b.open = true;
            assert_eq!(seen(&a, &b), Some(Authority::Theirs), "{at_a:?} {at_b:?}");
            assert_eq!(seen(&b, &a), Some(Authority::Mine), "{at_a:?} {at_b:?}");
            b.open = false;
        }
    }

    #[test]
    fn the_schema_of_the_one_active_server_is_followed() {
        let (mut a, mut b) = (attach(1, 5, 9, Some((2, 3))), attach(2, 1, 4, Some((1, 4))));
        a.open = true;
        assert_eq!(agree(&a, &b).unwrap().follows, None, "they are equal");
        b.schema = [1; 16];
        assert_eq!(agree(&a, &b).unwrap().follows, Some(Authority::Mine));
        assert_eq!(agree(&b, &a).unwrap().follows, Some(Authority::Theirs));
        b.open = true;
        assert_eq!(agree(&a, &b).unwrap().follows, None, "two are active");
    }

    #[test]
    fn a_missing_file_agrees_on_nothing() {
        let mut missing = attach(2, 1, 0, None);
        missing.log = None;
        assert_eq!(agree(&attach(1, 1, 0, None), &missing), None);
    }
}
