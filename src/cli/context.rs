//! What the common options name, loaded: the inventory, the templates, how to reach hosts.

use super::{common::Common, error::Error};
use crate::{
    diagnostic::Severity,
    inventory::Inventory,
    sandbox,
    ssh::{self, Executables},
    template::Templates,
    ui,
};
use std::path::PathBuf;

pub struct Context {
    pub common: Common,
    pub inventory: Inventory,
    pub templates: Templates,
}

impl Context {
    /// Loads and validates all that the common options name.
    pub fn load(common: &Common) -> Result<Context, Error> {
        let inventory = Inventory::load(&common.inventory, &common.extra_vars)?;
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

/// A folder of that name in the current directory wins over what is embedded.
pub fn overrides(folder: &str) -> Vec<PathBuf> {
    Some(PathBuf::from(folder)).into_iter().filter(|path| path.is_dir()).collect()
}
