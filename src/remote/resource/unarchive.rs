//! Release archives, unpacked.

use super::Content;
use crate::{model::Digest, remote::arguments::Permissions};
use serde::{Deserialize, Serialize};

/// `unarchive`: a directory holds what a `.tar.gz` or `.tar` held. The archive's digest is kept beside
/// what was unpacked, so the next run knows without unpacking.
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
            (None, Some(url), _) if !url.starts_with("http://") => {
                Err(format!("`url`: expected http://..., found `{url}` (its `sha256` guards the content)"))
            }
            _ => Ok(()),
        }
    }
}
