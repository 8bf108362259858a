//! One entry of a log, read from a line of the journal's JSON or of PostgreSQL's own log. Pure.

use crate::model::HostName;
use jiff::{Timestamp, civil::DateTime, tz::Offset};
use serde::Serialize;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub time: Timestamp,
    pub host: HostName,
    /// The unit, or `postgres`.
    pub source: String,
    /// syslog's: 0 to 7, 3 an error, 4 a warning.
    pub priority: u8,
    pub message: String,
}

/// Reads the lines of one source.
pub(super) struct Reader {
    host: HostName,
    journal: bool,
    /// Of a clock that lines do not say themselves.
    offset: Offset,
    /// A line without a time belongs to the one before.
    last: Option<(Timestamp, u8)>,
}

impl Reader {
    pub(super) fn new(host: HostName, journal: bool) -> Self {
        Self { host, journal, offset: Offset::UTC, last: None }
    }

    /// The entry that a line holds.
    pub(super) fn line(&mut self, line: &str) -> Option<Entry> {
        let line = line.trim_end();
        let entry = if self.journal { self.of_journal(line) } else { self.of_postgres(line) };
        entry.filter(|entry| !entry.message.is_empty())
    }

    fn of_journal(&self, line: &str) -> Option<Entry> {
        let fields: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| fields[name].as_str();
        let micros: i64 = text("__REALTIME_TIMESTAMP")?.parse().ok()?;
        // What systemd says of a unit has the unit in a field of its own.
        let unit = text("UNIT").or_else(|| text("_SYSTEMD_UNIT")).or_else(|| text("SYSLOG_IDENTIFIER"))?;
        Some(Entry {
            time: Timestamp::from_microsecond(micros).ok()?,
            host: self.host.clone(),
            source: unit.strip_suffix(".service").unwrap_or(unit).to_owned(),
            priority: text("PRIORITY").and_then(|priority| priority.parse().ok()).unwrap_or(6),
            message: message(&fields["MESSAGE"])?,
        })
    }

    fn of_postgres(&mut self, line: &str) -> Option<Entry> {
        if self.last.is_none()
            && let Ok(offset) = line.parse::<Numeric>()
        {
            self.offset = offset.0;
            return None;
        }
        let (time, priority, message) = match stamped(line, self.offset) {
            Some((time, rest)) => (time, severity(rest), rest.to_owned()),
            None => (self.last?.0, self.last?.1, line.to_owned()),
        };
        self.last = Some((time, priority));
        Some(Entry { time, host: self.host.clone(), source: "postgres".to_owned(), priority, message })
    }
}

/// A message is text, or its bytes where they are none.
fn message(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => None,
    }
}

/// `+0100`, as `date +%z` writes it.
struct Numeric(Offset);

impl std::str::FromStr for Numeric {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (sign, digits) = match text.as_bytes() {
            [b'+', ..] => (1, &text[1..]),
            [b'-', ..] => (-1, &text[1..]),
            _ => return Err(()),
        };
        let number: i32 = digits.parse().map_err(drop)?;
        let seconds = sign * (number / 100 * 3600 + number % 100 * 60);
        (digits.len() == 4).then(|| Offset::from_seconds(seconds).map(Self)).ok_or(())?.map_err(drop)
    }
}

/// `2026-01-01 11:00:00.500 UTC [1] ERROR:  text`: what `log_line_prefix` is unless somebody sets it.
fn stamped(line: &str, offset: Offset) -> Option<(Timestamp, &str)> {
    let mut words = line.splitn(4, ' ');
    let (date, clock, zone, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let at: DateTime = format!("{date}T{clock}").parse().ok()?;
    let offset = match zone {
        "UTC" | "GMT" => Offset::UTC,
        _ => offset,
    };
    Some((offset.to_timestamp(at).ok()?, rest))
}

fn severity(message: &str) -> u8 {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["PANIC:  "]) {
        0
    } else if says(&["FATAL:  ", "ERROR:  "]) {
        3
    } else if says(&["WARNING:  "]) {
        4
    } else {
        6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostName {
        "pg-1".parse().unwrap()
    }

    #[test]
    fn entries_of_the_journal() {
        let mut reader = Reader::new(host(), true);
        let line = r#"{"__REALTIME_TIMESTAMP":"1700000000123456","_SYSTEMD_UNIT":"etcd.service","PRIORITY":"4","MESSAGE":"slow"}"#;
        let entry = reader.line(line).unwrap();
        assert_eq!(entry.time.to_string(), "2023-11-14T22:13:20.123456Z");
        assert_eq!((entry.source.as_str(), entry.priority, entry.message.as_str()), ("etcd", 4, "slow"));
        let of_systemd = r#"{"__REALTIME_TIMESTAMP":"1","_SYSTEMD_UNIT":"init.scope","UNIT":"etcd.service","MESSAGE":[115,255]}"#;
        let entry = reader.line(of_systemd).unwrap();
        assert_eq!((entry.source.as_str(), entry.message.as_str()), ("etcd", "s\u{fffd}"));
        for useless in [
            "",
            "-- No entries --",
            r#"{"MESSAGE":"no time"}"#,
            r#"{"__REALTIME_TIMESTAMP":"1","UNIT":"u","MESSAGE":null}"#,
        ] {
            assert_eq!(reader.line(useless), None, "{useless}");
        }
    }

    #[test]
    fn lines_of_postgres() {
        let mut reader = Reader::new(host(), false);
        let lines = [
            "+0200",
            "2026-01-01 10:00:00.500 CEST [1] ERROR:  column does not exist",
            "\tSELECT",
            "2026-01-01 10:00:01 UTC [1] LOG:  ready",
            "",
        ];
        let read: Vec<_> = lines.iter().filter_map(|line| reader.line(&format!("{line}\n"))).collect();
        let told: Vec<_> =
            read.iter().map(|entry| format!("{} {} {}", entry.time, entry.priority, entry.message)).collect();
        assert_eq!(
            told,
            [
                "2026-01-01T08:00:00.5Z 3 [1] ERROR:  column does not exist",
                "2026-01-01T08:00:00.5Z 3 \tSELECT",
                "2026-01-01T10:00:01Z 6 [1] LOG:  ready",
            ]
        );
        assert_eq!(Reader::new(host(), false).line("continued"), None, "nothing is known of its time");
    }
}
