//! Covers the values of secret keys in texts that are shown.

/// Whether a key's value must never be shown.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    ["password", "passwd", "passphrase", "secret", "ansible_become_pass", "token", "private_key"]
        .iter()
        .any(|word| key.ends_with(word))
}

/// The text with `***` for the values of secret keys. What follows in the line stays in its column.
pub(super) fn cover_secrets(text: &str) -> String {
    text.split_inclusive('\n').map(cover_line).collect()
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
