//! Accounts.

use super::Presence;
use crate::remote::{
    accounts::{Account, Accounts},
    command::Invocation,
    host::{Context, Finding, Manage, failure_with},
    protocol::Failure,
};
use serde::{Deserialize, Serialize};

/// `user`: an account exists with these attributes, or doesn't.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    #[serde(default)]
    pub uid: Option<u32>,
    /// The primary group.
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub groups: Option<Vec<String>>,
    /// Keep supplementary groups that are not named.
    #[serde(default)]
    pub append: bool,
    #[serde(default)]
    pub home: Option<String>,
    #[serde(default = "super::yes")]
    pub create_home: bool,
    #[serde(default)]
    pub shell: Option<String>,
    #[serde(default)]
    pub comment: Option<String>,
    #[serde(default)]
    pub system: bool,
    #[serde(default)]
    pub state: Presence,
    /// With `state: absent`, the home directory goes too.
    #[serde(default)]
    pub remove: bool,
}

impl User {
    /// What `usermod` would have to change, as its arguments and for people.
    fn changes(&self, accounts: &Accounts<'_>, account: &Account) -> Vec<(Vec<String>, String)> {
        let mut changes = Vec::new();
        let mut change = |option: &[&str], what: &str, old: &str, new: &str| {
            let args = option.iter().map(|word| (*word).to_owned()).chain([new.to_owned()]).collect();
            changes.push((args, format!("{what}: {old} -> {new}")));
        };
        if let Some(uid) = self.uid.filter(|uid| *uid != account.uid) {
            change(&["--uid"], "uid", &account.uid.to_string(), &uid.to_string());
        }
        if let Some(home) = self.home.as_ref().filter(|home| **home != account.home) {
            change(&["--home"], "home", &account.home, home);
        }
        if let Some(shell) = self.shell.as_ref().filter(|shell| **shell != account.shell) {
            change(&["--shell"], "shell", &account.shell, shell);
        }
        if let Some(comment) = self.comment.as_ref().filter(|comment| **comment != account.comment) {
            change(&["--comment"], "comment", &account.comment, comment);
        }
        let primary = accounts.group_name(account.gid);
        if let Some(group) = self.group.as_ref().filter(|group| **group != primary) {
            change(&["--gid"], "group", &primary, group);
        }
        if let Some(groups) = &self.groups {
            let mut current: Vec<String> = accounts
                .groups()
                .filter(|group| group.members.contains(&self.name))
                .map(|group| group.name)
                .collect();
            current.sort();
            let mut wanted = groups.clone();
            if self.append {
                wanted.extend(current.iter().cloned());
            }
            wanted.sort();
            wanted.dedup();
            // The primary group needs no membership of its own.
            wanted.retain(|group| *group != primary || current.contains(group));
            if wanted != current {
                change(&["--groups"], "groups", &current.join(","), &wanted.join(","));
            }
        }
        changes
    }

    fn creation(&self) -> Invocation {
        let mut args = Vec::new();
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                args.extend([name.to_owned(), value]);
            }
        };
        option("--uid", self.uid.map(|uid| uid.to_string()));
        option("--gid", self.group.clone());
        option(
            "--groups",
            self.groups.as_ref().filter(|groups| !groups.is_empty()).map(|groups| groups.join(",")),
        );
        option("--home-dir", self.home.clone());
        option("--shell", self.shell.clone());
        option("--comment", self.comment.clone());
        if self.system {
            args.push("--system".to_owned());
        }
        args.push(if self.create_home { "--create-home" } else { "--no-create-home" }.to_owned());
        Invocation::new("useradd").args(args).args(["--", &self.name])
    }
}

impl Manage for User {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let accounts = context.host.accounts();
        let mut finding = Finding::unchanged().with("name", self.name.as_str());
        match (accounts.user(&self.name), self.state) {
            (None, Presence::Absent) => {}
            (Some(_), Presence::Absent) => finding.differs(format!("user {}: present -> absent", self.name)),
            (None, Presence::Present) => {
                let groups = self.groups.iter().flatten().chain(&self.group);
                for group in groups {
                    if accounts.group(group).is_none() && !context.is_promised(&format!("group {group}")) {
                        return Err(failure_with(
                            format!("there is no group `{group}` on the host"),
                            "create it by a `group` task before this task",
                        ));
                    }
                }
                finding.differs(format!("user {}: absent -> present", self.name));
                context.promise(format!("user {}", self.name));
                // useradd makes a group of the same name unless it is told a group.
                context.promise(format!("group {}", self.name));
                if let Some(home) = self.home.as_ref().filter(|_| self.create_home) {
                    context.promise(format!("path {home}"));
                }
            }
            (Some(account), Presence::Present) => {
                for (_, line) in self.changes(&accounts, &account) {
                    finding.differs(format!("user {}: {line}", self.name));
                }
            }
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let accounts = context.host.accounts();
        let command = match (accounts.user(&self.name), self.state) {
            (_, Presence::Absent) if self.remove => Invocation::new("userdel").args(["--remove", &self.name]),
            (_, Presence::Absent) => Invocation::new("userdel").arg(&self.name),
            (None, Presence::Present) => self.creation(),
            (Some(account), Presence::Present) => {
                let args = self.changes(&accounts, &account).into_iter().flat_map(|(args, _)| args);
                Invocation::new("usermod").args(args).arg(&self.name)
            }
        };
        command.success(context.host, &format!("user {} could not be changed", self.name)).await.map(drop)
    }
}
