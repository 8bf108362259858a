//! `HOST:PORT` as configuration files write it.

use std::fmt;

/// A host, or several separated by commas where something listens, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads `host:port`, `host`, `[v6]:port`, `*:port`, `a,b:port`. `None`: not an address.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let text = text.trim();
        let (host, port) = match text.rsplit_once(':') {
            // More than one colon and no brackets: an IPv6 address without a port.
            Some((before, _)) if before.contains(':') && !before.ends_with(']') && !before.contains(',') => {
                (text, None)
            }
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let valid = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@".contains(c));
        (valid && port > 0).then(|| Self { host: host.to_owned(), port })
    }

    /// Names all addresses of this machine rather than one of them.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "*" | "0.0.0.0" | "::") || self.host.contains(',')
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, host, port) in [
            ("10.0.0.1:5433", "10.0.0.1", 5433),
            ("pg1", "pg1", 5432),
            ("*:5432", "*", 5432),
            ("[fd00::1]:5433", "fd00::1", 5433),
            ("[fd00::1]", "fd00::1", 5432),
            ("fd00::1", "fd00::1", 5432),
            ("127.0.0.1,10.0.0.1:5433", "127.0.0.1,10.0.0.1", 5433),
        ] {
            let address = Address::parse(text, 5432);
            assert_eq!(address, Some(Address { host: host.to_owned(), port }), "{text}");
        }
        for text in ["", ":5432", "pg1:port", "pg1:0", "http://pg1:8008", "pg 1:5432"] {
            assert_eq!(Address::parse(text, 5432), None, "{text}");
        }
    }
}
