//! `pgfleet edit`: the inventory in an editor, checked, shown as a plan, applied.

use super::{
    Exit,
    common::Common,
    context::keyring,
    deploy::{self, ApplyArgs, DriftArgs},
    error::{Error, Outcome},
    locked::Locking,
};
use crate::{
    diagnostic::Diagnostic,
    inventory::Inventory,
    model::Secret,
    secret,
    ui::{self, prompt},
};
use std::path::{Path, PathBuf};

/// Change the inventory in $EDITOR, see what that means for the cluster, and apply it
#[derive(clap::Args)]
#[command(after_help = "\
The file is replaced only by one that is valid; what is wrong is shown with its place, and the editor opens
again with your text. Then comes what `pgfleet apply` does: the plan, a question, the change. Where you say no,
the file stays changed and the cluster as it is.

Examples:
  pgfleet edit -i inventory.yml
  pgfleet edit -i inventory.yml group_vars/postgres.yml
  EDITOR=nano pgfleet edit")]
pub struct Args {
    /// A file of variables beside the inventory, to be changed instead of the inventory itself
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    locking: Locking,

    #[command(flatten)]
    drift: DriftArgs,
}

impl Args {
    pub fn common(&self) -> &Common {
        &self.common
    }
}

pub async fn run(args: Args) -> Outcome {
    let Args { file, common, locking, drift } = args;
    let file = file.map_or_else(|| common.inventory.clone(), |named| beside(&common.inventory, named));
    let Some(()) = rewrite(&common, &file).await? else {
        ui::note("Nothing was changed.");
        return Ok(Exit::Done);
    };
    ui::note(&format!("{} is changed. What that means for the cluster:", file.display()));
    deploy::apply(ApplyArgs { plan: None, common, no_restart: false, max_write_gap: None, locking, drift })
        .await
}

/// Edits until the text is valid, or given up.
async fn rewrite(common: &Common, file: &Path) -> Result<Option<()>, Error> {
    let keys = keyring(&common.vault_password_file, !common.yes);
    let before = read(file)?;
    let name = file.file_name().map_or("inventory.yml".into(), |name| name.to_string_lossy());
    let mut text = before.clone();
    loop {
        text = secret::edit(&name, &text).await?;
        if text == before {
            return Ok(None);
        }
        match Inventory::rewrite(&common.inventory, &common.extra_vars, &keys, file, text.expose()) {
            Ok(()) => return Ok(Some(())),
            Err(wrong) if common.yes || !prompt::possible() => return Err(wrong.into()),
            Err(wrong) => {
                wrong.0.iter().for_each(ui::diagnostic);
                if !ui::confirm("Edit it again?") {
                    return Ok(None);
                }
            }
        }
    }
}

/// It may hold passwords.
fn read(file: &Path) -> Result<Secret, Error> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Diagnostic::error(format!("`{}` cannot be read: {error}", file.display()))
            .help("name the inventory with -i, or a file of group_vars/ or host_vars/ beside it")
    })?;
    if text.starts_with("$ANSIBLE_VAULT;") {
        let next = format!("`ansible-vault edit {}`, then `pgfleet apply`", file.display());
        return Err(Error::usage("the file is sealed as a whole", next));
    }
    Ok(Secret::new(text))
}

/// As it is named from here, or from the inventory's folder.
fn beside(inventory: &Path, named: PathBuf) -> PathBuf {
    let there = inventory.parent().map(|folder| folder.join(&named));
    there.filter(|there| !named.exists() && there.exists()).unwrap_or(named)
}
