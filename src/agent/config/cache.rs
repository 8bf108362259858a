//! The last known dynamic configuration, kept beside the data: an agent that starts while the store is away
//! goes by it, and a leader restores it to a store that was wiped.

use crate::contract::DynamicConfig;
use serde_json::{Map, Value};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// `patroni.dynamic.json` in a data directory.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
}

impl Cache {
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join("patroni.dynamic.json") }
    }

    /// What was saved; `None` when there is nothing, or nothing that can be read.
    pub fn load(&self) -> Option<DynamicConfig> {
        let document: Value = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        document.is_object().then(|| DynamicConfig::from_json(&document).0)
    }

    /// Saves a document if it differs. The data directory has to exist: it is not made, for that would look
    /// like data. Errors: it cannot be written; what was there is left.
    pub fn save(&self, document: &Map<String, Value>) -> io::Result<()> {
        let text = Value::Object(document.clone()).to_string();
        if fs::read(&self.path).is_ok_and(|known| known == text.as_bytes()) {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        fs::File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gives_back_what_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_data_dir(folder.path());
        assert_eq!(cache.load(), None);
        let document = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 2, "mine": 1});
        cache.save(document.as_object().unwrap()).unwrap();
        cache.save(document.as_object().unwrap()).unwrap();
        assert_eq!(cache.load().unwrap().document, *document.as_object().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::write(&cache.path, "{").unwrap();
        assert_eq!(cache.load(), None);
        assert!(Cache::in_data_dir(&folder.path().join("missing")).save(&Map::new()).is_err());
        assert!(!folder.path().join("missing").exists());
    }
}
