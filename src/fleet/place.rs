//! `PATTERN:PATH`: hosts, and a path on each of them. Pure.

/// Where on which hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub pattern: String,
    /// Absolute. Ends in `/` where it was meant as a folder.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not say where")]
pub struct NoPlace(String);

impl NoPlace {
    /// What was expected, as a sentence.
    pub fn next_step(&self) -> String {
        match self.0.strip_prefix('/') {
            Some(_) => "Name the hosts before the path, for example `postgres:/etc/motd`.".to_owned(),
            None => "Write `PATTERN:PATH` with an absolute path, for example `pg-1:/etc/motd`.".to_owned(),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = NoPlace;

    /// The path begins at the first `:/`, since a pattern may hold colons and a name may not hold a slash.
    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.split_once(":/") {
            Some((pattern, path)) if !pattern.is_empty() => {
                Ok(Self { pattern: pattern.to_owned(), path: format!("/{path}") })
            }
            _ => Err(NoPlace(text.to_owned())),
        }
    }
}

impl Place {
    /// The last part of the path.
    pub fn file_name(&self) -> Option<&str> {
        self.path.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_begins_at_the_first_colon_and_slash() {
        for (text, expected) in [
            ("pg-1:/etc/motd", Some(("pg-1", "/etc/motd"))),
            ("postgres:!pg-1:/a:/b", Some(("postgres:!pg-1", "/a:/b"))),
            ("all:/tmp/", Some(("all", "/tmp/"))),
            ("pg-1:motd", None),
            ("/etc/motd", None),
            (":/etc/motd", None),
        ] {
            let place = text.parse::<Place>().ok();
            let expected =
                expected.map(|(pattern, path)| Place { pattern: pattern.into(), path: path.into() });
            assert_eq!(place, expected, "{text}");
        }
        assert_eq!("a:/tmp/".parse::<Place>().unwrap().file_name(), None);
        assert_eq!("a:/tmp/x".parse::<Place>().unwrap().file_name(), Some("x"));
    }
}
