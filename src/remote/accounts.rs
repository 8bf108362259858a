//! Users and groups of a target by name: from its own files first, then from whatever its name service
//! knows (only on the running system).

use std::{fs, path::Path};

pub(crate) struct Accounts<'a> {
    root: &'a Path,
}

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub comment: String,
    pub home: String,
    pub shell: String,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountGroup {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

impl<'a> Accounts<'a> {
    pub fn of(root: &'a Path) -> Self {
        Self { root }
    }

    fn lines(&self, file: &str) -> Vec<Vec<String>> {
        // A tree without the file has no accounts; what needs one says so.
        let text = fs::read_to_string(self.root.join(file)).unwrap_or_default();
        text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
    }

    fn users(&self) -> impl Iterator<Item = Account> {
        self.lines("etc/passwd").into_iter().filter_map(|fields| match fields.as_slice() {
            [name, _, uid, gid, comment, home, shell] => Some(Account {
                name: name.clone(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                comment: comment.clone(),
                home: home.clone(),
                shell: shell.clone(),
            }),
            _ => None,
        })
    }

    /// Every group in the group file.
    pub fn groups(&self) -> impl Iterator<Item = AccountGroup> {
        self.lines("etc/group").into_iter().filter_map(|fields| match fields.as_slice() {
            [name, _, gid, members] => Some(AccountGroup {
                name: name.clone(),
                gid: gid.parse().ok()?,
                members: members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect(),
            }),
            _ => None,
        })
    }

    pub fn user(&self, name: &str) -> Option<Account> {
        self.users().find(|account| account.name == name).or_else(|| {
            let user = self.named_elsewhere(|| nix::unistd::User::from_name(name))?;
            Some(Account {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                comment: user.gecos.to_string_lossy().into_owned(),
                home: user.dir.display().to_string(),
                shell: user.shell.display().to_string(),
            })
        })
    }

    pub fn group(&self, name: &str) -> Option<AccountGroup> {
        self.groups().find(|group| group.name == name).or_else(|| {
            let group = self.named_elsewhere(|| nix::unistd::Group::from_name(name))?;
            Some(AccountGroup { name: group.name, gid: group.gid.as_raw(), members: group.mem })
        })
    }

    /// The name of a user id, or the id itself.
    pub fn user_name(&self, uid: u32) -> String {
        self.users()
            .find(|account| account.uid == uid)
            .map_or_else(|| uid.to_string(), |account| account.name)
    }

    /// The name of a group id, or the id itself.
    pub fn group_name(&self, gid: u32) -> String {
        self.groups().find(|group| group.gid == gid).map_or_else(|| gid.to_string(), |group| group.name)
    }

    fn named_elsewhere<T>(&self, look: impl FnOnce() -> nix::Result<Option<T>>) -> Option<T> {
        // A name service that can't be reached knows nobody.
        if self.root == Path::new("/") { look().ok().flatten() } else { None }
    }
}
