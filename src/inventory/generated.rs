//! The secrets that are generated where nobody sets them: which there are, and which can be rotated.

use super::{
    Inventory,
    catalogue::{self, VARIABLES},
    certificates,
    source::Origin,
    variable::Default,
};
use crate::{
    diagnostic::{Diagnostic, did_you_mean},
    model::Secret,
};
use serde_json::Value;

/// A secret that the cluster needs.
#[derive(Clone, Debug)]
pub struct Generated {
    pub name: &'static str,
    /// How many characters it may have.
    pub most: usize,
    /// Where the inventory sets it; it is not generated then.
    pub(super) set: Option<Origin>,
}

impl Inventory {
    /// The generated secrets of these names, all of them for none. One that the inventory sets is its owner's
    /// to change.
    pub fn rotatable(&self, names: &[String]) -> Result<Vec<&Generated>, Diagnostic> {
        if names.is_empty() {
            return Ok(self.generated.iter().filter(|secret| secret.set.is_none()).collect());
        }
        names.iter().map(|name| self.rotatable_one(name)).collect()
    }

    fn rotatable_one(&self, name: &str) -> Result<&Generated, Diagnostic> {
        let Some(secret) = self.generated.iter().find(|secret| secret.name == name) else {
            let known: Vec<&str> = self.generated.iter().map(|secret| secret.name).collect();
            return Err(Diagnostic::error(format!("the cluster has no generated secret `{name}`"))
                .helps(did_you_mean(name, known.iter().copied()))
                .help(format!("there are: {}", known.join(", "))));
        };
        match &secret.set {
            None => Ok(secret),
            Some(origin) => Err(origin
                .key_error(format!("`{name}` is set in the inventory, so it is not generated"))
                .label("change it here")
                .help(
                    "`pgfleet apply` then brings it to the running cluster, in the same order as a rotation",
                )),
        }
    }
}

/// Whether a text can be a generated secret of that name.
pub fn vet_secret(name: &str, text: &Secret) -> Result<(), Diagnostic> {
    if certificates::is_kept_as(name) {
        return Ok(());
    }
    let generated = || VARIABLES.iter().filter(|row| matches!(row.default, Default::Generated));
    let Some(variable) = generated().find(|variable| variable.name == name) else {
        let problem = match catalogue::find(name) {
            Some(_) => format!("`{name}` is no generated secret"),
            None => format!("unknown variable `{name}`"),
        };
        return Err(Diagnostic::error(problem)
            .helps(did_you_mean(name, generated().map(|row| row.name)))
            .help("other secrets belong into the inventory or its group_vars, sealed with `ansible-vault`"));
    };
    match variable.kind.read(&Value::from(text.expose())) {
        Ok(_) => Ok(()),
        Err(mismatch) => Err(Diagnostic::error(format!("`{name}` has a value that it cannot take"))
            .label(mismatch.expected)
            .helps(mismatch.help)),
    }
}
