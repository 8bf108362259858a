//! Passphrases: where they come from, and which of them opens a sealed text.
//!
//! A source is read when a passphrase is needed and not before. Never prints or asks by itself: who builds a
//! keyring says how a person is asked.

use super::vault::{self, Sealed};
use crate::{diagnostic::Diagnostic, model::Secret};
use std::{
    cell::{OnceCell, RefCell},
    ffi::OsString,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use zeroize::Zeroizing;

const OPTION: &str = "--vault-password-file";
const PASSPHRASE: &str = "PGFLEET_VAULT_PASSWORD";
/// The first wins.
const PASSPHRASE_FILES: [&str; 2] = ["PGFLEET_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_PASSWORD_FILE"];
/// How often a person may mistype.
const ATTEMPTS: usize = 3;

/// How a person is asked; none is an answer too.
pub type Ask = Box<dyn Fn(Question<'_>) -> Option<Secret>>;

/// What a person is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// The passphrase that this file was sealed with.
    Open { file: &'a Path, again: bool },
    /// A passphrase to seal this file with.
    Seal { file: &'a Path },
}

/// All passphrases of a run.
#[derive(Default)]
pub struct Keyring {
    sources: Vec<Source>,
    ask: Option<Ask>,
    typed: RefCell<Vec<Secret>>,
}

/// A text that was sealed, with what it takes to seal it again.
pub struct Opened {
    pub text: Secret,
    pub passphrase: Secret,
    pub id: Option<String>,
}

struct Source {
    origin: Origin,
    passphrase: OnceCell<Secret>,
}

enum Origin {
    /// A file, and what named it.
    File(PathBuf, &'static str),
    /// An environment variable.
    Variable(&'static str),
}

impl Keyring {
    /// The passphrases of these files, then those that the environment names.
    pub fn new(files: &[PathBuf], environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let mut sources: Vec<Source> =
            files.iter().map(|file| Source::of(Origin::File(file.clone(), OPTION))).collect();
        if let Some(passphrase) = set(PASSPHRASE) {
            let source = Source::of(Origin::Variable(PASSPHRASE));
            // The cell is new.
            let _ = source.passphrase.set(Secret::new(passphrase.to_string_lossy()));
            sources.push(source);
        }
        let named = PASSPHRASE_FILES.iter().find_map(|name| Some((*name, set(name)?)));
        sources.extend(named.map(|(name, file)| Source::of(Origin::File(file.into(), name))));
        Self { sources, ..Self::default() }
    }

    /// As [`Keyring::new`] from this process's environment alone.
    pub fn of_environment() -> Self {
        Self::new(&[], |name| std::env::var_os(name))
    }

    /// A person is asked where no source is named.
    pub fn asking(self, ask: Ask) -> Self {
        Self { ask: Some(ask), ..self }
    }

    /// Opens a sealed text that stands in `file`.
    pub fn open(&self, text: &str, file: &Path) -> Result<Opened, Diagnostic> {
        let sealed = Sealed::parse(text).map_err(|error| unopened(file, error))?;
        let attempt = |passphrase: &Secret| match sealed.open(passphrase) {
            Ok(text) => Ok(Some(Opened { text, passphrase: passphrase.clone(), id: sealed.id.clone() })),
            Err(vault::Error::Passphrase) => Ok(None),
            Err(error) => Err(unopened(file, error)),
        };
        for source in &self.sources {
            if let Some(opened) = attempt(source.read()?)? {
                return Ok(opened);
            }
        }
        for passphrase in self.typed.borrow().iter() {
            if let Some(opened) = attempt(passphrase)? {
                return Ok(opened);
            }
        }
        if self.sources.is_empty()
            && let Some(ask) = &self.ask
        {
            for again in 0..ATTEMPTS {
                let Some(passphrase) = ask(Question::Open { file, again: again > 0 }) else { break };
                if let Some(opened) = attempt(&passphrase)? {
                    self.typed.borrow_mut().push(passphrase);
                    return Ok(opened);
                }
            }
        }
        Err(self.closed(file))
    }

    /// The passphrase to seal a file with; none where there is none.
    pub fn to_seal(&self, file: &Path) -> Result<Option<Secret>, Diagnostic> {
        if let Some(source) = self.sources.first() {
            return source.read().cloned().map(Some);
        }
        if let Some(typed) = self.typed.borrow().first() {
            return Ok(Some(typed.clone()));
        }
        let answer = self.ask.as_ref().and_then(|ask| ask(Question::Seal { file }));
        self.typed.borrow_mut().extend(answer.clone());
        Ok(answer)
    }

    /// Why a text stays closed.
    fn closed(&self, file: &Path) -> Diagnostic {
        let file = file.display();
        if self.sources.is_empty() && self.typed.borrow().is_empty() {
            let message = format!("`{file}` holds what Ansible Vault has sealed, and there is no passphrase");
            return ways().into_iter().fold(Diagnostic::error(message), Diagnostic::help);
        }
        let origins: Vec<String> = self.sources.iter().map(|source| source.origin.to_string()).collect();
        let origins = if origins.is_empty() { "that was typed".to_owned() } else { origins.join(" and ") };
        Diagnostic::error(format!("the passphrase {origins} does not open what is sealed in `{file}`"))
            .help("give the passphrase that it was sealed with; `ansible-vault view` takes the same")
    }
}

/// The ways to give a passphrase.
pub fn ways() -> [String; 3] {
    let [own, ansibles] = PASSPHRASE_FILES;
    [
        format!("give it by `{OPTION} FILE`; a file that is executable is run, and prints it"),
        format!("or name such a file in {own} or {ansibles}, or put it into {PASSPHRASE}"),
        "or run the command on a terminal without `-y`, to be asked for it".to_owned(),
    ]
}

fn unopened(file: &Path, error: vault::Error) -> Diagnostic {
    Diagnostic::error(format!("what is sealed in `{}` cannot be opened: {error}", file.display()))
        .help("seal it again with `ansible-vault encrypt` or `ansible-vault encrypt_string`")
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, named_by) => write!(f, "of {named_by} `{}`", path.display()),
            Origin::Variable(name) => write!(f, "in {name}"),
        }
    }
}

impl Source {
    fn of(origin: Origin) -> Self {
        Self { origin, passphrase: OnceCell::new() }
    }

    fn read(&self) -> Result<&Secret, Diagnostic> {
        if let Some(passphrase) = self.passphrase.get() {
            return Ok(passphrase);
        }
        let passphrase = match &self.origin {
            Origin::File(path, named_by) => from_file(path, named_by)?,
            Origin::Variable(_) => Secret::default(),
        };
        Ok(self.passphrase.get_or_init(|| passphrase))
    }
}

/// What a file holds, or prints if it is executable; without the white space around it.
pub fn from_file(path: &Path, named_by: &str) -> Result<Secret, Diagnostic> {
    let failed = |why: String| {
        Diagnostic::error(format!("no passphrase comes from `{}`: {why}", path.display()))
            .help(format!("it is named by {named_by}"))
    };
    let executable = fs::metadata(path)
        .map(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        .map_err(|error| failed(error.to_string()))?;
    let bytes = if executable {
        let program = std::path::absolute(path).map_err(|error| failed(error.to_string()))?;
        let output = Command::new(program).stdin(Stdio::inherit()).output();
        let mut output = output.map_err(|error| failed(format!("it cannot be run: {error}")))?;
        let printed = Zeroizing::new(std::mem::take(&mut output.stdout));
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            return Err(failed(format!("it ended with {}: {last}", output.status)));
        }
        printed
    } else {
        Zeroizing::new(fs::read(path).map_err(|error| failed(error.to_string()))?)
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8 text".to_owned()))?;
    match text.trim() {
        "" => Err(failed("it is empty".to_owned())),
        passphrase => Ok(Secret::new(passphrase)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, rc::Rc};

    fn sealed_with(passphrase: &str) -> String {
        vault::seal(&Secret::new("text"), &Secret::new(passphrase), None)
    }

    fn keyring(files: &[PathBuf], environment: &[(&str, &str)]) -> Keyring {
        let environment: HashMap<&str, &str> = environment.iter().copied().collect();
        Keyring::new(files, |name| environment.get(name).map(OsString::from))
    }

    fn open(keys: &Keyring, sealed: &str) -> Result<String, String> {
        let opened = keys.open(sealed, Path::new("demo.secrets.yml"));
        opened.map(|opened| opened.text.expose().to_owned()).map_err(|wrong| wrong.render(false))
    }

    fn file(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn every_way_to_give_a_passphrase_opens() {
        let folder = tempfile::tempdir().unwrap();
        let plain = file(folder.path(), "plain", "one\n", 0o600);
        let script = file(folder.path(), "script", "#!/bin/sh\necho two\n", 0o700);
        let (one, two) = (sealed_with("one"), sealed_with("two"));
        let (plain_path, script_path) = (plain.to_str().unwrap(), script.to_str().unwrap());

        let both = keyring(&[plain.clone(), script.clone()], &[]);
        for sealed in [&one, &two] {
            assert_eq!(open(&both, sealed), Ok("text".to_owned()));
        }
        assert_eq!(both.to_seal(Path::new("x")), Ok(Some(Secret::new("one"))), "the first one seals");
        for environment in [
            ("PGFLEET_VAULT_PASSWORD", "two"),
            ("PGFLEET_VAULT_PASSWORD_FILE", script_path),
            ("ANSIBLE_VAULT_PASSWORD_FILE", script_path),
        ] {
            assert_eq!(open(&keyring(&[], &[environment]), &two), Ok("text".to_owned()), "{environment:?}");
        }
        let ours = keyring(
            &[],
            &[("ANSIBLE_VAULT_PASSWORD_FILE", "/nowhere"), ("PGFLEET_VAULT_PASSWORD_FILE", plain_path)],
        );
        assert_eq!(open(&ours, &one), Ok("text".to_owned()));
    }

    #[test]
    fn a_person_is_asked_where_nothing_is_named_and_once() {
        let questions = Rc::new(RefCell::new(Vec::new()));
        let asked = questions.clone();
        let keys = Keyring::default().asking(Box::new(move |question| {
            asked.borrow_mut().push(format!("{question:?}"));
            Some(Secret::new(if asked.borrow().len() == 1 { "mistyped" } else { "one" }))
        }));
        assert_eq!(open(&keys, &sealed_with("one")), Ok("text".to_owned()));
        assert_eq!(open(&keys, &sealed_with("one")), Ok("text".to_owned()));
        assert_eq!(keys.to_seal(Path::new("x")), Ok(Some(Secret::new("one"))));
        assert_eq!(questions.borrow().len(), 2, "{questions:?}");
        assert!(questions.borrow()[1].contains("again: true"));
        assert_eq!(Keyring::default().to_seal(Path::new("x")), Ok(None));
    }

    #[test]
    fn what_stays_closed_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let empty = file(folder.path(), "empty", "\n", 0o600);
        let failing = file(folder.path(), "failing", "#!/bin/sh\necho no such entry >&2\nexit 3\n", 0o700);
        let sealed = sealed_with("one");
        insta::assert_snapshot!(open(&Keyring::default(), &sealed).unwrap_err(), @r"
        error: `demo.secrets.yml` holds what Ansible Vault has sealed, and there is no passphrase
         |
         = help: give it by `--vault-password-file FILE`; a file that is executable is run, and prints it
         = help: or name such a file in PGFLEET_VAULT_PASSWORD_FILE or ANSIBLE_VAULT_PASSWORD_FILE, or put it into PGFLEET_VAULT_PASSWORD
         = help: or run the command on a terminal without `-y`, to be asked for it
        ");
        let wrong = keyring(&[], &[("PGFLEET_VAULT_PASSWORD", "two")]);
        insta::assert_snapshot!(open(&wrong, &sealed).unwrap_err(), @r"
        error: the passphrase in PGFLEET_VAULT_PASSWORD does not open what is sealed in `demo.secrets.yml`
         |
         = help: give the passphrase that it was sealed with; `ansible-vault view` takes the same
        ");
        insta::assert_snapshot!(open(&wrong, "$ANSIBLE_VAULT;0.9;AES\n31").unwrap_err(), @r"
        error: what is sealed in `demo.secrets.yml` cannot be opened: this is not the format of Ansible Vault 1.1 or 1.2
         |
         = help: seal it again with `ansible-vault encrypt` or `ansible-vault encrypt_string`
        ");
        for (path, why) in [
            (empty, "it is empty"),
            (failing, "it ended with exit status: 3: no such entry"),
            (folder.path().join("absent"), "No such file"),
        ] {
            let told = open(&keyring(&[path], &[]), &sealed).unwrap_err();
            assert!(told.contains(why) && told.contains("--vault-password-file"), "{told}");
        }
    }
}
