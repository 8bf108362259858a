//! One variable of the inventory gets another value, in the file and at the place where it is set; everything else in
//! that file stays as its author wrote it.

use super::{Inventory, guess::Guess, merge::Draft, variable::is_templated};
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location},
    model::HostName,
    secret::Keyring,
    yaml,
};
use serde_json::Value;
use std::path::PathBuf;

/// Beside it a variable is set that nobody has set before.
const NEIGHBOUR: &str = "cluster_name";

impl Inventory {
    /// Sets the variable for a host: where it is set now, or else for the whole cluster. Gives the place. The file is
    /// only replaced where the inventory afterwards says just that; else the error tells where to write it by hand.
    pub fn assign(
        &self,
        guess: &Guess,
        host: &HostName,
        extra_vars: &[String],
        keys: &Keyring,
    ) -> Result<Location, Diagnostics> {
        let (at, file, text) = self.assigned(guess, host)?;
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        Self::rewrite(&self.path, extra_vars, keys, &file, &text)?;
        let wanted = self.hosts.get(host).map(|host| guess.whole(&host.vars));
        let now = Self::load_with(&self.path, extra_vars, keys)?;
        let got = now.hosts.get(host).and_then(|host| host.vars.get(guess.variable).cloned());
        if got == wanted {
            return Ok(at);
        }
        Self::rewrite(&self.path, extra_vars, keys, &file, &before)?;
        Err(by_hand(guess, &at).into())
    }

    /// The place, the file, and its text with the variable set.
    fn assigned(&self, guess: &Guess, host: &HostName) -> Result<(Location, PathBuf, String), Diagnostic> {
        let draft = self.drafts.get(host);
        let definition = |name: &str| draft.and_then(|draft: &Draft| draft.vars.get(name));
        let value = value_of(&guess.value);
        if let Some(definition) = definition(guess.variable) {
            let set = &definition.origin;
            let set = guess.entry.as_ref().map_or_else(|| set.clone(), |entry| set.key_within(entry));
            let at = set.location();
            if is_templated(&definition.value) {
                return Err(by_hand(guess, &at));
            }
            let text = set.document.text();
            let start = offset(text, &at).ok_or_else(|| by_hand(guess, &at))?;
            let length = scalar_length(text, start);
            let text = format!("{}{value}{}", &text[..start], &text[start + length..]);
            return Ok((at.clone(), at.file, text));
        }
        let neighbour = definition(NEIGHBOUR).filter(|_| guess.entry.is_none());
        let neighbour = &neighbour.ok_or_else(|| by_hand(guess, &Location::new(&self.path, 1, 1)))?.origin;
        let (at, text) = (neighbour.key_location(), neighbour.document.text());
        let start = offset(text, &at).ok_or_else(|| by_hand(guess, &at))?;
        let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let indent = &text[line..start];
        if indent.trim().is_empty() {
            let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
            let at = Location { line: at.line + 1, ..at };
            let text = format!("{}\n{indent}{}: {value}{}", &text[..end], guess.variable, &text[end..]);
            return Ok((at.clone(), at.file, text));
        }
        let text = format!("{}{}: {value}, {}", &text[..start], guess.variable, &text[start..]);
        Ok((at.clone(), at.file, text))
    }
}

fn by_hand(guess: &Guess, at: &Location) -> Diagnostic {
    Diagnostic::error(format!("`{guess}` cannot be set by itself here"))
        .at(at.clone())
        .help(format!("write `{guess}: {}` there yourself", value_of(&guess.value)))
}

fn value_of(value: &Value) -> String {
    yaml::to_string(value).trim_end().to_owned()
}

/// Where a line and column, both from one and in characters, are in a text.
fn offset(text: &str, at: &Location) -> Option<usize> {
    let line = text.split_inclusive('\n').nth(at.line.checked_sub(1)?)?;
    let before: usize = text.split_inclusive('\n').take(at.line - 1).map(str::len).sum();
    let (within, _) = line.char_indices().nth(at.column.checked_sub(1)?)?;
    Some(before + within)
}

/// How long the scalar is that begins at a place: to its closing quote, or to what ends a plain one.
fn scalar_length(text: &str, start: usize) -> usize {
    let rest = text[start..].lines().next().unwrap_or_default();
    match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        _ => {
            let within_braces =
                text[text[..start].rfind('\n').map_or(0, |end| end + 1)..start].contains(['{', '[']);
            let comment = rest.find(" #").unwrap_or(rest.len());
            let ended =
                if within_braces { rest.find([',', '}', ']']).unwrap_or(rest.len()) } else { rest.len() };
            rest[..comment.min(ended)].trim_end().len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn assigned(
        vars: &str,
        variable: &'static str,
        entry: Option<&str>,
        value: Value,
    ) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("demo.yml");
        let text = format!(
            "all:\n{vars}  children:\n    etcd: {{hosts: {{one: {{ansible_host: 10.0.0.1}}}}}}\n    haproxy: {{hosts: {{one: }}}}\n    \
             postgres: {{hosts: {{one: }}}}\n"
        );
        fs::write(&file, &text).expect("written");
        let keys = Keyring::of_environment();
        let inventory = Inventory::load_with(&file, &[], &keys).unwrap_or_else(|wrong| panic!("{wrong}"));
        let host = "one".parse().expect("a name");
        let guess = Guess { variable, entry: entry.map(str::to_owned), was: Value::Null, value };
        let done = inventory.assign(&guess, &host, &[], &keys);
        let now = fs::read_to_string(&file).expect("read");
        match done {
            Ok(at) => Ok(format!(
                "{}:{}\n{}",
                at.line,
                at.column,
                now.split("  children").next().unwrap_or_default()
            )),
            Err(wrong) => {
                assert_eq!(now, text, "as it was");
                Err(wrong.0[0].message.clone())
            }
        }
    }

    #[test]
    fn a_value_is_exchanged_where_it_stands() {
        let block = "  vars:\n    cluster_name: demo # ours\n    haproxy_maxconn: 2000   # many\n";
        assert_eq!(
            assigned(block, "haproxy_maxconn", None, json!(5000)).as_deref(),
            Ok("4:22\nall:\n  vars:\n    cluster_name: demo # ours\n    haproxy_maxconn: 5000   # many\n")
        );
        let flow = "  vars: {cluster_name: demo, haproxy_client_timeout: '30m', postgres_parameters: {work_mem: 4MB}}\n";
        assert_eq!(
            assigned(flow, "haproxy_client_timeout", None, json!("1h")).as_deref(),
            Ok(
                "2:54\nall:\n  vars: {cluster_name: demo, haproxy_client_timeout: 1h, postgres_parameters: {work_mem: 4MB}}\n"
            )
        );
        assert_eq!(
            assigned(flow, "postgres_parameters", Some("work_mem"), json!("8MB")).as_deref(),
            Ok(
                "2:93\nall:\n  vars: {cluster_name: demo, haproxy_client_timeout: '30m', postgres_parameters: {work_mem: 8MB}}\n"
            )
        );
    }

    #[test]
    fn a_variable_that_nobody_set_is_set_beside_the_clusters_name() {
        let block = "  vars:\n    # Whose it is.\n    cluster_name: demo # ours\n    ttl: 6\n";
        assert_eq!(
            assigned(block, "haproxy_maxconn", None, json!(5000)).as_deref(),
            Ok(
                "5:5\nall:\n  vars:\n    # Whose it is.\n    cluster_name: demo # ours\n    haproxy_maxconn: 5000\n    ttl: 6\n"
            )
        );
        assert_eq!(
            assigned("  vars: {cluster_name: demo}\n", "haproxy_maxconn", None, json!(5000)).as_deref(),
            Ok("2:10\nall:\n  vars: {haproxy_maxconn: 5000, cluster_name: demo}\n")
        );
    }

    #[test]
    fn what_cannot_be_done_leaves_the_file_as_it_was() {
        let templated = "  vars: {cluster_name: demo, custom: {many: 2000}, haproxy_maxconn: '{{ custom.many }}', ttl: 6}\n";
        assert!(assigned(templated, "haproxy_maxconn", None, json!(5000)).is_err());
        assert!(assigned(templated, "postgres_parameters", Some("work_mem"), json!("8MB")).is_err());
        assert!(assigned(templated, "ttl", None, json!(0)).is_err(), "not a value that it takes");
    }
}
