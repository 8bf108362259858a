//! Lines of many hosts, each behind its host's name. The names are coloured on a terminal.

use super::{DIM, line, note};
use crate::model::HostName;
use anstyle::{AnsiColor, Style};
use std::collections::HashMap;

const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Green,
    AnsiColor::Yellow,
    AnsiColor::Blue,
    AnsiColor::Magenta,
    AnsiColor::BrightCyan,
];

/// The names in front of lines: as wide as the widest, each in a colour of its own.
pub struct Names {
    width: usize,
    colours: HashMap<HostName, Style>,
}

impl Names {
    pub fn of(hosts: &[HostName]) -> Self {
        let width = hosts.iter().map(|host| host.as_str().len()).max().unwrap_or_default();
        let colour =
            |(index, host): (usize, &HostName)| (host.clone(), COLOURS[index % COLOURS.len()].on_default());
        Self { width, colours: hosts.iter().enumerate().map(colour).collect() }
    }

    /// The name, padded and coloured.
    pub fn show(&self, host: &HostName) -> String {
        let style = self.colours.get(host).copied().unwrap_or_default();
        format!("{style}{host:width$}{style:#}", width = self.width)
    }
}

/// Makes whole lines of pieces as they arrive.
pub struct Lines {
    names: Names,
    /// The beginning of a line whose end has not come, per host and output.
    open: HashMap<(HostName, bool), Vec<u8>>,
}

impl Lines {
    pub fn of(hosts: &[HostName]) -> Self {
        Self { names: Names::of(hosts), open: HashMap::new() }
    }

    /// Writes the lines that `bytes` complete: what the host said to its standard error to ours.
    pub fn write(&mut self, host: &HostName, error: bool, bytes: &[u8]) {
        let open = self.open.entry((host.clone(), error)).or_default();
        open.extend_from_slice(bytes);
        let Some(end) = open.iter().rposition(|byte| *byte == b'\n') else { return };
        let whole: Vec<u8> = open.drain(..=end).collect();
        for text in whole[..end].split(|byte| *byte == b'\n') {
            self.names.print(host, error, text);
        }
    }

    /// Writes lines that were never ended.
    pub fn finish(&mut self) {
        let mut open: Vec<_> = self.open.drain().filter(|(_, text)| !text.is_empty()).collect();
        open.sort();
        for ((host, error), text) in open {
            self.names.print(&host, error, &text);
        }
    }
}

impl Names {
    fn print(&self, host: &HostName, error: bool, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let text = format!("{} {DIM}|{DIM:#} {}", self.show(host), text.trim_end_matches('\r'));
        match error {
            true => note(&text),
            false => line(&text),
        }
    }
}
