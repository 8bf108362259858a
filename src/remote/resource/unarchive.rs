//! Release archives, unpacked.

use super::{Content, glob, placement::not_transferred};
use crate::{
    model::Digest,
    remote::{
        arguments::Permissions,
        fetch::fetch,
        files::{self, Attributes, Kind},
        host::{Context, Finding, Host, Manage, failure_with},
        protocol::Failure,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// `unarchive`: a directory holds what a `.tar.gz` or `.tar` held. What was unpacked is
/// kept in a manifest, so the next run knows without unpacking, and notices what has changed since.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unarchive {
    /// The directory to unpack into; it is made if it is missing.
    pub dest: String,
    /// The archive from the control machine.
    #[serde(default)]
    pub content: Option<Content>,
    /// Where the target fetches the archive; `sha256` is then required.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default, alias = "checksum")]
    pub sha256: Option<Digest>,
    /// How many leading directories each name loses.
    #[serde(default)]
    pub strip_components: u32,
    /// Names to unpack, as they are in the archive after stripping; everything when empty.
    #[serde(default)]
    pub include: Vec<String>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    /// The mode of unpacked files; the archive's own otherwise.
    #[serde(default)]
    pub mode: Option<Permissions>,
    /// Nothing is done when this path exists.
    #[serde(default)]
    pub creates: Option<String>,
}

impl Unarchive {
    pub(super) fn validate(&self) -> Result<(), String> {
        match (&self.content, &self.url, &self.sha256) {
            (None, None, _) => Err("expected `src` or `url`".to_owned()),
            (Some(_), Some(_), _) => Err("expected either `src` or `url`, not both".to_owned()),
            (None, Some(_), None) => {
                Err("`sha256` is missing: an archive that is fetched must be known beforehand".to_owned())
            }
            (None, Some(url), _) if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) => {
                Err(format!("`url`: expected http://... or https://..., found `{url}`"))
            }
            _ => Ok(()),
        }
    }
}

/// An archive that unpacks to more than this is damaged or hostile.
const UNPACKED_MAX_BYTES: u64 = 8 << 30;
const MANIFESTS: &str = "/var/lib/pgfleet/unpacked";

impl Unarchive {
    fn digest(&self) -> Option<Digest> {
        self.sha256.or(self.content.as_ref().map(Content::digest))
    }

    /// What was unpacked, a line for each file; written last, so that it exists only after a whole
    /// unpacking. Its name says which archive went where and how.
    fn manifest_path(&self, host: &Host) -> PathBuf {
        let digest = self.digest().map(|digest| digest.to_string()).unwrap_or_default();
        let how = format!("{}\n{digest}\n{}\n{}", self.dest, self.strip_components, self.include.join("\n"));
        host.path(MANIFESTS).join(Digest::of(how.as_bytes()).short())
    }

    /// A manifest's line for what is at `target` now.
    fn line(&self, host: &Host, target: &str) -> Option<String> {
        let metadata = host.path(&self.dest).join(target).symlink_metadata().ok()?;
        Some(format!("{} {}.{} {target}\n", metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
    }

    /// Whether everything that a manifest lists is as it was unpacked.
    fn is_unpacked(&self, host: &Host) -> bool {
        let manifest = files::read_text(&self.manifest_path(host)).unwrap_or_default();
        let mut lines = manifest.split_inclusive('\n').peekable();
        lines.peek().is_some()
            && lines.all(|line| {
                let target = line.trim_end().splitn(3, ' ').nth(2).unwrap_or_default();
                self.line(host, target).is_some_and(|now| now == line)
            })
    }

    pub(super) fn is_in_place(&self, host: &Host) -> bool {
        let created = self.creates.as_ref().is_some_and(|path| host.path(path).exists());
        created || self.is_unpacked(host)
    }

    async fn archive(&self, context: &Context<'_>) -> Result<Vec<u8>, Failure> {
        match (&self.content, &self.url, self.sha256) {
            (Some(content), _, expected) => {
                let bytes =
                    context.host.content(content).ok_or_else(|| not_transferred(&self.dest))?.into_owned();
                match expected.filter(|expected| *expected != Digest::of(&bytes)) {
                    None => Ok(bytes),
                    Some(expected) => Err(failure_with(
                        format!("the archive has the SHA-256 {}, expected {expected}", Digest::of(&bytes)),
                        "correct `sha256`, or get the right archive",
                    )),
                }
            }
            (None, Some(url), Some(expected)) => fetch(context, url, expected).await,
            _ => Err(not_transferred(&self.dest)),
        }
    }

    /// Where an entry goes below `dest`; none for what is stripped away or not included.
    fn target(&self, name: &Path) -> Result<Option<PathBuf>, Failure> {
        let mut parts = Vec::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                _ => {
                    return Err(failure_with(
                        format!("the archive holds `{}`, which lies outside of it", name.display()),
                        "don't use this archive",
                    ));
                }
            }
        }
        let path: PathBuf = parts.into_iter().skip(self.strip_components as usize).collect();
        let text = path.display().to_string();
        let included = self.include.is_empty() || self.include.iter().any(|pattern| glob(pattern, &text));
        Ok((included && !text.is_empty()).then_some(path))
    }

    fn unpack(&self, host: &Host, archive: &[u8], owner: Attributes) -> Result<Vec<String>, Failure> {
        let dest = host.path(&self.dest);
        let explain = |error: std::io::Error| files::explain("unpack into", &dest, &error);
        let damaged = |error: std::io::Error| {
            failure_with(
                // Where exactly it stumbled is of no use to anybody, and may be long.
                format!("the archive can't be read: {}", first_words(&error.to_string())),
                "expected a .tar.gz or .tar; see whether it is complete",
            )
        };
        let reader: Box<dyn Read> = if archive.starts_with(&[0x1f, 0x8b]) {
            Box::new(flate2::read::MultiGzDecoder::new(archive))
        } else {
            Box::new(archive)
        };
        let mut archive = tar::Archive::new(reader.take(UNPACKED_MAX_BYTES));
        let mut unpacked = Vec::new();
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = entry.path().map_err(damaged)?.into_owned();
            let Some(target) = self.target(&name)? else { continue };
            let path = dest.join(&target);
            if self.leaves(&dest, &target)? {
                return Err(failure_with(
                    format!("`{}` would be unpacked through a symbolic link", name.display()),
                    "don't use this archive",
                ));
            }
            let mode = entry.header().mode().map_err(damaged)? & 0o7777;
            match entry.header().entry_type() {
                tar::EntryType::Directory => {
                    files::make_directory(&path, Attributes { mode: Some(mode | 0o700), ..owner })?;
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
                        files::make_directory(parent, Attributes { mode: Some(0o755), ..owner })?;
                    }
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).map_err(damaged)?;
                    let mode = self.mode.map_or(mode, |mode| mode.0);
                    files::replace(&path, &content, Attributes { mode: Some(mode), ..owner })?;
                    unpacked.push(target.display().to_string());
                }
                tar::EntryType::Symlink => {
                    let link = entry.link_name().map_err(damaged)?.unwrap_or_default().into_owned();
                    files::make_link(&link.display().to_string(), &path)?;
                    unpacked.push(target.display().to_string());
                }
                tar::EntryType::Link => {
                    let link = entry.link_name().map_err(damaged)?.unwrap_or_default().into_owned();
                    if let Some(original) = self.target(&link)? {
                        files::remove_file(&path)?;
                        std::fs::hard_link(dest.join(original), &path).map_err(explain)?;
                        unpacked.push(target.display().to_string());
                    }
                }
                // Extended headers have been taken in already; devices have no place in a release.
                _ => {}
            }
        }
        Ok(unpacked)
    }

    /// Whether a directory on the way to `target` is a link, which may lead anywhere.
    fn leaves(&self, dest: &Path, target: &Path) -> Result<bool, Failure> {
        for ancestor in target.ancestors().skip(1).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            if files::look(&dest.join(ancestor))?.is_some_and(|found| found.kind == Kind::Link) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn first_words(text: &str) -> &str {
    text.split([':', '\n']).next().unwrap_or(text)
}

impl Manage for Unarchive {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let host = context.host;
        // An unknown owner is refused before anything is unpacked.
        Attributes::resolve(context, self.owner.as_deref(), self.group.as_deref(), None)?;
        let mut finding = Finding::unchanged().with("dest", self.dest.as_str());
        if !self.is_in_place(host) {
            let digest = self.digest().map(|digest| digest.short()).unwrap_or_default();
            finding.differs(format!("{}: archive {digest} is to be unpacked", self.dest));
            context.promise(format!("path {}", self.dest));
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let host = context.host;
        let (owner, _) = Attributes::resolve(context, self.owner.as_deref(), self.group.as_deref(), None)?;
        let archive = self.archive(context).await?;
        let dest = host.path(&self.dest);
        if !dest.is_dir() {
            files::make_directory(&dest, Attributes { mode: Some(0o755), ..owner })?;
        }
        let unpacked = self.unpack(host, &archive, owner)?;
        if unpacked.is_empty() {
            return Err(failure_with(
                "nothing in the archive matches `include`",
                "compare `include` and `strip_components` with `tar -tzf` of the archive",
            ));
        }
        let manifest: String = unpacked.iter().filter_map(|target| self.line(host, target)).collect();
        let path = self.manifest_path(host);
        let private = Attributes { mode: Some(0o755), ..Attributes::default() };
        files::make_directory(&host.path(MANIFESTS), private)?;
        files::replace(&path, manifest.as_bytes(), Attributes::default())?;
        let count = unpacked.len();
        finding.result.insert("files".to_owned(), count.into());
        Ok(())
    }
}
