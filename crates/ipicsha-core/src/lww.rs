//! Last writer wins: which of two versions of a record stays.
//!
//! Decides from log positions first: a change made with knowledge of the other is later, whatever
//! the clocks say. Stamps decide only between truly concurrent changes. Must not know what a
//! record is or where it is stored.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{id::Seq, license::LicensedRole, time::WallTime};

/// When and by which server a change was made; a total order in which the later is greater and
/// the primary wins a tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The server's clock at the change.
    pub wall: WallTime,
    /// The server's licensed role.
    pub role: LicensedRole,
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |role| match role {
            LicensedRole::Primary => 1,
            LicensedRole::Secondary => 0,
        };
        (self.wall, rank(self.role)).cmp(&(other.wall, rank(other.role)))
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// This server's own newest change of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its position in this server's log.
    pub seq: Seq,
    /// Its stamp.
    pub stamp: Stamp,
}

/// What happens to an incoming change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody changed it here since the sender knew our version: apply, nothing is lost.
    Apply,
    /// Concurrent and later: apply, the own version goes to the journal.
    Replace,
    /// Concurrent and earlier: the own version stays, the incoming one goes to the journal.
    Keep,
}

/// Decides about `incoming`, sent by a server that had applied our log up to `base`.
pub fn decide(own: Option<Own>, base: Seq, incoming: Stamp) -> Decision {
    match own {
        Some(own) if own.seq > base && own.stamp > incoming => Decision::Keep,
        Some(own) if own.seq > base => Decision::Replace,
        Some(_) | None => Decision::Apply,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn role() -> impl Strategy<Value = LicensedRole> {
        prop_oneof![Just(LicensedRole::Primary), Just(LicensedRole::Secondary)]
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        // A narrow range of times, so that ties are frequent.
        (-3i64..3, role()).prop_map(|(wall, role)| Stamp { wall: WallTime(wall), role })
    }

    fn own(seq: i64, stamp: Stamp) -> Option<Own> {
        Some(Own { seq: Seq(seq), stamp })
    }

    proptest! {
        #[test]
        fn both_servers_keep_the_same_version(
            a in -3i64..3, b in -3i64..3, seq_a in 1i64..5, seq_b in 1i64..5,
        ) {
            let primary = Stamp { wall: WallTime(a), role: LicensedRole::Primary };
            let secondary = Stamp { wall: WallTime(b), role: LicensedRole::Secondary };
            let at_primary = decide(own(seq_a, primary), Seq(0), secondary);
            let at_secondary = decide(own(seq_b, secondary), Seq(0), primary);
            match at_primary {
                Decision::Keep => prop_assert_eq!(at_secondary, Decision::Replace),
                Decision::Replace => prop_assert_eq!(at_secondary, Decision::Keep),
                Decision::Apply => prop_assert!(false, "concurrent changes are a conflict"),
            }
        }

        #[test]
        fn a_change_that_knew_ours_wins_whatever_the_clocks_say(
            seq in 1i64..9, later in 0i64..9, mine in stamp(), incoming in stamp(),
        ) {
            let decision = decide(own(seq, mine), Seq(seq + later), incoming);
            prop_assert_eq!(decision, Decision::Apply);
        }

        #[test]
        fn the_order_of_stamps_is_total(a in stamp(), b in stamp(), c in stamp()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a == b, a.cmp(&b) == Ordering::Equal);
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
            prop_assert!(a.max(b).max(c) == c.max(a).max(b), "the winner does not depend on order");
        }
    }

    #[test]
    fn the_primary_wins_a_tie_and_an_untouched_record_is_replaced() {
        let at = |wall, role| Stamp { wall: WallTime(wall), role };
        let (primary, secondary) = (LicensedRole::Primary, LicensedRole::Secondary);
        assert_eq!(decide(None, Seq(0), at(1, secondary)), Decision::Apply);
        assert_eq!(decide(own(1, at(5, primary)), Seq(0), at(5, secondary)), Decision::Keep);
        assert_eq!(decide(own(1, at(5, secondary)), Seq(0), at(5, primary)), Decision::Replace);
        assert_eq!(decide(own(1, at(5, primary)), Seq(0), at(6, secondary)), Decision::Replace);
    }
}
