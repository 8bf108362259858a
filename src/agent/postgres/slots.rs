//! Physical replication slots.

use std::collections::BTreeSet;

use super::{Error, Server, connection};

/// What was done to slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotChanges {
    pub created: Vec<String>,
    pub dropped: Vec<String>,
    /// Unwanted, and still in use by a walsender.
    pub busy: Vec<String>,
}

/// The slot of a member, under the name that Patroni gives it: lower case, `-` and `.` as `_`, any
/// other character as its code, at most 63 bytes.
pub fn slot_name(member: &str) -> String {
    let mut name: String = member
        .to_lowercase()
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '_' => c.to_string(),
            '-' | '.' => "_".to_owned(),
            other => format!("u{:04}", other as u32),
        })
        .collect();
    name.truncate(63);
    name
}

impl Server {
    /// Makes the physical slots `wanted` exist, reserving WAL from now on, and drops those for which
    /// `disposable` says so. Logical slots are never touched.
    pub async fn sync_slots(
        &self,
        wanted: &BTreeSet<String>,
        disposable: impl Fn(&str) -> bool,
    ) -> Result<SlotChanges, Error> {
        let present = self
            .with_monitor("reading slots", async |session: &connection::Session| {
                let query =
                    "SELECT slot_name::text, active FROM pg_replication_slots WHERE slot_type = 'physical'";
                let rows = session.client.query(query, &[]).await?;
                Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, bool)>>())
            })
            .await?;
        let mut changes = SlotChanges::default();
        for name in wanted.iter().filter(|name| !present.iter().any(|(slot, _)| slot == *name)) {
            self.with_monitor("creating a slot", async |session: &connection::Session| {
                session
                    .client
                    .execute("SELECT pg_create_physical_replication_slot($1::text::name, true)", &[name])
                    .await
            })
            .await?;
            changes.created.push(name.clone());
        }
        for (name, active) in
            present.into_iter().filter(|(name, _)| !wanted.contains(name) && disposable(name))
        {
            if active {
                changes.busy.push(name);
                continue;
            }
            self.with_monitor("dropping a slot", async |session: &connection::Session| {
                // A slot that came into use meanwhile is left alone.
                let query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                             WHERE slot_name = $1::text::name AND NOT active";
                session.client.execute(query, &[&name]).await
            })
            .await?;
            changes.dropped.push(name);
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::slot_name;

    #[test]
    fn slots_are_named_after_members() {
        assert_eq!(slot_name("postgresql1"), "postgresql1");
        assert_eq!(slot_name("PG-1.example"), "pg_1_example");
        assert_eq!(slot_name("a b"), "au0032b");
        assert_eq!(slot_name(&"x".repeat(80)).len(), 63);
    }
}
