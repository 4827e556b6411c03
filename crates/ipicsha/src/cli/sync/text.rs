//! Owners as people type them.
//!
//! Decides what a map of owners means. Must not change owners.

use ipicsha_files::sync::{OwnerMap, OwnerPattern, message::OwnerKind, owner_id};

use super::Refused;

fn id_of(option: &str, text: &str, group: bool) -> Result<u32, Refused> {
    let kind = if group { OwnerKind::Group } else { OwnerKind::User };
    owner_id(kind, text).ok_or_else(|| {
        let what = if group { "group" } else { "user" };
        Refused::usage(format!("--{option}: this machine has no {what} \"{text}\""))
    })
}

/// Everybody becomes `text`.
pub(super) fn owner_of(option: &str, text: &str, group: bool) -> Result<OwnerMap, Refused> {
    Ok(OwnerMap { from: OwnerPattern::Any, to: id_of(option, text, group)? })
}

/// `FROM:TO,...`, where FROM is a pattern, a number, a range of numbers, or `*`.
pub(super) fn owner_maps(option: &str, text: &str, group: bool) -> Result<Vec<OwnerMap>, Refused> {
    let one = |part: &str| {
        let (from, to) = part
            .split_once(':')
            .ok_or_else(|| Refused::usage(format!("--{option}: \"{part}\" is not FROM:TO")))?;
        let range = from.split_once('-').unwrap_or((from, from));
        let from = match (range.0.parse(), range.1.parse()) {
            _ if from == "*" => OwnerPattern::Any,
            (Ok(first), Ok(last)) => OwnerPattern::Numbers(first, last),
            _ => OwnerPattern::Name(from.to_owned()),
        };
        Ok(OwnerMap { from, to: id_of(option, to, group)? })
    };
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_patterns_ranges_and_numbers() {
        let maps = owner_maps("usermap", "0-99:root,*:7,www-*:0", false).expect("maps");
        let from: Vec<_> = maps.iter().map(|map| map.from.clone()).collect();
        let expected =
            [OwnerPattern::Numbers(0, 99), OwnerPattern::Any, OwnerPattern::Name("www-*".into())];
        assert_eq!(from, expected);
        assert_eq!(maps.iter().map(|map| map.to).collect::<Vec<_>>(), [0, 7, 0]);
        assert!(owner_maps("usermap", "x", false).is_err());
        assert!(owner_of("chown", "nobody of this name", false).is_err());
    }
}
