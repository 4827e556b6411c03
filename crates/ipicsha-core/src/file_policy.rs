//! Which of two versions of an entry stays.
//!
//! Decides from what each version knew of the other; times decide only between versions that were
//! made without knowing of each other (spec C1, C2, D5). Must not know how an entry is stored or
//! moved.

use crate::{
    file::{Known, Version},
    license::LicensedRole,
};

/// What happens to one entry on this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileDecision {
    /// Both have the same: what either knows, both know from now on.
    Same,
    /// The partner's was made with knowledge of the own: take it.
    Take,
    /// The own was made with knowledge of the partner's and is on its way: nothing to do.
    Keep,
    /// Made without knowing of each other, and the partner's wins: put the own aside, then take it
    /// with the knowledge of both.
    Lose,
    /// Made without knowing of each other, and the own wins. Nothing to do: the partner, who has
    /// the one that loses, puts it aside.
    Win,
}

/// Decides about an entry that is `local` here and `remote` at the partner; `role` is this
/// server's licensed role.
pub fn decide(
    local: (&Version, Known),
    remote: (&Version, Known),
    role: LicensedRole,
) -> FileDecision {
    let ((mine, mine_known), (theirs, theirs_known)) = (local, remote);
    if mine.is_same(theirs) {
        return FileDecision::Same;
    }
    match (mine_known.covers(theirs_known), theirs_known.covers(mine_known)) {
        (true, false) => FileDecision::Keep,
        (false, true) => FileDecision::Take,
        (true, true) | (false, false) => {
            if is_newer(mine, theirs, role) {
                FileDecision::Win
            } else {
                FileDecision::Lose
            }
        }
    }
}

/// Whether `local` wins against another concurrent version.
fn is_newer(local: &Version, remote: &Version, role: LicensedRole) -> bool {
    match (local.contents.is_absent(), remote.contents.is_absent()) {
        // Somebody worked on it after, or while, it was deleted: work is worth more.
        (false, true) => true,
        (true, false) => false,
        (true, true) | (false, false) => {
            let own = (local.mtime_ns, role == LicensedRole::Primary);
            own > (remote.mtime_ns, role == LicensedRole::Secondary)
        }
    }
}

/// What `repair` does with one entry; it is led by the primary (spec D5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRepair {
    /// Nothing.
    Equal,
    /// The primary's version goes to the secondary.
    ToSecondary,
    /// The secondary's version is newer and goes to the primary.
    ToPrimary,
    /// Only the secondary has it: it is deleted there, and kept aside.
    DeleteAtSecondary,
}

/// Plans the repair of one entry (spec D5).
pub fn plan_repair(primary: &Version, secondary: &Version) -> FileRepair {
    if primary.is_same(secondary) {
        return FileRepair::Equal;
    }
    match (primary.contents.is_absent(), secondary.contents.is_absent()) {
        (true, _) => FileRepair::DeleteAtSecondary,
        (false, true) => FileRepair::ToSecondary,
        (false, false) if secondary.mtime_ns > primary.mtime_ns => FileRepair::ToPrimary,
        (false, false) => FileRepair::ToSecondary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Contents;

    fn file(content: u8, mtime_ns: i64) -> Version {
        let contents = Contents::File { size: 1, hash: [content; 32] };
        Version { contents, mode: 0o644, ..Version::absent(mtime_ns) }
    }

    /// Every kind of version there is, with times that tie and times that do not.
    fn versions() -> Vec<Version> {
        let directory =
            |t| Version { contents: Contents::Directory, mode: 0o755, ..Version::absent(t) };
        vec![
            Version::absent(1),
            Version::absent(2),
            file(1, 1),
            file(1, 2),
            file(2, 1),
            file(2, 2),
            directory(1),
            directory(2),
        ]
    }

    const OLD: Known = Known { primary: 1, secondary: 1 };
    const AT_PRIMARY: Known = Known { primary: 2, secondary: 1 };
    const AT_SECONDARY: Known = Known { primary: 1, secondary: 2 };
    const BOTH: Known = Known { primary: 2, secondary: 2 };

    #[test]
    fn both_servers_always_end_with_the_same_version() {
        use FileDecision::{Keep, Lose, Same, Take, Win};
        for (known_a, known_b) in [OLD, AT_PRIMARY, AT_SECONDARY, BOTH]
            .into_iter()
            .flat_map(|a| [OLD, AT_PRIMARY, AT_SECONDARY, BOTH].map(|b| (a, b)))
        {
            for a in versions() {
                for b in versions() {
                    let (at_a, at_b) = ((&a, known_a), (&b, known_b));
                    let at_primary = decide(at_a, at_b, LicensedRole::Primary);
                    let at_secondary = decide(at_b, at_a, LicensedRole::Secondary);
                    let expected = match at_primary {
                        Same => Same,
                        Take => Keep,
                        Keep => Take,
                        Lose => Win,
                        Win => Lose,
                    };
                    assert_eq!(at_secondary, expected, "{a:?} {b:?} {known_a:?} {known_b:?}");
                }
            }
        }
    }

    #[test]
    fn the_version_that_knew_the_other_wins_whatever_its_time() {
        let (old, restored, gone) = (file(1, 9), file(2, 1), Version::absent(3));
        for role in [LicensedRole::Primary, LicensedRole::Secondary] {
            for later in [&restored, &gone] {
                let decision = decide((&old, OLD), (later, AT_PRIMARY), role);
                assert_eq!(decision, FileDecision::Take);
                let decision = decide((later, BOTH), (&old, AT_SECONDARY), role);
                assert_eq!(decision, FileDecision::Keep);
            }
        }
    }

    #[test]
    fn without_knowledge_the_newer_wins_then_the_primary_and_work_beats_deletion() {
        let (primary, secondary) = (LicensedRole::Primary, LicensedRole::Secondary);
        let at_primary =
            |a: &Version, b: &Version| decide((a, AT_PRIMARY), (b, AT_SECONDARY), primary);
        let at_secondary =
            |a: &Version, b: &Version| decide((a, AT_SECONDARY), (b, AT_PRIMARY), secondary);
        assert_eq!(at_secondary(&file(1, 2), &file(2, 1)), FileDecision::Win);
        assert_eq!(at_primary(&file(1, 1), &file(2, 1)), FileDecision::Win, "a tie");
        assert_eq!(at_secondary(&file(1, 1), &file(2, 1)), FileDecision::Lose, "a tie");
        assert_eq!(at_secondary(&file(1, 1), &Version::absent(9)), FileDecision::Win);
        assert_eq!(at_primary(&Version::absent(9), &file(1, 1)), FileDecision::Lose);
    }

    #[test]
    fn spec_d5_repair_takes_the_primarys_listing_and_the_newer_contents() {
        let nothing = Version::absent(0);
        assert_eq!(plan_repair(&file(1, 1), &file(1, 1)), FileRepair::Equal);
        assert_eq!(plan_repair(&file(1, 1), &nothing), FileRepair::ToSecondary);
        assert_eq!(plan_repair(&nothing, &file(1, 1)), FileRepair::DeleteAtSecondary);
        assert_eq!(plan_repair(&file(1, 1), &file(2, 2)), FileRepair::ToPrimary);
        assert_eq!(plan_repair(&file(1, 2), &file(2, 2)), FileRepair::ToSecondary, "a tie");
    }
}
