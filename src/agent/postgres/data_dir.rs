//! What is in the data directory.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::{ControlData, Error, Server, files, tools};
use crate::model::PgMajor;

/// State of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDir {
    Missing,
    Empty,
    Initialised {
        system_identifier: String,
        major: PgMajor,
    },
    /// It holds something that is no usable cluster: a copy that was cut short, another version's data,
    /// or somebody's files. It is not ours to remove; `why` says what was seen.
    Unusable {
        why: String,
    },
}

/// The marker of a rewind under way. While it is there, the data is neither the old history nor the new.
pub(super) const REWINDING: &str = ".rewinding";

/// What can be told without running a program.
pub(super) fn look(path: &Path) -> DataDir {
    let unusable = |why: String| DataDir::Unusable { why };
    match cluster(path) {
        Ok(_) if files::beside(path, REWINDING).exists() => {
            unusable("a rewind was cut short: neither history is complete".to_owned())
        }
        Ok((system_identifier, major)) => DataDir::Initialised { system_identifier, major },
        Err(state) => state,
    }
}

fn cluster(path: &Path) -> Result<(String, PgMajor), DataDir> {
    let unusable = |why: String| DataDir::Unusable { why };
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DataDir::Missing),
        Err(error) => return Err(unusable(format!("cannot be read: {error}"))),
    };
    if entries.next().is_none() {
        return Err(DataDir::Empty);
    }
    let version = match fs::read_to_string(path.join("PG_VERSION")) {
        Ok(version) => version,
        // An empty volume has this folder, and nothing else.
        Err(_) if only_lost_and_found(path) => return Err(DataDir::Empty),
        Err(_) => return Err(unusable("has files but no PG_VERSION".to_owned())),
    };
    let number: u16 =
        version.trim().parse().map_err(|_| unusable(format!("is of version `{}`", version.trim())))?;
    let major = PgMajor::try_from(number).map_err(|error| unusable(error.to_string()))?;
    // A base backup writes it last. It begins with the system identifier, in every version.
    let mut system_identifier = [0; 8];
    fs::File::open(path.join("global/pg_control"))
        .and_then(|mut file| file.read_exact(&mut system_identifier))
        .map_err(|error| {
            unusable(format!("has no readable global/pg_control ({error}): it was cut short"))
        })?;
    Ok((u64::from_ne_bytes(system_identifier).to_string(), major))
}

fn only_lost_and_found(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == "lost+found"))
}

impl Server {
    /// Reads `pg_control`. Errors: there is no cluster, or `pg_controldata` cannot read it.
    pub async fn control_data(&self) -> Result<ControlData, Error> {
        let settings = self.settings();
        let mut command = tools::command(&settings.tool("pg_controldata"));
        command.env("LC_ALL", "C").arg("-D").arg(&settings.data_dir);
        let output = tools::run(command, "pg_controldata", tools::SHORT).await?;
        let control: ControlData = output
            .parse()
            .map_err(|what| Error::Unexpected { path: settings.data_dir.join("global/pg_control"), what })?;
        self.remember(|memory| memory.control = Some(control.clone()));
        Ok(control)
    }
}
