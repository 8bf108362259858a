//! The spelling of a pattern of hosts. What it selects is the inventory's to say.

/// Says what is wrong with the spelling of a pattern such as `etcd:&rack1:!db[3-5].example.com`.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    if pattern.contains("{{") {
        return Ok(());
    }
    let pattern = pattern.trim();
    if pattern.is_empty() {
        return Err("it is empty".to_owned());
    }
    let terms: Vec<&str> = terms(pattern);
    if terms.iter().all(|term| term.starts_with(['!', '&'])) && terms.len() == 1 {
        return Err("it has nothing to take from; begin with a group or `all`".to_owned());
    }
    for term in terms {
        let name = term.strip_prefix(['!', '&']).unwrap_or(term);
        if name.is_empty() {
            return Err("a term is empty".to_owned());
        }
        let odd =
            name.chars().find(|letter| !(letter.is_alphanumeric() || "._-*?[]~^$()|\\+:".contains(*letter)));
        if let Some(odd) = odd {
            return Err(format!("`{odd}` can't be part of a name"));
        }
        if name.matches('[').count() != name.matches(']').count() {
            return Err("a bracket is not closed".to_owned());
        }
    }
    Ok(())
}

/// The terms of a pattern: parts between `:` and `,`, where `:` within brackets separates nothing.
fn terms(pattern: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (index, letter) in pattern.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ':' | ',' if depth == 0 => {
                terms.push(pattern[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(pattern[start..].trim());
    terms
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn patterns() {
        for good in [
            "all",
            "*",
            "etcd:postgres",
            "a,b",
            "pg[1:3]",
            "postgres:&rack-1:!pg3",
            "db?.example.com",
            "~pg\\d+",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "a::b", "!a", "pg[1:3", "a b", "a:/b", "a:!"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
