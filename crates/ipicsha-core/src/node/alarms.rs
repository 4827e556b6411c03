//! Which server sends word of an alarm: of what both see only one does (spec F4).

use super::Node;
use crate::{license::LicensedRole, state::Role, status::Alarm, time::MonoTime};

impl Alarm {
    /// What serves is in danger, or nothing does: somebody is to be woken.
    pub fn is_critical(&self) -> bool {
        match self {
            Self::SplitBrain
            | Self::AddressMissing { .. }
            | Self::RoleChangeFailed { .. }
            | Self::TakeoverNeeded { .. }
            | Self::TakeoversHeld { .. }
            | Self::Fenced
            | Self::CriticalServiceDown { .. } => true,
            Self::PartnerDown
            | Self::OneWay
            | Self::ClocksApart
            | Self::TimeNotSynced
            | Self::VersionDiffers
            | Self::LogFilling { .. }
            | Self::LogFull { .. }
            | Self::DatabaseHeld
            | Self::RepairDue
            | Self::License { .. }
            | Self::CertificateEnds { .. }
            | Self::DirectoryHeld { .. }
            | Self::DeletionsHeld { .. }
            | Self::ChangesLate { .. }
            | Self::WitnessDown { .. }
            | Self::RoleMoved { .. }
            | Self::Paused { .. } => false,
        }
    }

    /// Both servers see the same.
    fn is_of_pair(&self) -> bool {
        match self {
            Self::SplitBrain
            | Self::ClocksApart
            | Self::VersionDiffers
            | Self::RepairDue
            | Self::LogFull { .. }
            | Self::Paused { .. } => true,
            Self::AddressMissing { .. }
            | Self::PartnerDown
            | Self::OneWay
            | Self::TimeNotSynced
            | Self::LogFilling { .. }
            | Self::DatabaseHeld
            | Self::RoleChangeFailed { .. }
            | Self::TakeoverNeeded { .. }
            | Self::License { .. }
            | Self::CertificateEnds { .. }
            | Self::DirectoryHeld { .. }
            | Self::DeletionsHeld { .. }
            | Self::ChangesLate { .. }
            | Self::CriticalServiceDown { .. }
            | Self::WitnessDown { .. }
            | Self::Fenced
            | Self::RoleMoved { .. }
            | Self::TakeoversHeld { .. } => false,
        }
    }
}

impl Node {
    /// What is wrong now, as last recorded.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Whether this server sends word of `alarm`: of what both see the only active one does, or else
    /// the primary; what the partner cannot be asked about is sent here.
    pub fn sends(&self, alarm: &Alarm, now: MonoTime) -> bool {
        let Some(partner) = self.reachable_report(now).filter(|_| alarm.is_of_pair()) else {
            return true;
        };
        let active = |role: Option<Role>| role == Some(Role::Active);
        match (active(self.role()), active(partner.role)) {
            (true, false) => true,
            (false, true) => false,
            (true, true) | (false, false) => self.rank() != Some(LicensedRole::Secondary),
        }
    }
}
