//! Licenses decide the first role of a server (spec A4).

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::time::WallTime;

/// What a license allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// The application itself.
    Base,
    /// The policy engine of the application.
    PolicyEngineBase,
    /// Standing by for another server.
    HighAvailability,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "Base",
            Self::PolicyEngineBase => "Policy Engine Base",
            Self::HighAvailability => "High Availability",
        })
    }
}

/// One license as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct License {
    /// What it allows.
    pub feature: Feature,
    /// Customer.
    pub issued_to: String,
    /// Number on the license, unique per feature.
    pub serial: String,
    /// Last moment it is valid; `None` is for ever.
    pub expires: Option<WallTime>,
}

/// The role a server is licensed for; it never changes without new licenses (spec B1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LicensedRole {
    /// Base + Policy Engine Base.
    Primary,
    /// High Availability alone.
    Secondary,
}

impl LicensedRole {
    /// The role the partner must have.
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

impl fmt::Display for LicensedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// Why a set of licenses gives no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LicenseError {
    /// Nothing valid is installed.
    #[error("no license is installed")]
    Missing,
    /// High Availability beside another license (spec A4).
    #[error("a High Availability license is installed beside {0}")]
    HighAvailabilityBeside(Feature),
    /// Half of what a primary needs.
    #[error("the {0} license is missing")]
    Incomplete(Feature),
}

impl LicenseError {
    /// What the administrator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Missing => {
                "install the licenses of this server with `ipicsha license install FILE`"
            }
            Self::HighAvailabilityBeside(_) => {
                "a primary holds Base and Policy Engine Base, a secondary High Availability alone: \
                 install the license set of one of the two with `ipicsha license install --replace FILE...`"
            }
            Self::Incomplete(_) => {
                "a primary holds both Base and Policy Engine Base: install the missing one with `ipicsha license install FILE`"
            }
        }
    }
}

/// Decides the licensed role from the licenses that are valid at `wall` (spec A4).
///
/// # Errors
/// The set is empty, mixed or incomplete.
pub fn licensed_role(licenses: &[License], wall: WallTime) -> Result<LicensedRole, LicenseError> {
    let features: BTreeSet<Feature> = licenses
        .iter()
        .filter(|license| license.expires.is_none_or(|expires| wall <= expires))
        .map(|license| license.feature)
        .collect();
    let has = |feature| features.contains(&feature);
    match (has(Feature::Base), has(Feature::PolicyEngineBase), has(Feature::HighAvailability)) {
        (false, false, false) => Err(LicenseError::Missing),
        (false, false, true) => Ok(LicensedRole::Secondary),
        (true, _, true) => Err(LicenseError::HighAvailabilityBeside(Feature::Base)),
        (false, true, true) => Err(LicenseError::HighAvailabilityBeside(Feature::PolicyEngineBase)),
        (true, true, false) => Ok(LicensedRole::Primary),
        (true, false, false) => Err(LicenseError::Incomplete(Feature::PolicyEngineBase)),
        (false, true, false) => Err(LicenseError::Incomplete(Feature::Base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn license(feature: Feature, expires: Option<i64>) -> License {
        License {
            feature,
            issued_to: "test".into(),
            serial: format!("{feature}"),
            expires: expires.map(WallTime),
        }
    }

    #[test]
    fn every_set_of_features_has_one_answer() {
        use Feature::*;
        let role = |features: &[Feature]| {
            let licenses: Vec<_> = features.iter().map(|f| license(*f, None)).collect();
            licensed_role(&licenses, WallTime(0))
        };
        assert_eq!(role(&[]), Err(LicenseError::Missing));
        assert_eq!(role(&[Base]), Err(LicenseError::Incomplete(PolicyEngineBase)));
        assert_eq!(role(&[PolicyEngineBase]), Err(LicenseError::Incomplete(Base)));
        assert_eq!(role(&[Base, PolicyEngineBase]), Ok(LicensedRole::Primary));
        assert_eq!(role(&[HighAvailability]), Ok(LicensedRole::Secondary));
        for beside in [Base, PolicyEngineBase] {
            assert_eq!(
                role(&[beside, HighAvailability]),
                Err(LicenseError::HighAvailabilityBeside(beside))
            );
        }
    }

    #[test]
    fn an_expired_license_counts_as_absent() {
        let licenses = [license(Feature::HighAvailability, Some(10))];
        assert_eq!(licensed_role(&licenses, WallTime(10)), Ok(LicensedRole::Secondary));
        assert_eq!(licensed_role(&licenses, WallTime(11)), Err(LicenseError::Missing));
    }
}
