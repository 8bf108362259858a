//! What the common options name, loaded: the inventory, the templates, how to reach hosts.

use super::{common::Common, error::Error};
use crate::{
    builtin,
    diagnostic::Severity,
    inventory::Inventory,
    model::{HostName, Secret},
    playbook, sandbox,
    secret::{Keyring, Question},
    ssh::{self, Executables, LocalExecutable, PassphrasePrompt, SessionProblem},
    template::{self, Templates},
    ui::{self, prompt},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub struct Context {
    pub common: Common,
    pub inventory: Inventory,
    pub templates: Templates,
}

impl Context {
    /// Loads and validates all that the common options name.
    pub fn load(common: &Common) -> Result<Context, Error> {
        Self::load_with(common, &keyring(&common.vault_password_file, !common.yes))
    }

    /// As [`Context::load`], with these passphrases.
    pub fn load_with(common: &Common, keys: &Keyring) -> Result<Context, Error> {
        tell_replaced();
        Context::of(common, Inventory::load_with(&common.inventory, &common.extra_vars, keys)?)
    }

    /// The same without some hosts: what is to be once they have left the cluster.
    pub fn without(&self, leaving: &[HostName]) -> Result<Context, Error> {
        let common = &self.common;
        let keys = keyring(&common.vault_password_file, !common.yes);
        Context::of(common, Inventory::load_without(&common.inventory, &common.extra_vars, &keys, leaving)?)
    }

    /// The same with other variables on top. What is odd has been told of it already.
    pub fn with(&self, variables: &[String]) -> Result<Context, Error> {
        let mut common = self.common.clone();
        common.extra_vars.extend_from_slice(variables);
        let keys = keyring(&common.vault_password_file, !common.yes);
        let inventory = Inventory::load_with(&common.inventory, &common.extra_vars, &keys)?;
        Context::quietly(&common, inventory)
    }

    fn of(common: &Common, inventory: Inventory) -> Result<Context, Error> {
        for warning in inventory.warnings.iter().filter(|warning| warning.severity == Severity::Warning) {
            ui::diagnostic(warning);
        }
        Context::quietly(common, inventory)
    }

    fn quietly(common: &Common, inventory: Inventory) -> Result<Context, Error> {
        let mut templates = Templates::new(overrides("templates"))?;
        templates.share(&inventory.global_variables())?;
        Ok(Context { common: common.clone(), inventory, templates })
    }

    pub fn ssh(&self) -> ssh::Options {
        let options = match &self.common.sandbox {
            Some(name) => ssh::Options::isolated(sandbox::identity_file(name), sandbox::known_hosts(name)),
            None => ssh::Options::default(),
        };
        let connect_timeout =
            self.common.connect_timeout.map_or(options.connect_timeout, Duration::from_secs);
        let passphrase = PassphrasePrompt(Arc::new(|key| {
            prompt::passphrase(&format!("Passphrase of {}", key.display()), false)
        }));
        ssh::Options {
            accept_new_host_keys: self.common.accept_new_host_keys,
            connect_timeout,
            passphrase: Some(passphrase),
            ..options
        }
    }

    /// This very program, which becomes the hands and the agent on the targets; and the builds of it for
    /// other architectures that the operator names.
    pub fn executables(&self) -> Result<Executables, Error> {
        self.builds().map_err(|problem| {
            let next = problem.next_step();
            Error::failed(problem).next(next)
        })
    }

    fn builds(&self) -> Result<Executables, SessionProblem> {
        let mut executables = Executables::own()?;
        for named in &self.common.agent_binary {
            let build = LocalExecutable::read(&named.path)?;
            if *build.architecture() != named.architecture {
                return Err(SessionProblem::OtherArchitecture {
                    path: named.path.clone(),
                    is: build.architecture().to_string(),
                    named: named.architecture.to_string(),
                });
            }
            executables.add(build);
        }
        Ok(executables)
    }
}

/// The passphrases that files and the environment give; where neither names one, a person may be asked.
pub fn keyring(files: &[PathBuf], may_ask: bool) -> Keyring {
    let keys = Keyring::new(files, |name| std::env::var_os(name));
    if may_ask && prompt::possible() { keys.asking(Box::new(ask)) } else { keys }
}

fn ask(question: Question<'_>) -> Option<Secret> {
    let name = |file: &Path| file.display().to_string();
    match question {
        Question::Open { file, again: false } => {
            prompt::passphrase(&format!("Passphrase of {}", name(file)), false)
        }
        Question::Open { file, again: true } => {
            prompt::passphrase(&format!("It does not open it. Passphrase of {}", name(file)), false)
        }
        Question::Seal { file } => prompt::passphrase(
            &format!("Passphrase to seal {} with (empty: none, readable by its owner)", name(file)),
            true,
        ),
    }
}

/// A folder of that name in the current directory wins over what is built in.
pub fn overrides(folder: &str) -> Vec<PathBuf> {
    Some(PathBuf::from(folder)).into_iter().filter(|path| path.is_dir()).collect()
}

/// Says which built-in files the current directory replaces: who stands in the wrong one should notice.
fn tell_replaced() {
    for (folder, files) in [("templates", template::shipped()), ("playbooks", playbook::shipped())] {
        let replaced = builtin::replaced(&files, Path::new(folder));
        if !replaced.is_empty() {
            ui::note(&format!("./{folder} replaces what is built in: {}", replaced.join(", ")));
        }
    }
}
