//! Host ranges: `pg[1:3]`, `pg[01:10:3]`, `node-[a:c]`. Pure.

/// The most names that one range may stand for.
const MOST: usize = 10_000;

/// The names that a pattern of ranges stands for; the error says what is expected.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('[') else {
        return if pattern.contains(']') {
            Err("`]` without `[`".to_owned())
        } else {
            Ok(vec![pattern.to_owned()])
        };
    };
    let (prefix, rest) = pattern.split_at(open);
    let (range, rest) = rest[1..].split_once(']').ok_or("`[` without `]`")?;
    let steps = steps(range)?;
    let tails = expand(rest)?;
    if steps.len() * tails.len() > MOST {
        return Err(format!("more than {MOST} hosts in one range"));
    }
    Ok(steps.iter().flat_map(|step| tails.iter().map(move |tail| format!("{prefix}{step}{tail}"))).collect())
}

fn steps(range: &str) -> Result<Vec<String>, String> {
    let wrong = || {
        format!("`[{range}]` is not a range; expected two numbers or two letters, like `[1:3]` or `[a:c]`")
    };
    let parts: Vec<&str> = range.split(':').collect();
    let (first, last, step) = match parts[..] {
        [first, last] => (first, last, 1),
        [first, last, step] => (first, last, step.parse().ok().filter(|step| *step > 0).ok_or_else(wrong)?),
        _ => return Err(wrong()),
    };
    if let (Ok(low), Ok(high)) = (first.parse::<usize>(), last.parse::<usize>()) {
        if low > high {
            return Err(format!("`[{range}]` counts down; expected the lower number first"));
        }
        if high - low >= MOST {
            return Err(format!("more than {MOST} hosts in one range"));
        }
        let width = if first.starts_with('0') { first.len() } else { 0 };
        return Ok((low..=high).step_by(step).map(|number| format!("{number:0width$}")).collect());
    }
    let letter = |text: &str| {
        let mut letters = text.chars();
        letters.next().filter(|letter| letter.is_ascii_alphabetic() && letters.next().is_none())
    };
    match (letter(first), letter(last)) {
        (Some(low), Some(high)) if low <= high => Ok((low..=high).step_by(step).map(String::from).collect()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_numbers_and_letters() {
        let names = |pattern| expand(pattern).unwrap().join(" ");
        assert_eq!(names("pg"), "pg");
        assert_eq!(names("pg[1:3]"), "pg1 pg2 pg3");
        assert_eq!(names("pg[08:10].example"), "pg08.example pg09.example pg10.example");
        assert_eq!(names("pg[1:9:4]"), "pg1 pg5 pg9");
        assert_eq!(names("[a:b][1:2]"), "a1 a2 b1 b2");
    }

    #[test]
    fn refuses_what_is_no_range() {
        for pattern in ["pg[1:3", "pg]", "pg[]", "pg[1]", "pg[3:1]", "pg[a:2]", "pg[1:2:0]", "pg[1:99999999]"]
        {
            assert!(expand(pattern).is_err(), "{pattern}");
        }
    }
}
