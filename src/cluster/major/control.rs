//! What `pg_controldata` prints of a data directory, as far as an upgrade needs it. Pure.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub system_identifier: String,
    /// `shut down`, `shut down in recovery`, `in production`, ...
    pub state: String,
    /// Where the last checkpoint is.
    pub checkpoint: String,
    /// The next transaction that writes gets this number.
    pub next_xid: String,
}

impl FromStr for Control {
    /// What is missing.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let field = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found
                .map(|value| value.trim().to_owned())
                .ok_or_else(|| format!("pg_controldata gives no `{name}`"))
        };
        Ok(Self {
            system_identifier: field("Database system identifier")?,
            state: field("Database cluster state")?,
            checkpoint: field("Latest checkpoint location")?,
            next_xid: field("Latest checkpoint's NextXID")?,
        })
    }
}

/// The standbys that were shut down before they had all of the primary's WAL, each with what it has.
pub fn behind(primary: &Control, standbys: &[(String, Control)]) -> Vec<String> {
    let lacks = standbys.iter().filter(|(_, control)| control.checkpoint != primary.checkpoint);
    lacks
        .map(|(name, control)| {
            format!(
                "{name} ends at {} ({}), the primary at {}",
                control.checkpoint, control.state, primary.checkpoint
            )
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn control(state: &str, checkpoint: &str, next_xid: &str) -> Control {
        Control {
            system_identifier: "7".to_owned(),
            state: state.to_owned(),
            checkpoint: checkpoint.to_owned(),
            next_xid: next_xid.to_owned(),
        }
    }

    #[test]
    fn reads_what_pg_controldata_prints() {
        let text = "pg_control version number:            1300
Database system identifier:           7575028021385175078
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's NextXID:          0:741
";
        let expected = Control {
            system_identifier: "7575028021385175078".to_owned(),
            ..control("shut down", "0/3000028", "0:741")
        };
        assert_eq!(text.parse(), Ok(expected));
        assert_eq!(
            "Database cluster state: in production".parse::<Control>(),
            Err("pg_controldata gives no `Database system identifier`".to_owned())
        );
    }

    #[test]
    fn standbys_that_lack_the_last_checkpoint_are_named() {
        let primary = control("shut down", "0/50", "0:741");
        let standbys = [
            ("b".to_owned(), control("shut down in recovery", "0/50", "0:741")),
            ("c".to_owned(), control("shut down in recovery", "0/40", "0:740")),
        ];
        assert_eq!(
            behind(&primary, &standbys),
            ["c ends at 0/40 (shut down in recovery), the primary at 0/50"]
        );
    }
}
