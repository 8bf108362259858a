//! What a target can be made to be: a file per resource, each with its arguments, check and apply.
//! This file is their list, and how a playbook's words become one of them.

mod agent_binary;
mod agent_handover;
mod apt;
mod apt_get;
mod apt_repository;
mod blockinfile;
mod content;
mod copy;
mod dpkg;
mod dpkg_selections;
mod dynamic_config;
mod etcd_member;
mod etcd_membership;
mod exec;
mod file;
mod generation;
mod generations;
mod group;
mod haproxy_backends;
mod modprobe;
mod offers;
mod package_upgrade;
mod pam_limits;
mod pg_upgrade;
mod placement;
mod ports_free;
mod postgres_cluster;
mod postgres_replication;
mod postgres_roles;
mod running_executable;
mod running_settings;
mod service;
mod sysctl;
mod systemd_unit;
mod unarchive;
mod user;
mod vip;
mod wait_for;

pub(in crate::remote) use blockinfile::block_in;

pub use agent_binary::AgentBinary;
pub use agent_handover::AgentHandover;
pub use apt::{Apt, PackageState};
pub use apt_repository::AptRepository;
pub use blockinfile::Blockinfile;
pub use content::Content;
pub use copy::Copy;
pub use dpkg_selections::{DpkgSelections, Selection};
pub use dynamic_config::DynamicConfig;
pub use etcd_member::EtcdMember;
pub use etcd_membership::{EtcdMembership, Membership};
pub use exec::{Command, Shell};
pub use file::{File, FileState};
pub use generation::{GenerationState, KeptGeneration};
pub use group::Group;
pub use haproxy_backends::HaproxyBackends;
pub use modprobe::Modprobe;
pub use package_upgrade::PackageUpgrade;
pub use pam_limits::{LimitType, PamLimits};
pub use pg_upgrade::{PgUpgrade, Transfer, UpgradeState};
pub use ports_free::PortsFree;
pub use postgres_cluster::PostgresCluster;
pub use postgres_replication::PostgresReplication;
pub use postgres_roles::PostgresRoles;
pub use running_executable::RunningExecutable;
pub use service::{Service, ServiceState};
pub use sysctl::Sysctl;
pub use systemd_unit::SystemdUnit;
pub use unarchive::Unarchive;
pub use user::User;
pub use vip::{Vip, VipAddress};
pub use wait_for::{WaitFor, WaitState};

use crate::{
    model::Digest,
    remote::{
        arguments,
        host::{Context, Finding, Host, Manage},
        protocol::{AWAITED, Failure, Mode},
        systemd,
        wait::{Look, until},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{sync::LazyLock, time::Duration};

/// A word of playbooks: a resource, or one that the engine lowers to a resource.
#[derive(Clone, Debug)]
pub struct Module {
    pub name: &'static str,
    /// Other words for the same.
    pub aliases: &'static [&'static str],
    /// The arguments that a playbook may give, their aliases among them.
    pub fields: &'static [&'static str],
    /// The argument that a lone text stands for (`command: ls`).
    pub free_form: Option<&'static str>,
}

macro_rules! resources {
    ($($name:literal $variant:ident $([$($alias:literal),*])? $(free $free:literal)? $(plus $($extra:literal),*)?;)*) => {
        /// A resource with its arguments, named by the playbook's word for it.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Resource {
            $($variant($variant),)*
        }

        impl Resource {
            /// The playbook's word for this kind of resource.
            pub fn module(&self) -> &'static str {
                match self {
                    $(Resource::$variant(_) => $name,)*
                }
            }

            pub(super) async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
                match self {
                    $(Resource::$variant(resource) => resource.check(context).await,)*
                }
            }

            pub(super) async fn apply(
                &self,
                context: &Context<'_>,
                finding: &mut Finding,
            ) -> Result<(), Failure> {
                match self {
                    $(Resource::$variant(resource) => resource.apply(context, finding).await,)*
                }
            }

            pub(super) async fn verify(
                &self,
                context: &Context<'_>,
                finding: &mut Finding,
            ) -> Result<(), Failure> {
                match self {
                    $(Resource::$variant(resource) => resource.verify(context, finding).await,)*
                }
            }
        }

        fn read(module: &str, args: Value) -> Result<Resource, arguments::Mistake> {
            match module {
                $($name => arguments::read(args).map(Resource::$variant),)*
                _ => Err(serde::de::Error::custom(format!("`{module}` is no resource"))),
            }
        }

        fn all() -> Vec<Module> {
            vec![$(Module {
                name: $name,
                aliases: &[$($($alias),*)?],
                fields: with(arguments::fields_of::<$variant>(), &[$($($extra),*)?]),
                free_form: None$(.or(Some($free)))?,
            },)*]
        }
    };
}

resources! {
    "apt" Apt ["package"];
    "package_upgrade" PackageUpgrade;
    "dpkg_selections" DpkgSelections;
    "apt_repository" AptRepository ["deb822_repository"];
    "file" File;
    "copy" Copy plus "src";
    "blockinfile" Blockinfile;
    "unarchive" Unarchive plus "src";
    "user" User;
    "group" Group;
    "systemd_unit" SystemdUnit plus "src";
    "service" Service ["systemd", "systemd_service"];
    "sysctl" Sysctl;
    "modprobe" Modprobe;
    "pam_limits" PamLimits;
    "command" Command free "cmd";
    "shell" Shell free "cmd";
    "wait_for" WaitFor;
    "ports_free" PortsFree;
    "agent_binary" AgentBinary;
    "agent_handover" AgentHandover;
    "running_executable" RunningExecutable;
    "generation" KeptGeneration;
    "etcd_member" EtcdMember;
    "etcd_membership" EtcdMembership;
    "postgres_cluster" PostgresCluster;
    "postgres_roles" PostgresRoles;
    "postgres_replication" PostgresReplication;
    "dynamic_config" DynamicConfig;
    "pg_upgrade" PgUpgrade;
    "haproxy_backends" HaproxyBackends;
    "vip" Vip;
}

/// `fields` and `extra` as one list that lives as long as the program; called once per module.
fn with(fields: &'static [&'static str], extra: &[&'static str]) -> &'static [&'static str] {
    if extra.is_empty() { fields } else { [fields, extra].concat().leak() }
}

/// Every word that a playbook's task may use for a resource, `template` (which the engine lowers to
/// `copy`) among them.
pub fn modules() -> &'static [Module] {
    static MODULES: LazyLock<Vec<Module>> = LazyLock::new(|| {
        let mut modules = all();
        let fields: Vec<_> = modules
            .iter()
            .filter(|module| module.name == "copy")
            .flat_map(|module| module.fields.iter().copied().filter(|field| *field != "content"))
            .collect();
        modules.push(Module { name: "template", aliases: &[], fields: fields.leak(), free_form: None });
        modules
    });
    &MODULES
}

/// The module that a playbook's word, or an alias of it, means. `ansible.builtin.` and the like before
/// the word are allowed.
pub fn module(word: &str) -> Option<&'static Module> {
    let word = word.rsplit('.').next().unwrap_or(word);
    modules().iter().find(|module| module.name == word || module.aliases.contains(&word))
}

/// The resource that rendered arguments describe. The error is a sentence about the argument that is
/// wrong. `src` must have been lowered to `content` before.
pub fn parse(word: &str, args: Value) -> Result<Resource, String> {
    let Some(module) = module(word) else {
        return Err(format!("`{word}` is no resource"));
    };
    let args = match (args, module.free_form) {
        (Value::String(text), Some(field)) => Value::Object(Map::from_iter([(field.into(), text.into())])),
        (Value::Null, _) => Value::Object(Map::new()),
        (args, _) => args,
    };
    let resource = read(module.name, args).map_err(|mistake| mistake.to_string())?;
    resource.validate()?;
    Ok(resource)
}

impl Resource {
    /// The contents that must be on the target before it can be applied.
    pub fn contents(&self) -> Vec<Digest> {
        let content = match self {
            Resource::Copy(copy) => Some(&copy.content),
            Resource::SystemdUnit(unit) => unit.content.as_ref(),
            Resource::Unarchive(archive) => archive.content.as_ref(),
            _ => None,
        };
        content.and_then(Content::stored).into_iter().collect()
    }

    /// Whether the target holds what its contents would make, so that they need not be transferred.
    pub(super) fn is_in_place(&self, host: &Host) -> bool {
        match self {
            Resource::Copy(copy) => copy.is_in_place(host),
            Resource::SystemdUnit(unit) => unit.is_in_place(host),
            Resource::Unarchive(archive) => archive.is_in_place(host),
            _ => true,
        }
    }

    /// What types alone can't say: arguments that need or exclude each other.
    fn validate(&self) -> Result<(), String> {
        match self {
            Resource::Apt(apt) => apt.validate(),
            Resource::PackageUpgrade(upgrade) => upgrade.validate(),
            Resource::AptRepository(repository) => repository.validate(),
            Resource::File(file) => file.validate(),
            Resource::Blockinfile(block) => block.validate(),
            Resource::Unarchive(archive) => archive.validate(),
            Resource::SystemdUnit(unit) => unit.validate(),
            Resource::Sysctl(sysctl) => sysctl.validate(),
            Resource::PamLimits(limits) => limits.validate(),
            Resource::EtcdMembership(membership) => membership.validate(),
            Resource::Command(command) => command.validate(),
            Resource::WaitFor(wait) => wait.validate(),
            Resource::PostgresRoles(roles) => roles.validate(),
            _ => Ok(()),
        }
    }
}

/// Whether something shall be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    #[default]
    Present,
    Absent,
}

/// Whether there is something to [`recover`].
pub(super) fn is_interrupted(host: &Host) -> bool {
    apt::is_interrupted(host)
}

/// Repairs what an interrupted run left that no step would find. Called with the host's lock held.
pub(super) async fn recover(context: &Context<'_>) -> Result<(), Failure> {
    apt::recover(context).await
}

/// Waits for a condition when applying. A plan looks once; what is missing then is worth a word only if
/// no earlier step of the plan would bring it.
async fn await_condition(
    context: &Context<'_>,
    limit: Duration,
    unit: Option<&str>,
    mut look: impl AsyncFnMut() -> Look,
) -> Result<Finding, Failure> {
    if context.mode == Mode::Check {
        let mut finding = Finding::unchanged();
        if let Look::Missing(missing) = look().await
            && !context.anticipates_change()
        {
            finding.warnings.push(format!("not so now: {missing}"));
            finding.result.insert(AWAITED.to_owned(), missing.into());
        }
        return Ok(finding);
    }
    match (until(context, limit, look).await, unit) {
        (Ok(()), _) => Ok(Finding::unchanged()),
        (Err(failure), Some(unit)) => Err(systemd::with_journal(context.host, unit, failure).await),
        (Err(failure), None) => Err(failure),
    }
}

/// Whether `text` matches a pattern in which `*` stands for anything and `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &pattern[1..];
            text.char_indices()
                .map(|(index, _)| index)
                .chain([text.len()])
                .any(|index| glob(rest, &text[index..]))
        }
        (Some('?'), Some(letter)) => glob(&pattern[1..], &text[letter.len_utf8()..]),
        (Some(wanted), Some(letter)) if wanted == letter => {
            glob(&pattern[wanted.len_utf8()..], &text[letter.len_utf8()..])
        }
        _ => false,
    }
}

fn yes() -> bool {
    true
}

fn minute_secs() -> u64 {
    60
}

fn five_minutes_secs() -> u64 {
    300
}

fn agent_url() -> String {
    "http://127.0.0.1:8008".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(word: &str, args: Value) -> String {
        parse(word, args).expect_err("a refusal")
    }

    #[test]
    fn every_module_has_fields_and_its_own_name() {
        let mut words = Vec::new();
        for module in modules() {
            assert!(!module.fields.is_empty(), "{} has no fields", module.name);
            words.push(module.name);
            words.extend(module.aliases);
        }
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count, "a word stands for two modules");
        assert!(module("template").is_some_and(|module| module.fields.contains(&"src")));
        assert!(module("ansible.builtin.systemd").is_some_and(|module| module.name == "service"));
    }

    #[test]
    fn resources_survive_the_wire() {
        let digest = Digest::of(b"x");
        let resource =
            parse("copy", json!({"dest": "/a", "content": {"sha256": digest, "size": "1"}, "mode": "0600"}))
                .expect("a resource");
        assert_eq!(resource.contents(), [digest]);
        let wire = serde_json::to_value(&resource).expect("serialisable");
        let back: Resource = serde_json::from_value(wire.clone()).expect("readable");
        assert_eq!(serde_json::to_value(&back).expect("serialisable"), wire);
        assert_eq!(wire["copy"]["mode"], "0600");
    }

    #[test]
    fn a_lone_text_is_the_command() {
        let Ok(Resource::Command(command)) = parse("command", json!("true")) else { panic!("a command") };
        assert_eq!(command.cmd.as_deref(), Some("true"));
    }

    #[test]
    fn refusals_name_the_argument() {
        insta::assert_snapshot!(refused("apt", json!({"name": "--force-yes"})), @"`name`: `--force-yes` is no package name (expected `name` or `name=version`)");
        insta::assert_snapshot!(refused("wait_for", json!({"timeout": 3})), @"expected one of `port`, `url`, `path`");
        insta::assert_snapshot!(refused("file", json!({"path": "/x", "state": "link"})), @"`src` is missing: what the link points to");
        insta::assert_snapshot!(refused("copy", json!({"dest": "/x", "content": 3.5, "mode": "rwx"})), @"`content`: expected text, found `3.5`");
        insta::assert_snapshot!(refused("vip", json!({"address": "10.0.0"})), @"`address`: expected an IPv4 address such as 10.0.0.5/24, found `10.0.0`");
        insta::assert_snapshot!(refused("command", json!("echo 'x")), @"`cmd`: a quote is not closed");
        insta::assert_snapshot!(refused("unarchive", json!({"dest": "/opt", "url": "http://x/y.tar.gz"})), @"`sha256` is missing: an archive that is fetched must be known beforehand");
        insta::assert_snapshot!(refused("copy", json!({"dest": "/x", "content": {"sha256": "12"}})), @"`content.sha256`: `12` is not a SHA-256; expected 64 hexadecimal digits");
        insta::assert_snapshot!(refused("service", json!({"name": "x", "state": "runing"})), @"`state`: expected one of `running`, `started`, `stopped`, `restarted`, `reloaded`, found `runing`; did you mean `running`?");
    }
}
