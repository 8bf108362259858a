//! The data of a PostgreSQL server brought to another major version, by `pg_upgrade`.

use super::postgres_roles;
use crate::remote::{
    command::{Invocation, Output},
    host::{Context, Finding, Manage, failure, failure_with},
    protocol::Failure,
    psql::{Login, Server},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// `pg_upgrade`: the new data directory has the old one's contents, or could have them. A folder beside it,
/// `DATA_DIR.upgrade`, says how far that is: what died in between is begun again, and only what was made here
/// is ever removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgUpgrade {
    #[serde(default)]
    pub state: UpgradeState,
    pub old_bin_dir: String,
    pub old_data_dir: String,
    pub bin_dir: String,
    pub data_dir: String,
    #[serde(default)]
    pub transfer: Transfer,
    /// How many databases and tablespaces are worked on at the same time.
    #[serde(default = "one")]
    pub jobs: u16,
    /// `shared_preload_libraries`, which extensions may need while they are created.
    #[serde(default)]
    pub preload: String,
    /// The superuser, with its password for where the server asks for one on its socket.
    #[serde(default = "postgres_roles::postgres")]
    pub login_user: String,
    #[serde(default)]
    pub login_password: Option<String>,
    #[serde(default = "postgres_roles::socket_dir")]
    pub socket_dir: String,
    #[serde(default = "postgres_roles::port")]
    pub port: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeState {
    /// pg_upgrade finds nothing in the way; the old server may run.
    Checked,
    /// The new data directory has everything; the old server is down.
    #[default]
    Upgraded,
    /// There is no new data directory of ours, and the old one can be started.
    Absent,
}

/// How the files of tables get into the new data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Copied: takes the longest, and their space once more
    #[default]
    Copy,
    /// Shared with the old ones until either writes, on file systems that can
    Clone,
    /// The very same files: the old server must not be started once the new one was
    Link,
}

impl Transfer {
    pub fn as_str(self) -> &'static str {
        match self {
            Transfer::Copy => "copy",
            Transfer::Clone => "clone",
            Transfer::Link => "link",
        }
    }
}

fn one() -> u16 {
    1
}

const CHECK_LIMIT: Duration = Duration::from_secs(1800);
/// A copy of many terabytes.
const UPGRADE_LIMIT: Duration = Duration::from_secs(72 * 3600);

/// How the old cluster was made: `initdb` makes the new one so too.
const ORIGIN: &str = "SELECT json_build_object(
    'user', (SELECT rolname FROM pg_authid WHERE oid = 10),
    'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
    'provider', to_jsonb(d) ->> 'datlocprovider',
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'))
    FROM pg_database d WHERE datname = 'template0';\n";

/// How far it is, as the folder beside the new data directory says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    stage: Stage,
    /// The arguments of `initdb`, which the old server was asked for.
    initdb: Vec<String>,
    /// The role that the old cluster was made with.
    user: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// `initdb` is under way.
    Begun,
    /// The new data directory is empty but for what `initdb` made.
    Empty,
    /// `pg_upgrade` is under way.
    Upgrading,
    Upgraded,
}

impl PgUpgrade {
    fn folder(&self, context: &Context<'_>) -> PathBuf {
        context.host.path(format!("{}.upgrade", self.data_dir.trim_end_matches('/')))
    }

    fn note(&self, context: &Context<'_>) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.folder(context).join("note.json")).ok()?).ok()
    }

    fn keep(&self, context: &Context<'_>, note: &Note) -> Result<(), Failure> {
        let folder = self.folder(context);
        let kept = || -> io::Result<()> {
            let next = folder.join("note.json.new");
            fs::write(&next, serde_json::to_vec(note)?)?;
            fs::File::open(&next)?.sync_all()?;
            fs::rename(&next, folder.join("note.json"))
        };
        kept().map_err(|error| failure(format!("{} cannot be written: {error}", folder.display())))
    }

    /// Where a link upgrade puts the old cluster's control file, so that nobody starts it.
    fn control(&self, context: &Context<'_>) -> (PathBuf, PathBuf) {
        let global = context.host.path(&self.old_data_dir).join("global");
        (global.join("pg_control"), global.join("pg_control.old"))
    }

    /// A program of PostgreSQL as its own user.
    fn program(&self, context: &Context<'_>, program: &str) -> Invocation {
        Invocation::new(program)
            .directory(Some(self.folder(context)))
            .environment("PGPASSWORD", self.login_password.as_deref().unwrap_or_default())
            .user(context.become_user)
    }

    /// Asks the old server how it was made.
    async fn origin(&self, context: &Context<'_>) -> Result<Note, Failure> {
        let server = Server {
            bin_dir: self.old_bin_dir.clone(),
            socket_dir: self.socket_dir.clone(),
            port: self.port,
        };
        let login = Login { user: self.login_user.clone(), password: self.login_password.clone() };
        let origin = server.document(context, &login, ORIGIN).await?;
        let control = Invocation::new(&format!("{}/pg_controldata", self.old_bin_dir))
            .args(["-D", &self.old_data_dir])
            .user(context.become_user)
            .success(context.host, "the old cluster's control file cannot be read")
            .await?;
        let user = origin["user"].as_str().unwrap_or(&self.login_user).to_owned();
        Ok(Note { stage: Stage::Begun, initdb: arguments(&origin, &control.stdout, &user), user })
    }

    /// Makes the new cluster, empty.
    async fn make(&self, context: &Context<'_>, note: &Note) -> Result<Note, Failure> {
        self.keep(context, &Note { stage: Stage::Begun, ..note.clone() })?;
        self.remove_data(context)?;
        self.program(context, &format!("{}/initdb", self.bin_dir))
            .args(["-D", &self.data_dir])
            .args(self.initdb(note))
            .limit(CHECK_LIMIT)
            .success(context.host, "the new cluster cannot be made")
            .await?;
        let made = Note { stage: Stage::Empty, ..note.clone() };
        self.keep(context, &made)?;
        Ok(made)
    }

    /// The arguments of the new version's `initdb`: from 18 on, no checksums have to be asked for.
    fn initdb(&self, note: &Note) -> Vec<String> {
        let newer = self.major().is_some_and(|major| major >= 18);
        let checksums = note.initdb.iter().any(|word| word == "--data-checksums");
        let mut words = note.initdb.clone();
        words.extend((newer && !checksums).then(|| "--no-data-checksums".to_owned()));
        words
    }

    /// The major version that the new programs' folder names.
    fn major(&self) -> Option<u16> {
        Path::new(&self.bin_dir).iter().rev().find_map(|part| part.to_str()?.parse().ok())
    }

    fn remove_data(&self, context: &Context<'_>) -> Result<(), Failure> {
        let path = context.host.path(&self.data_dir);
        if path.join("postmaster.pid").exists() {
            return Err(failure_with(
                format!("PostgreSQL runs in {}, or did when its host went down", self.data_dir),
                "stop it in order, then run the same command again",
            ));
        }
        let removed = fs::read_dir(&path).and_then(|mut entries| {
            entries.try_for_each(|entry| {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                }
            })
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failure(format!("{} cannot be emptied: {error}", path.display())))
            }
            _ => {
                // A mount point stays.
                let _ = fs::remove_dir(&path);
                Ok(())
            }
        }
    }

    fn restore_control(&self, context: &Context<'_>) -> Result<(), Failure> {
        let (control, aside) = self.control(context);
        if !aside.exists() || control.exists() {
            return Ok(());
        }
        fs::rename(&aside, &control)
            .map_err(|error| failure(format!("{} cannot be put back: {error}", aside.display())))
    }

    async fn check_it(&self, context: &Context<'_>) -> Result<(), Failure> {
        let data = context.host.path(&self.data_dir);
        let foreign = self.note(context).is_none()
            && fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some());
        if foreign {
            return Err(failure_with(
                format!("{} holds files that this upgrade has not made", self.data_dir),
                "move them away, or give the inventory another `postgres_data_dir`",
            ));
        }
        Invocation::new("mkdir")
            .args(["-p", "-m", "0700", &self.folder(context).display().to_string()])
            .user(context.become_user)
            .success(context.host, "the folder of the upgrade cannot be made")
            .await?;
        let note = self.origin(context).await?;
        let note = self.make(context, &note).await?;
        self.upgrade(context, &note, true).await
    }

    async fn carry_out(&self, context: &Context<'_>) -> Result<(), Failure> {
        let Some(mut note) = self.note(context) else {
            return Err(failure_with(
                format!("nothing was prepared for {}", self.data_dir),
                "run the upgrade's check first: it asks the old server while it runs",
            ));
        };
        if note.stage != Stage::Empty {
            self.restore_control(context)?;
            note = self.make(context, &note).await?;
        }
        self.keep(context, &Note { stage: Stage::Upgrading, ..note.clone() })?;
        self.upgrade(context, &note, false).await?;
        self.keep(context, &Note { stage: Stage::Upgraded, ..note })
    }

    async fn upgrade(&self, context: &Context<'_>, note: &Note, check: bool) -> Result<(), Failure> {
        let jobs = self.jobs.max(1).to_string();
        let mut command = self
            .program(context, &format!("{}/pg_upgrade", self.bin_dir))
            .args(["-b", &self.old_bin_dir, "-B", &self.bin_dir])
            .args(["-d", &self.old_data_dir, "-D", &self.data_dir])
            .args(["-U", &note.user, "-s", &self.socket_dir, "-j", &jobs])
            .limit(if check { CHECK_LIMIT } else { UPGRADE_LIMIT });
        match self.transfer {
            Transfer::Copy => {}
            Transfer::Clone => command = command.arg("--clone"),
            Transfer::Link => command = command.arg("--link"),
        }
        // Two shells read it on its way to the server.
        let preload: String = self.preload.split_whitespace().collect();
        if !preload.is_empty() && preload.chars().all(|c| c.is_ascii_alphanumeric() || "_-,./$".contains(c)) {
            command = command.args(["-O", &format!("-c shared_preload_libraries={preload}")]);
        }
        if check {
            command = command.arg("--check");
        }
        context.waiting(if check { "pg_upgrade --check" } else { "pg_upgrade" });
        let output = command.output(context.host).await?;
        if output.is_success() {
            return Ok(());
        }
        let purpose = if check { "pg_upgrade finds what stands in the way" } else { "pg_upgrade has failed" };
        Err(Failure { last_lines: self.said(context, &output), ..command.failed(&output, purpose) })
    }

    /// What pg_upgrade says, and the files with what it found, which it only names.
    fn said(&self, context: &Context<'_>, output: &Output) -> Vec<String> {
        let fatal = |line: &String| !line.ends_with("ok") && !line.starts_with("---");
        let mut lines: Vec<String> = output.last_lines().into_iter().filter(fatal).collect();
        let folder = context.host.path(&self.data_dir).join("pg_upgrade_output.d");
        let runs = fs::read_dir(folder).into_iter().flatten().flatten();
        for file in runs.flat_map(|run| fs::read_dir(run.path()).into_iter().flatten().flatten()) {
            if file.path().extension().is_some_and(|ending| ending == "txt") {
                let text = fs::read_to_string(file.path()).unwrap_or_default();
                lines.extend(text.lines().take(20).map(str::to_owned));
            }
        }
        lines
    }
}

/// How `initdb` makes a cluster like the old one.
fn arguments(origin: &Value, control: &str, user: &str) -> Vec<String> {
    let text = |key: &str| origin[key].as_str().unwrap_or_default();
    let field = |name: &str| {
        let line = control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default()
    };
    let mut words = vec![
        format!("--username={user}"),
        format!("--encoding={}", text("encoding")),
        format!("--lc-collate={}", text("collate")),
        format!("--lc-ctype={}", text("ctype")),
        // pg_upgrade's servers have sockets that none but their owner gets to; the agent brings its own rules.
        format!("--auth-local={}", if user == "postgres" { "peer" } else { "trust" }),
        "--auth-host=scram-sha-256".to_owned(),
    ];
    match text("provider") {
        "i" => words.extend(["--locale-provider=icu".to_owned(), format!("--icu-locale={}", text("locale"))]),
        "b" => words
            .extend(["--locale-provider=builtin".to_owned(), format!("--builtin-locale={}", text("locale"))]),
        _ => {}
    }
    if let Ok(bytes) = field("Bytes per WAL segment").parse::<u64>() {
        words.push(format!("--wal-segsize={}", bytes >> 20));
    }
    if !matches!(field("Data page checksum version"), "0" | "") {
        words.push("--data-checksums".to_owned());
    }
    words
}

impl Manage for PgUpgrade {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let stage = self.note(context).map(|note| note.stage);
        let (control, aside) = self.control(context);
        let from = format!("{} -> {}", self.old_data_dir, self.data_dir);
        Ok(match self.state {
            UpgradeState::Checked if stage != Some(Stage::Upgraded) => {
                Finding::changed(format!("pg_upgrade --check: {from}"))
            }
            UpgradeState::Upgraded if stage != Some(Stage::Upgraded) => {
                Finding::changed(format!("pg_upgrade: {from}"))
            }
            UpgradeState::Absent if stage.is_some() || aside.exists() && !control.exists() => {
                Finding::changed(format!("{}: present -> absent", self.data_dir))
            }
            _ => Finding::unchanged(),
        })
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        match self.state {
            UpgradeState::Checked => self.check_it(context).await,
            UpgradeState::Upgraded => self.carry_out(context).await,
            UpgradeState::Absent => {
                self.restore_control(context)?;
                if self.note(context).is_some() {
                    self.remove_data(context)?;
                    let folder = self.folder(context);
                    fs::remove_dir_all(&folder).map_err(|error| {
                        failure(format!("{} cannot be removed: {error}", folder.display()))
                    })?;
                }
                Ok(())
            }
        }
    }

    async fn verify(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let stage = self.note(context).map(|note| note.stage);
        let holds = match self.state {
            UpgradeState::Checked => stage == Some(Stage::Empty),
            UpgradeState::Upgraded => stage == Some(Stage::Upgraded),
            UpgradeState::Absent => stage.is_none(),
        };
        if holds { Ok(()) } else { Err(failure(format!("done, but {} says {stage:?}", self.data_dir))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CONTROL: &str = "\
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn the_new_cluster_is_made_like_the_old_one() {
        let origin = json!({"user": "postgres", "encoding": "UTF8", "collate": "C.UTF-8", "ctype": "C.UTF-8",
            "provider": "c", "locale": null});
        let words = arguments(&origin, CONTROL, "postgres").join(" ");
        assert_eq!(
            words,
            "--username=postgres --encoding=UTF8 --lc-collate=C.UTF-8 --lc-ctype=C.UTF-8 --auth-local=peer \
             --auth-host=scram-sha-256 --wal-segsize=16 --data-checksums"
        );
        let origin =
            json!({"encoding": "UTF8", "collate": "en", "ctype": "en", "provider": "i", "locale": "de"});
        let control = CONTROL.replace("version:           1", "version:           0");
        let words = arguments(&origin, &control, "admin").join(" ");
        assert!(words.contains("--locale-provider=icu --icu-locale=de"), "{words}");
        assert!(!words.contains("checksums"), "{words}");
    }

    #[test]
    fn from_18_on_checksums_are_refused_where_the_old_cluster_has_none() {
        let upgrade = |bin: &str| -> PgUpgrade {
            let arguments = json!({"old_bin_dir": "/usr/lib/postgresql/15/bin", "old_data_dir": "/d/15",
                "bin_dir": bin, "data_dir": "/d/new"});
            crate::remote::arguments::read(arguments).expect("arguments")
        };
        let note = |words: &[&str]| Note {
            stage: Stage::Begun,
            initdb: words.iter().map(|word| (*word).to_owned()).collect(),
            user: "postgres".to_owned(),
        };
        let (old, new) = (upgrade("/usr/lib/postgresql/17/bin"), upgrade("/usr/lib/postgresql/18/bin"));
        assert_eq!(old.initdb(&note(&[])), [""; 0]);
        assert_eq!(new.initdb(&note(&[])), ["--no-data-checksums"]);
        assert_eq!(new.initdb(&note(&["--data-checksums"])), ["--data-checksums"]);
    }
}
