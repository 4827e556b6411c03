//! What `ha-status --json` says, with names for the parts that tests look at.

use serde_json::Value;

/// One snapshot, as one server sees the pair.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }

    /// Role of the server that was asked: `active`, `standby`, or nothing.
    pub fn role(&self) -> &str {
        self.text("/servers/0/role")
    }

    /// State of the server that was asked.
    pub fn state(&self) -> &str {
        self.text("/servers/0/state")
    }

    /// Reason of that state.
    pub fn reason(&self) -> &str {
        self.text("/servers/0/reason")
    }

    /// Software version of the server that was asked.
    pub fn version(&self) -> &str {
        self.text("/servers/0/version")
    }

    /// `Ready`, or why not.
    pub fn standby_status(&self) -> &str {
        self.text("/standby_status")
    }

    /// `configured` or `not configured`.
    pub fn ha(&self) -> &str {
        self.text("/ha")
    }

    /// `trusted` or `not trusted`.
    pub fn trust(&self) -> &str {
        self.text("/trust")
    }

    /// What the administrator should do.
    pub fn recommended_action(&self) -> &str {
        self.text("/recommended_action")
    }

    /// Epoch in force.
    pub fn epoch(&self) -> u64 {
        self.0["epoch"].as_u64().unwrap_or_default()
    }

    /// Whether the partner can be talked to.
    pub fn partner_reachable(&self) -> bool {
        self.0.pointer("/servers/1/reachable").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Age of the partner's last sign of life.
    pub fn heartbeat_age_ms(&self) -> Option<f64> {
        let age = self.0.pointer("/servers/1/heartbeat_age_seconds").and_then(Value::as_f64)?;
        Some(age * 1000.0)
    }

    /// The partner's clock minus that of the server that was asked, once it is known.
    pub fn clock_offset_seconds(&self) -> Option<f64> {
        self.0.pointer("/servers/1/clock_offset_seconds").and_then(Value::as_f64)
    }

    /// When the snapshot was taken, by the clock of the server.
    pub fn seen_ms(&self) -> Option<i64> {
        self.0["seen_unix_ms"].as_i64()
    }

    /// A split brain is seen.
    pub fn is_split(&self) -> bool {
        self.0["split_brain"].is_object()
    }

    /// What a server did in the split brain that is seen.
    pub fn timeline(&self, server: &str) -> Option<&Value> {
        let all = self.0["split_brain"]["timelines"].as_array();
        all.and_then(|all| all.iter().find(|timeline| timeline["server"] == server))
    }

    /// Under policy `witness`: why the witness does not answer, empty when it does.
    pub fn witness(&self) -> Option<&str> {
        self.0["witness"].as_str()
    }

    /// The alarm of this kind is raised.
    pub fn has_alarm(&self, kind: &str) -> bool {
        self.0["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["kind"] == kind))
    }

    /// Changes that wait to be sent, over all databases.
    pub fn queue(&self) -> u64 {
        let rows = self.0["databases"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().filter_map(|row| row["queue_records"].as_u64()).sum()
    }

    /// Nothing is being compared or repaired.
    pub fn no_repair_pending(&self) -> bool {
        self.0["pending_repairs"].as_array().is_some_and(Vec::is_empty)
    }

    /// Process ids of the running services.
    pub fn service_pids(&self) -> Vec<u32> {
        let rows = self.0["services"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().filter_map(|row| u32::try_from(row["pid"].as_u64()?).ok()).collect()
    }
}
