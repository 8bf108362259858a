//! The reference page of variables, written from the catalogue.

use super::{
    catalogue::{ALIASES, GROUPS, VARIABLES},
    variable::{Default, Reach, Section, Variable},
};

/// `docs/variables.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Variables of an inventory\n\n\
         Written from the catalogue in `src/inventory/catalogue.rs`; a test keeps the two the same. Change it there, \
         then run `PGFLEET_WRITE_DOCS=1 cargo nextest run reference`.\n\n\
         A variable marked *cluster* has one value for the whole cluster, wherever it is set. The others may differ \
         from host to host. Precedence is Ansible's, weakest first: `vars` of `all`, of parent groups, of child \
         groups in the inventory file; the same order in `group_vars/`; the host in the inventory file; \
         `host_vars/`; `-e`.\n\n## Groups\n\n| group | its hosts |\n|---|---|\n",
    );
    for (name, doc) in GROUPS {
        page.push_str(&format!("| `{name}` | {doc} |\n"));
    }
    for section in Section::ALL {
        page.push_str(&format!("\n## {}\n\n", section.title()));
        page.push_str("| variable | takes | default | meaning | example |\n|---|---|---|---|---|\n");
        for variable in VARIABLES.iter().filter(|variable| variable.section == section) {
            page.push_str(&line(variable));
        }
    }
    page.push_str("\n## Other spellings\n\n| spelling | variable |\n|---|---|\n");
    for (alias, name) in ALIASES {
        page.push_str(&format!("| `{alias}` | `{name}` |\n"));
    }
    page.push_str(GIVEN);
    page
}

const GIVEN: &str = "
## What templates are given besides

| variable | meaning |
|---|---|
| `inventory_hostname`, `inventory_hostname_short` | the host's name, and its part before the first dot |
| `group_names` | the host's groups |
| `groups` | every group with the names of its hosts; the groups above are there even when they are empty |
| `hostvars` | the variables of every host, by its name |
| `scheme` | `https` where `tls` is on, else `http` |
| `tls_files` | by role (`etcd`, `postgres`), the argument `tls` of tasks that ask a service |
| `etcd_members` | a list of `{name, address, client_port, peer_port}` |
| `zookeeper_members` | a list of `{name, address, id, client_port, peer_port, election_port}` |
| `postgres_members` | a list of `{name, address, port, api_port}` |
| `haproxy_members` | a list of `{name, address}` |
| `keepalived_members` | a list of `{name, address, priority}` |
";

fn line(variable: &Variable) -> String {
    let default = match variable.default {
        Default::Unset => String::new(),
        Default::Required => "none; must be set".to_owned(),
        Default::Value(text) => format!("`{}`", cell(text)),
        Default::Computed { how, .. } | Default::FromHost { how, .. } => cell(how),
        Default::Generated => "generated once".to_owned(),
    };
    let reach = match variable.reach {
        Reach::Cluster => " *cluster*",
        Reach::Host => "",
    };
    let (takes, doc, example) = (cell(&variable.kind.words()), cell(variable.doc), cell(variable.example));
    format!("| `{}`{reach} | {takes} | {default} | {doc} | `{example}` |\n", variable.name)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/variables.md");
        if std::env::var_os("PGFLEET_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, super::page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == super::page(),
            "docs/variables.md is stale: PGFLEET_WRITE_DOCS=1 cargo nextest run reference"
        );
    }
}
