//! Host patterns, with Ansible's meaning: `a:b` both, `a:&b` those in both, `a:!b` those of `a` not in `b`; a
//! name may have `*` and `?`. Pure.

use super::{Host, Inventory};
use crate::diagnostic::{Diagnostic, did_you_mean};
use indexmap::IndexSet;

enum Set {
    Union,
    Intersection,
    Difference,
}

/// The hosts that a pattern matches, in the inventory's order.
pub(super) fn select<'a>(inventory: &'a Inventory, pattern: &str) -> Result<Vec<&'a Host>, Diagnostic> {
    let mut parts = Vec::new();
    for part in pattern.split([':', ',']).map(str::trim).filter(|part| !part.is_empty()) {
        parts.push(match part.as_bytes() {
            [b'&', ..] => (Set::Intersection, &part[1..]),
            [b'!', ..] => (Set::Difference, &part[1..]),
            _ => (Set::Union, part),
        });
    }
    if parts.is_empty() {
        let expected = "expected the name of a group or host, a glob, or `all`";
        return Err(Diagnostic::error(format!("`{pattern}` names no hosts")).label(expected));
    }
    let only_restricts = !parts.iter().any(|(set, _)| matches!(set, Set::Union));
    let mut chosen: IndexSet<&str> = match only_restricts {
        true => inventory.hosts.keys().map(|name| name.as_str()).collect(),
        false => IndexSet::new(),
    };
    // Ansible takes all unions first, then intersections, then differences, wherever they stand.
    for turn in 0..3 {
        for (set, name) in &parts {
            match (turn, set) {
                (0, Set::Union) => chosen.extend(matching(inventory, name)?),
                (1, Set::Intersection) => {
                    let others: IndexSet<&str> = matching(inventory, name)?.into_iter().collect();
                    chosen.retain(|host| others.contains(host));
                }
                (2, Set::Difference) => {
                    let others: IndexSet<&str> = matching(inventory, name)?.into_iter().collect();
                    chosen.retain(|host| !others.contains(host));
                }
                _ => {}
            }
        }
    }
    Ok(inventory.hosts.values().filter(|host| chosen.contains(host.name.as_str())).collect())
}

fn matching<'a>(inventory: &'a Inventory, name: &str) -> Result<Vec<&'a str>, Diagnostic> {
    if name == "all" || name == "*" {
        return Ok(inventory.hosts.keys().map(|name| name.as_str()).collect());
    }
    let groups = inventory.groups.iter().filter(|(group, _)| glob(name, group)).collect::<Vec<_>>();
    let in_groups = groups.iter().flat_map(|(_, hosts)| hosts.iter().map(|host| host.as_str()));
    let by_name = inventory.hosts.keys().map(|host| host.as_str()).filter(|host| glob(name, host));
    let found: Vec<&str> = in_groups.chain(by_name).collect();
    if found.is_empty() && groups.is_empty() {
        let known = || {
            let hosts = inventory.hosts.keys().map(|host| host.as_str());
            inventory.groups.keys().map(String::as_str).chain(hosts)
        };
        let groups = inventory.groups.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Diagnostic::error(format!("`{name}` is no host and no group of the inventory"))
            .label("expected the name of a group or host, a glob, or `all`")
            .help(did_you_mean(name, known()).unwrap_or_else(|| format!("groups: {groups}"))));
    }
    Ok(found)
}

/// Whether a name matches a pattern with `*` (any characters) and `?` (one).
fn glob(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            glob(&pattern[1..], name)
                || name.chars().next().is_some_and(|c| glob(pattern, &name[c.len_utf8()..]))
        }
        (Some('?'), Some(c)) => glob(&pattern[1..], &name[c.len_utf8()..]),
        (Some(expected), Some(c)) if expected == c => glob(&pattern[c.len_utf8()..], &name[c.len_utf8()..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("pg*", "pg1", true),
            ("*", "", true),
            ("p?1", "pg1", true),
            ("pg", "pg1", false),
            ("*-1", "etcd-1", true),
            ("*a*b", "xaybzb", true),
            ("é?", "éa", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
    }
}
