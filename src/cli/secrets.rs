//! `pgfleet secrets`: the generated passwords, sealed, shown, changed, and rotated on a running cluster.

use super::{
    Exit,
    common::{Common, Format},
    context::{Context, keyring},
    deploy::{self, Deploy},
    error::{Error, Outcome},
    locked::{self, Locking},
    on_cluster, sparingly,
};
use crate::{
    diagnostic::Diagnostic,
    inventory::{Inventory, vet_secret},
    model::Secret,
    remote::protocol::Mode,
    secret::{self, Keyring, Store},
    template::Templates,
    ui::{self, prompt},
};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The passwords that pgfleet generates: seal, view, edit, rekey, rotate
#[derive(clap::Args)]
#[command(after_help = "\
Passwords that the inventory does not set are generated once and kept beside it, in INVENTORY.secrets.yml:
sealed in Ansible Vault's format where there is a passphrase, else readable by its owner alone. Real
`ansible-vault` opens what pgfleet seals, and pgfleet what `ansible-vault` seals: whole files in group_vars/
and host_vars/, and single values with `!vault |`.

The passphrase comes from --vault-password-file FILE (an executable file is run and prints it), from such a
file named in PGFLEET_VAULT_PASSWORD_FILE or ANSIBLE_VAULT_PASSWORD_FILE, from PGFLEET_VAULT_PASSWORD, or is
asked for on a terminal.

Examples:
  pgfleet secrets init                                   generate what is absent, and seal it
  pgfleet secrets view superuser_password                print one password
  pgfleet secrets rotate                                 new passwords on the running cluster
  pgfleet secrets rotate replication_password -y
  ansible-vault view inventory.secrets.yml               the same file, with Ansible's own program")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Generate the passwords that are absent, and seal the file; one that is plain becomes sealed
    Init {
        #[command(flatten)]
        common: Common,
    },
    /// Print a password, or all of them as YAML, to standard output
    #[command(after_help = "\
Examples:
  pgfleet secrets view superuser_password
  PGPASSWORD=$(pgfleet secrets view superuser_password) psql -h 10.0.0.100 -p 5000 -U postgres")]
    View {
        /// Its name, for example superuser_password; all of them when absent
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Change the passwords by hand in $EDITOR
    #[command(after_help = "\
The editor gets a file in memory that is wiped afterwards. What comes back is checked before it replaces
anything. The cluster has it after `pgfleet apply`; to have new passwords made, use `pgfleet secrets rotate`.")]
    Edit {
        #[command(flatten)]
        common: Common,
    },
    /// Seal the file with another passphrase
    #[command(after_help = "\
Examples:
  pgfleet secrets rekey --vault-password-file old --new-vault-password-file new
  pgfleet secrets rekey                                  asks for both")]
    Rekey {
        /// A file with the new passphrase; an executable one is run and prints it. Asked for when absent
        #[arg(long, value_name = "FILE")]
        new_vault_password_file: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Give a running cluster new passwords, without an interruption
    #[command(after_help = "\
The new passwords are kept first, beside the old ones. Then the primary's roles get them (as SCRAM verifiers:
no password reaches a log), the agents are reloaded, every replica proves that it gets in with them, and
keepalived is reloaded on all hosts at once. Then the old ones are forgotten. Open sessions stay open. A
rotation that was interrupted is completed by the same command, or by `pgfleet apply`.

Examples:
  pgfleet secrets rotate                                 every password that pgfleet generated
  pgfleet secrets rotate superuser_password vip_password")]
    Rotate {
        /// Which; all that pgfleet generated when absent
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

pub fn run(args: Args) -> Outcome {
    match args.command {
        Command::Init { common } => init(&common),
        Command::View { name, common } => view(name.as_deref(), &common),
        Command::Edit { common } => sparingly(edit(common)),
        Command::Rekey { new_vault_password_file, common } => rekey(new_vault_password_file, &common),
        Command::Rotate { names, common } => on_cluster(&common.clone(), rotate(names, common)),
    }
}

fn keys(common: &Common) -> Keyring {
    keyring(&common.vault_password_file, !common.yes)
}

fn init(common: &Common) -> Outcome {
    let keys = keys(common);
    let mut store = Store::beside(&common.inventory, &keys)?;
    let before: Vec<String> = store.iter().map(|(name, _)| name.to_owned()).collect();
    if !store.is_sealed() {
        let Some(passphrase) = keys.to_seal(store.path())? else { return Err(no_passphrase(&store)) };
        if store.is_written() {
            store.seal_with(passphrase);
            store.save()?;
        }
    }
    let inventory = Inventory::load_with(&common.inventory, &common.extra_vars, &keys)?;
    inventory.warnings.iter().for_each(ui::diagnostic);
    let store = Store::beside(&common.inventory, &keys)?;
    let names: Vec<&str> = store.iter().map(|(name, _)| name).collect();
    let new: Vec<&str> =
        names.iter().copied().filter(|name| before.iter().all(|known| known != name)).collect();
    match common.format {
        Format::Json => ui::json(&json!({
            "file": store.path(), "sealed": store.is_sealed(), "secrets": names, "generated": new,
        })),
        Format::Text if names.is_empty() => {
            ui::note("The inventory sets every secret; there is nothing to generate.");
        }
        Format::Text => {
            let file = store.path().display();
            ui::note(&format!("{file} is sealed: {} secrets, {} of them new.", names.len(), new.len()));
        }
    }
    Ok(Exit::Done)
}

fn no_passphrase(store: &Store<'_>) -> Error {
    let message = format!("there is no passphrase to seal `{}` with", store.path().display());
    Error::from(secret::ways().into_iter().fold(Diagnostic::error(message), Diagnostic::help))
}

fn view(name: Option<&str>, common: &Common) -> Outcome {
    let keys = keys(common);
    let store = Store::beside(&common.inventory, &keys)?;
    let Some(name) = name else {
        let all: Map<String, Value> =
            store.iter().map(|(name, secret)| (name.to_owned(), secret.expose().into())).collect();
        match common.format {
            Format::Json => ui::json(&all),
            Format::Text if all.is_empty() => ui::note("There are no generated secrets."),
            Format::Text => ui::line(crate::yaml::to_string(&all).trim_end()),
        }
        return Ok(Exit::Done);
    };
    let Some(secret) = store.get(name) else { return Err(no_such(&store, name)) };
    match common.format {
        Format::Json => ui::json(&json!({name: secret.expose()})),
        Format::Text => ui::line(secret.expose()),
    }
    Ok(Exit::Done)
}

fn no_such(store: &Store<'_>, name: &str) -> Error {
    let names = || store.iter().map(|(name, _)| name);
    let message = format!("`{}` has no secret `{name}`", store.path().display());
    let known: Vec<&str> = names().collect();
    let there =
        if known.is_empty() { "it has none".to_owned() } else { format!("it has: {}", known.join(", ")) };
    Error::from(Diagnostic::error(message).helps(crate::diagnostic::did_you_mean(name, names())).help(there))
}

async fn edit(common: Common) -> Outcome {
    let keys = keys(&common);
    let mut store = Store::beside(&common.inventory, &keys)?;
    let before = store.text();
    let mut text = before.clone();
    loop {
        text = secret::edit("secrets.yml", &text).await?;
        if text == before {
            ui::note("Nothing was changed.");
            return Ok(Exit::Done);
        }
        let taken = store.take(&text).and_then(|()| vet(&store));
        match taken {
            Ok(()) => break,
            Err(wrong) if common.yes || !prompt::possible() => return Err(wrong.into()),
            Err(wrong) => {
                ui::diagnostic(&wrong);
                if !ui::confirm("Edit it again?") {
                    ui::note("Nothing was changed.");
                    return Ok(Exit::Invalid);
                }
            }
        }
    }
    store.save()?;
    ui::note(&format!("{} is changed; `pgfleet apply` brings it to the cluster.", store.path().display()));
    Ok(Exit::Done)
}

fn vet(store: &Store<'_>) -> Result<(), Diagnostic> {
    store.iter().try_for_each(|(name, secret)| vet_secret(name, secret))
}

fn rekey(new: Option<PathBuf>, common: &Common) -> Outcome {
    let keys = keys(common);
    let mut store = Store::beside(&common.inventory, &keys)?;
    if !store.is_written() {
        let message = format!("there is no `{}` to seal", store.path().display());
        return Err(Error::usage(message, "`pgfleet secrets init` makes it"));
    }
    let passphrase = match &new {
        Some(file) => Some(secret::from_file(file, "--new-vault-password-file")?),
        None if common.yes => None,
        None => prompt::passphrase("New passphrase", true),
    };
    let passphrase: Secret = passphrase.ok_or_else(|| {
        Error::usage("there is no new passphrase", "give it by `--new-vault-password-file FILE`")
    })?;
    store.seal_with(passphrase);
    store.save()?;
    match common.format {
        Format::Json => ui::json(&json!({"file": store.path(), "sealed": true})),
        Format::Text => {
            ui::note(&format!("{} is sealed with the new passphrase.", store.path().display()));
        }
    }
    Ok(Exit::Done)
}

async fn rotate(names: Vec<String>, common: Common) -> Outcome {
    if common.limit.is_some() || !common.tags.is_empty() || !common.skip_tags.is_empty() {
        let next = "leave out --limit, --tags and --skip-tags";
        return Err(Error::usage("a rotation concerns every host of the cluster", next));
    }
    let keys = keys(&common);
    let context = Context::load_with(&common, &keys)?;
    let mut store = Store::beside(&common.inventory, &keys)?;
    let names = if names.is_empty() { store.unfinished() } else { names };
    let chosen = context.inventory.rotatable(&names)?;
    let list = chosen.iter().map(|secret| secret.name).collect::<Vec<_>>().join(", ");
    if chosen.is_empty() {
        let next = "change them there, then `pgfleet apply`";
        return Err(Error::usage("the inventory sets every secret; pgfleet generated none", next));
    }
    let question = format!("Give {} a new {list}? Open sessions stay open.", context.inventory.cluster);
    if !common.yes && ui::interactive() && !ui::confirm(&question) {
        ui::note("Nothing was changed.");
        return Ok(Exit::Done);
    }
    for secret in chosen {
        store.rotate(secret.name, secret.most);
    }
    store.save()?;
    let inventory = Inventory::load_with(&common.inventory, &common.extra_vars, &keys)?;
    let mut templates = Templates::new(super::context::overrides("templates"))?;
    templates.share(&inventory.global_variables())?;
    let context = Context { common, inventory, templates };
    let playbook = deploy::load(&context, "credentials")?;
    let holder = locked::holder(&format!("secrets rotate {list}"), &context.common);
    // The cluster is told of the new ones.
    let lock = Locking { other_secrets: true, ..Locking::default() };
    let report = deploy::carry_out(&context, &playbook, &Deploy::under(lock.applying(&holder))).await?;
    let exit = deploy::finish(&context, &report, Mode::Apply);
    if exit != Exit::Done {
        ui::note(
            "The rotation has not ended; the old and the new secrets are kept. Run the same command again.",
        );
        return Ok(exit);
    }
    store.end_rotation();
    store.save()?;
    if context.common.format == Format::Text {
        ui::note(&format!("New in {}: {list}.", context.inventory.cluster));
    }
    Ok(Exit::Done)
}
