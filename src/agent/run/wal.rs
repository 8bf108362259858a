//! Where the WAL of a server that has crashed ends, as `pg_waldump` finds it.

use crate::{
    agent::postgres::Settings,
    model::{Lsn, Timeline},
};
use std::{process::Stdio, time::Duration};
use tokio::{process::Command, time::timeout};

/// It reads what was written since the last look, about a second's worth. Longer is not worth waiting for.
const LIMIT: Duration = Duration::from_millis(400);

/// The end of the last whole record after `from`. The server and all its children must be gone. Errors:
/// it cannot be told.
pub async fn end(settings: &Settings, timeline: Timeline, from: Lsn) -> Result<Lsn, String> {
    let mut command = Command::new(settings.tool("pg_waldump"));
    command.env("LC_ALL", "C").arg("--quiet").arg("--path").arg(settings.data_dir.join("pg_wal"));
    command.arg("--timeline").arg(timeline.to_string()).arg("--start").arg(from.to_string());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.map_err(|_| "pg_waldump takes too long")?;
    let output = output.map_err(|error| format!("cannot run pg_waldump: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    parse(&said, from).ok_or_else(|| format!("pg_waldump does not tell: {}", said.trim()))
}

/// `pg_waldump` reads until a record is not valid and says where that one would begin.
fn parse(said: &str, from: Lsn) -> Option<Lsn> {
    if said.contains("could not find a valid record after") {
        // Nothing was written since.
        return Some(from);
    }
    let (_, reason) = said.split_once("error in WAL record at ")?;
    let (_, reason) = reason.split_once(": ")?;
    let position = |at: &str| -> Option<Lsn> {
        at.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '/').collect::<String>().parse().ok()
    };
    reason.split(" at ").skip(1).filter_map(position).last().filter(|end| *end >= from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_pg_waldump() {
        let from = Lsn(0x403_0000);
        for (said, expected) in [
            (
                "pg_waldump: error: error in WAL record at 0/403FD98: invalid record length at 0/403FDF8: wanted 24, got 0",
                Some(0x403_FDF8),
            ),
            (
                "pg_waldump: error: error in WAL record at 0/403FD98: invalid record length at 0/403FDF8: expected at least 24, got 0",
                Some(0x403_FDF8),
            ),
            (
                "pg_waldump: error: error in WAL record at 0/403FD98: record with incorrect prev-link 0/2000028 at 0/403FDF8",
                Some(0x403_FDF8),
            ),
            ("pg_waldump: error: could not find a valid record after 0/4030000", Some(0x403_0000)),
            (
                "pg_waldump: error: error in WAL record at 0/403FD98: invalid magic number 0000 in WAL segment 000000010000000000000005, LSN 0/5000000, offset 0",
                None,
            ),
            ("pg_waldump: error: could not open directory", None),
            ("", None),
        ] {
            assert_eq!(parse(said, from), expected.map(Lsn), "{said}");
        }
    }
}
