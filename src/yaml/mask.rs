//! Covers the values of secret keys in texts that are shown.

use regex::Regex;
use std::sync::LazyLock;

/// What keys end with whose values must never be shown.
const SECRET_ENDINGS: [&str; 7] =
    ["password", "passwd", "passphrase", "secret", "_pass", "token", "private_key"];

/// Whether a key's value must never be shown.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_ENDINGS.iter().any(|word| key.ends_with(word))
}

/// A text of whatever format with `***` for the values of secret keys: `key: value`, `key = value`, and
/// `some_key value`, as it is in configuration files.
pub fn cover(text: &str) -> String {
    static ASSIGNED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let ending = SECRET_ENDINGS.join("|");
        let (quoted, plain) = (r#""[^"\n]*"|'[^'\n]*'"#, r#"[^\s"',;})]"#);
        let assigned = format!(r"(?:{ending})[ \t]*=[ \t]*)(?:{quoted}|{plain}+");
        let spaced = format!(r"\w[-_\w]*[-_](?:{ending}|pass)[ \t]+)(?:{quoted}|[^=\s]{plain}*");
        Regex::new(&format!("(?i)({assigned})|({spaced})")).ok()
    });
    let covered = cover_secrets(text);
    match &*ASSIGNED {
        Some(assigned) => assigned.replace_all(&covered, "${1}${2}***").into_owned(),
        None => covered,
    }
}

/// The text with `***` for the values of secret keys. What follows in the line stays in its column.
pub(super) fn cover_secrets(text: &str) -> String {
    text.split_inclusive('\n').map(cover_line).collect()
}

/// The lines of a text that was sealed as a whole: keys alone.
pub(super) fn cover_everything(text: &str) -> String {
    let cover = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        match line.find(": ").or_else(|| line.trim_end().strip_suffix(':').map(str::len)) {
            _ if line.trim().is_empty() => String::new(),
            Some(colon) if colon + 1 == line.trim_end().len() => line.trim_end().to_owned(),
            Some(colon) => format!("{}: ***", &line[..colon]),
            None => format!("{}***", &line[..indent]),
        }
    };
    text.lines().map(|line| cover(line) + "\n").collect()
}

fn cover_line(line: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    let mut shown = characters.clone();
    let mut index = 0;
    while index < characters.len() {
        let colon = characters[index] == ':' && characters.get(index + 1).is_none_or(|c| c.is_whitespace());
        let key: String = if colon { key_before(&characters, index) } else { String::new() };
        index += 1;
        if !is_secret_key(&key) {
            continue;
        }
        let start = index + characters[index..].iter().take_while(|c| **c == ' ').count();
        let end = value_end(&characters, start);
        let value: String = characters[start..end].iter().collect();
        // A template, a tag or a block's header is no secret.
        if !value.contains("{{") && !value.starts_with(['!', '|', '>']) {
            for (offset, shown) in shown[start..end].iter_mut().enumerate() {
                *shown = if offset < 3 { '*' } else { ' ' };
            }
        }
        index = end.max(index);
    }
    let shown: String = shown.into_iter().collect();
    match shown.trim_end_matches(['\n', '\r']) {
        body if body == line.trim_end_matches(['\n', '\r']) => shown,
        body => format!("{}{}", body.trim_end(), &shown[body.len()..]),
    }
}

fn key_before(characters: &[char], colon: usize) -> String {
    let before = &characters[..colon];
    let before = before.strip_suffix(&['"']).or_else(|| before.strip_suffix(&['\''])).unwrap_or(before);
    let word = before.iter().rev().take_while(|c| c.is_alphanumeric() || **c == '_' || **c == '-').count();
    before[before.len() - word..].iter().collect()
}

fn value_end(characters: &[char], start: usize) -> usize {
    let quote = characters.get(start).filter(|c| matches!(c, '"' | '\''));
    let in_flow = characters[..start].contains(&'{');
    let length = match quote {
        Some(quote) => characters[start + 1..]
            .iter()
            .position(|c| c == quote)
            .map_or(characters.len() - start, |end| end + 2),
        None => characters[start..]
            .iter()
            .position(|c| matches!(c, '\n' | '\r') || (in_flow && matches!(c, ',' | '}')))
            .unwrap_or(characters.len() - start),
    };
    start + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_sealed_as_a_whole_keys_alone_are_shown() {
        let text = "a: b: c\n\nmap:\n  - item\n  k:   v\n";
        assert_eq!(cover_everything(text), "a: ***\n\nmap:\n  ***\n  k: ***\n");
    }

    #[test]
    fn covers_values_of_other_formats() {
        for (text, shown) in [
            (
                "-        auth_pass abc123\n+        auth_pass xyz\n",
                "-        auth_pass ***\n+        auth_pass ***\n",
            ),
            ("+  password: a b\n   user: c\n", "+  password: ***\n   user: c\n"),
            ("PGPASSWORD=x y", "PGPASSWORD=*** y"),
            ("conninfo = 'user=a password=b,c host=d'", "conninfo = 'user=a password=***,c host=d'"),
            ("user admin insecure-password x", "user admin insecure-password ***"),
            ("api_token = \"x y\" # z", "api_token = *** # z"),
            ("# the password of a role", "# the password of a role"),
            ("password_encryption = scram-sha-256", "password_encryption = scram-sha-256"),
        ] {
            assert_eq!(cover(text), shown);
        }
    }

    #[test]
    fn covers_values_and_keeps_columns() {
        for (text, shown) in [
            ("superuser_password: hunter2\n", "superuser_password: ***\n"),
            ("vars: {rewind_password: \"a, b\", ttl: 5}", "vars: {rewind_password: ***   , ttl: 5}"),
            ("ansible_become_password: x", "ansible_become_password: *"),
            ("password_encryption: scram-sha-256\n", "password_encryption: scram-sha-256\n"),
            ("superuser_password: \"{{ x }}\"\n", "superuser_password: \"{{ x }}\"\n"),
            ("vip_secret:\n", "vip_secret:\n"),
        ] {
            assert_eq!(cover_secrets(text), shown);
        }
    }
}
