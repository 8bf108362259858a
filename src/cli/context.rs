//! What the common options name, loaded: the inventory, the templates, how to reach hosts.

use super::{common::Common, error::Error};
use crate::{
    diagnostic::Severity,
    inventory::Inventory,
    model::Secret,
    sandbox,
    secret::{Keyring, Question},
    ssh::{self, Executables},
    template::Templates,
    ui::{self, prompt},
};
use std::path::{Path, PathBuf};

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
        let inventory = Inventory::load_with(&common.inventory, &common.extra_vars, keys)?;
        for warning in inventory.warnings.iter().filter(|warning| warning.severity == Severity::Warning) {
            ui::diagnostic(warning);
        }
        let mut templates = Templates::new(overrides("templates"))?;
        templates.share(&inventory.global_variables())?;
        Ok(Context { common: common.clone(), inventory, templates })
    }

    pub fn ssh(&self) -> ssh::Options {
        let options = match &self.common.sandbox {
            Some(name) => ssh::Options::isolated(sandbox::identity_file(name), sandbox::known_hosts(name)),
            None => ssh::Options::default(),
        };
        ssh::Options { accept_new_host_keys: self.common.accept_new_host_keys, ..options }
    }

    /// This very program, which becomes the hands and the agent on the targets.
    pub fn executables(&self) -> Result<Executables, Error> {
        Executables::own().map_err(|problem| {
            let next = problem.next_step();
            Error::failed(problem).next(next)
        })
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

/// A folder of that name in the current directory wins over what is embedded.
pub fn overrides(folder: &str) -> Vec<PathBuf> {
    Some(PathBuf::from(folder)).into_iter().filter(|path| path.is_dir()).collect()
}
