//! The epoch: raised at every activation, persisted before it takes effect, carried by every beat.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::license::LicensedRole;

/// Number of an activation. Primaries use even numbers and secondaries odd ones, so that the two
/// servers can never be active under the same epoch, not even when neither hears the other.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The smallest epoch above this one that `role` may use.
    pub fn next_for(self, role: LicensedRole) -> Self {
        let parity = match role {
            LicensedRole::Primary => 0,
            LicensedRole::Secondary => 1,
        };
        let next = self.0.saturating_add(1);
        Self(if next % 2 == parity { next } else { next.saturating_add(1) })
    }

    /// Whether `role` may use it.
    pub fn is_of(self, role: LicensedRole) -> bool {
        Self(self.0.saturating_sub(1)).next_for(role) == self
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_epoch_is_higher_and_belongs_to_one_server() {
        for current in 0..10 {
            let primary = Epoch(current).next_for(LicensedRole::Primary);
            let secondary = Epoch(current).next_for(LicensedRole::Secondary);
            assert!(primary.0 > current && secondary.0 > current);
            assert!(primary.0 <= current + 2 && secondary.0 <= current + 2);
            assert_ne!(primary, secondary);
            assert!(
                primary.is_of(LicensedRole::Primary) && !primary.is_of(LicensedRole::Secondary)
            );
            assert!(secondary.is_of(LicensedRole::Secondary));
        }
    }
}
