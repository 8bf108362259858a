//! Package archives and the keys that sign them.

use super::{
    Presence, apt_get,
    placement::{Placement, holds},
};
use crate::{
    model::Digest,
    remote::{
        fetch::fetch,
        files::{self, Attributes},
        host::{Context, Finding, Host, Manage, failure_with},
        memory::{Thing, Trace},
        protocol::Failure,
    },
};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// `apt_repository`: an archive as a deb822 file, `/etc/apt/sources.list.d/NAME.sources`, with its key
/// in `/etc/apt/keyrings`. The lists are refreshed when something changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AptRepository {
    /// The file's name without its ending.
    #[serde(alias = "filename")]
    pub name: String,
    /// One line of `sources.list` (`deb [options] uri suite component...`) instead of `uris` and `suites`.
    #[serde(default)]
    pub repo: Option<String>,
    #[serde(default)]
    pub types: Vec<String>,
    #[serde(default)]
    pub uris: Vec<String>,
    #[serde(default)]
    pub suites: Vec<String>,
    #[serde(default)]
    pub components: Vec<String>,
    #[serde(default)]
    pub architectures: Vec<String>,
    /// The armoured public key itself.
    #[serde(default)]
    pub key: Option<String>,
    /// Where to fetch the key; `key_sha256` says what it must be.
    #[serde(default)]
    pub key_url: Option<String>,
    #[serde(default)]
    pub key_sha256: Option<Digest>,
    /// A key file that is on the target already.
    #[serde(default)]
    pub signed_by: Option<String>,
    /// Further deb822 fields, such as `Check-Valid-Until: no`.
    #[serde(default)]
    pub options: IndexMap<String, String>,
    #[serde(default)]
    pub state: Presence,
    #[serde(default = "super::yes")]
    pub update_cache: bool,
}

impl AptRepository {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.contains(|letter: char| letter == '/' || letter.is_whitespace())
        {
            return Err("`name`: expected a file name without directory".to_owned());
        }
        if self.state == Presence::Absent {
            return Ok(());
        }
        match (&self.repo, self.uris.is_empty() || self.suites.is_empty()) {
            (None, true) => Err("expected `uris` and `suites`, or `repo`".to_owned()),
            (Some(_), false) => Err("expected either `repo` or `uris`, not both".to_owned()),
            _ if [self.key.is_some(), self.key_url.is_some(), self.signed_by.is_some()]
                .iter()
                .filter(|given| **given)
                .count()
                > 1 =>
            {
                Err("expected one of `key`, `key_url`, `signed_by`".to_owned())
            }
            _ if self.key_url.is_some() && self.key_sha256.is_none() => {
                Err("`key_sha256` is missing: a key that is fetched must be known beforehand".to_owned())
            }
            _ => self.text(None).map(drop),
        }
    }
}

const KEYRINGS: &str = "/etc/apt/keyrings";

impl AptRepository {
    fn path(&self) -> String {
        format!("/etc/apt/sources.list.d/{}.sources", self.name)
    }

    fn key_paths(&self) -> [String; 2] {
        ["asc", "gpg"].map(|ending| format!("{KEYRINGS}/{}.{ending}", self.name))
    }

    fn key_digest(&self) -> Option<Digest> {
        self.key_sha256.or(self.key.as_ref().map(|key| Digest::of(key.as_bytes())))
    }

    /// Where the key is, or is to be: apt goes by the ending, `asc` for armoured keys.
    fn key_path(&self, host: &Host) -> Option<String> {
        let digest = self.key_digest()?;
        let [armoured, binary] = self.key_paths();
        let is_binary = self.key_url.as_ref().is_some_and(|url| url.ends_with(".gpg"));
        if holds(host, &binary, digest) || is_binary && !holds(host, &armoured, digest) {
            return Some(binary);
        }
        Some(armoured)
    }

    /// The file's text; a `repo` line that can't be read is refused.
    fn text(&self, key_path: Option<&str>) -> Result<String, String> {
        let mut fields: IndexMap<String, String> = IndexMap::new();
        let mut field = |name: &str, words: &[String]| {
            if !words.is_empty() {
                fields.insert(name.to_owned(), words.join(" "));
            }
        };
        match &self.repo {
            Some(line) => from_line(line, &mut field)?,
            None => {
                let deb = ["deb".to_owned()];
                field("Types", if self.types.is_empty() { &deb } else { &self.types });
                field("URIs", &self.uris);
                field("Suites", &self.suites);
                field("Components", &self.components);
                field("Architectures", &self.architectures);
            }
        }
        if let Some(key) = key_path.or(self.signed_by.as_deref()) {
            field("Signed-By", &[key.to_owned()]);
        }
        for (name, value) in &self.options {
            fields.insert(name.clone(), value.clone());
        }
        Ok(fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect())
    }

    async fn put_key(&self, context: &Context<'_>, digest: Digest) -> Result<(), Failure> {
        let host = context.host;
        if self.key_paths().iter().any(|path| holds(host, path, digest)) {
            return Ok(());
        }
        let key = match (&self.key, &self.key_url) {
            (Some(key), _) => key.clone().into_bytes(),
            (None, Some(url)) => fetch(context, url, digest).await?,
            (None, None) => return Ok(()),
        };
        let [armoured, binary] = self.key_paths();
        let path = if key.starts_with(b"-----BEGIN") { armoured } else { binary };
        let folder = Attributes { mode: Some(0o755), ..Attributes::default() };
        files::make_directory(&host.path(KEYRINGS), folder)?;
        Placement::public(&path).apply(context, &key).await
    }
}

/// Takes a line of `sources.list` apart.
fn from_line(line: &str, field: &mut impl FnMut(&str, &[String])) -> Result<(), String> {
    let wrong = || format!("`repo`: expected `deb [options] uri suite component...`, found `{line}`");
    let (kind, rest) = line.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
    if !["deb", "deb-src"].contains(&kind) {
        return Err(wrong());
    }
    let mut rest = rest.trim_start();
    let mut options = "";
    if let Some(after) = rest.strip_prefix('[') {
        (options, rest) = after.split_once(']').ok_or_else(wrong)?;
    }
    let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    let [uri, suite, components @ ..] = words.as_slice() else { return Err(wrong()) };
    field("Types", &[kind.to_owned()]);
    field("URIs", std::slice::from_ref(uri));
    field("Suites", std::slice::from_ref(suite));
    field("Components", components);
    for option in options.split_whitespace() {
        let name = match option.split_once('=').ok_or_else(wrong)? {
            ("arch", _) => "Architectures",
            ("signed-by", _) => "Signed-By",
            ("trusted", _) => "Trusted",
            ("check-valid-until", _) => "Check-Valid-Until",
            (other, _) => return Err(format!("`repo`: the option `{other}` is not known; use `options`")),
        };
        let value = option.split_once('=').map(|(_, value)| value).unwrap_or_default();
        field(name, &value.split(',').map(str::to_owned).collect::<Vec<_>>());
    }
    Ok(())
}

impl Manage for AptRepository {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let (host, path) = (context.host, self.path());
        let mut finding = Finding::unchanged();
        if self.state == Presence::Absent {
            for path in std::iter::once(path).chain(self.key_paths()) {
                if files::look(&host.path(&path))?.is_some() {
                    finding.differs(format!("{path}: present -> absent"));
                }
            }
            finding.trace = Some(Trace::Gone(Thing::file(&self.path())));
            return Ok(finding);
        }
        let key_path = self.key_path(host);
        let text =
            self.text(key_path.as_deref()).map_err(|message| failure_with(message, "correct `repo`"))?;
        finding =
            Placement::public(&path).check(context, Digest::of(text.as_bytes()), Some(text.as_bytes()))?;
        if self.key_digest().is_some() {
            // The name of the key's file, which the text has, follows from the key once it is there.
            finding = finding.shared();
        }
        if let Some((path, digest)) = key_path.zip(self.key_digest())
            && !holds(host, &path, digest)
        {
            finding.differs(format!("{path}: key {}", digest.short()));
        }
        if self.update_cache && apt_get::is_update_owed(host) {
            finding.differs("package lists: to be refreshed, since an earlier run was interrupted");
        }
        if finding.changed {
            context.promise_anything();
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let (host, path) = (context.host, self.path());
        apt_get::owe_update(host)?;
        if self.state == Presence::Absent {
            for path in std::iter::once(path).chain(self.key_paths()) {
                files::remove_file(&host.path(path))?;
            }
        } else {
            if let Some(digest) = self.key_digest() {
                self.put_key(context, digest).await?;
            }
            let text = self.text(self.key_path(host).as_deref());
            let text = text.map_err(|message| failure_with(message, "correct `repo`"))?;
            Placement::public(&path).apply(context, text.as_bytes()).await?;
        }
        if self.update_cache { apt_get::update(context).await } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_and_fields_make_the_same_file() {
        let read = |args| crate::remote::arguments::read::<AptRepository>(args).expect("arguments");
        let line = "deb [arch=amd64,arm64 signed-by=/k.asc] http://apt.postgresql.org/pub/repos/apt trixie-pgdg main";
        let one = read(json!({"name": "pgdg", "repo": line}));
        let other = read(json!({
            "name": "pgdg", "uris": "http://apt.postgresql.org/pub/repos/apt", "suites": "trixie-pgdg",
            "components": "main", "architectures": "amd64,arm64", "signed_by": "/k.asc",
        }));
        assert_eq!(one.text(None), other.text(None));
        insta::assert_snapshot!(one.text(None).expect("a text"), @"
Types: deb
URIs: http://apt.postgresql.org/pub/repos/apt
Suites: trixie-pgdg
Components: main
Architectures: amd64 arm64
Signed-By: /k.asc
");
        insta::assert_snapshot!(read(json!({"name": "x", "repo": "http://a b"})).text(None).expect_err("no type"), @"`repo`: expected `deb [options] uri suite component...`, found `http://a b`");
    }
}
