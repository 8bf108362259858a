//! Which variable may be behind a line that somebody changed by hand: a template, read backwards. Pure, and no more
//! than a guess; whether it holds shows when the file is rendered with it.

use super::{
    catalogue::VARIABLES,
    variable::{Kind, Variable},
};
use serde_json::{Map, Value};

/// A variable whose other value may explain a changed line.
#[derive(Clone, Debug, PartialEq)]
pub struct Guess {
    pub variable: &'static str,
    /// The key within it, where it is a map of settings.
    pub entry: Option<String>,
    pub was: Value,
    pub value: Value,
}

impl Guess {
    /// The variable as a whole, once the guess is made true.
    pub fn whole(&self, vars: &Map<String, Value>) -> Value {
        let Some(entry) = &self.entry else { return self.value.clone() };
        let mut map = vars.get(self.variable).and_then(Value::as_object).cloned().unwrap_or_default();
        map.insert(entry.clone(), self.value.clone());
        Value::Object(map)
    }
}

impl std::fmt::Display for Guess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.variable)?;
        self.entry.as_ref().map_or(Ok(()), |entry| write!(f, ".{entry}"))
    }
}

/// What may be behind the differences of a unified diff, likely ones first. Its `-` lines are what is on the host, its
/// `+` lines what the inventory makes of it with these variables.
pub fn guesses(diff: &str, vars: &Map<String, Value>) -> Vec<Guess> {
    let mut found: Vec<(bool, Guess)> = Vec::new();
    for (theirs, ours) in changed_lines(diff) {
        for (theirs, word) in changed_words(theirs, ours) {
            for guess in VARIABLES.iter().flat_map(|variable| explain(variable, vars, word, theirs)) {
                let named = |part: &str| part.len() > 2 && ours.contains(part);
                let unlikely = !guess.to_string().split(['_', '.']).any(named);
                if !found.iter().any(|(_, known)| *known == guess) {
                    found.push((unlikely, guess));
                }
            }
        }
    }
    found.sort_by_key(|(unlikely, _)| *unlikely);
    found.into_iter().map(|(_, guess)| guess).collect()
}

/// How many lines of a file a diff is about.
pub fn differing(diff: &str) -> usize {
    diff.lines().filter(|line| is_changed(line)).count()
}

fn is_changed(line: &str) -> bool {
    line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++")
}

/// Pairs of (what is there, what would be), from runs of as many lines taken away as put in.
fn changed_lines(diff: &str) -> Vec<(&str, &str)> {
    let (mut pairs, mut theirs, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for line in diff.lines().chain([""]) {
        match line.as_bytes().first() {
            Some(b'-') if is_changed(line) && ours.is_empty() => theirs.push(&line[1..]),
            Some(b'+') if is_changed(line) => ours.push(&line[1..]),
            _ => {
                if theirs.len() == ours.len() {
                    pairs.extend(theirs.iter().copied().zip(ours.iter().copied()));
                }
                theirs.clear();
                ours.clear();
                if is_changed(line) {
                    theirs.push(&line[1..]);
                }
            }
        }
    }
    pairs
}

/// The words that differ between two lines of as many words, without a unit that both have.
fn changed_words<'a>(theirs: &'a str, ours: &'a str) -> Vec<(&'a str, &'a str)> {
    let words = |line: &'a str| -> Vec<&'a str> {
        line.split(|c: char| !(c.is_alphanumeric() || "_.:/%+-".contains(c)))
            .filter(|word| !word.is_empty())
            .collect()
    };
    let (theirs, ours) = (words(theirs), words(ours));
    if theirs.len() != ours.len() {
        return Vec::new();
    }
    let differing = theirs.into_iter().zip(ours).filter(|(theirs, ours)| theirs != ours);
    differing
        .flat_map(|(theirs, ours)| [Some((theirs, ours)), without_unit(theirs, ours)])
        .flatten()
        .collect()
}

fn without_unit<'a>(theirs: &'a str, ours: &'a str) -> Option<(&'a str, &'a str)> {
    let number = ours.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &ours[number.len()..];
    let theirs = theirs.strip_suffix(unit)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (!unit.is_empty() && is_number(number) && is_number(theirs)).then_some((theirs, number))
}

/// The guesses that have to do with one variable: its value is the word, and it can take the other one.
fn explain(variable: &Variable, vars: &Map<String, Value>, word: &str, theirs: &str) -> Vec<Guess> {
    let guess = |entry: Option<String>, was: &Value, value: Value| Guess {
        variable: variable.name,
        entry,
        was: was.clone(),
        value,
    };
    match (variable.kind, vars.get(variable.name)) {
        (Kind::Secret { .. } | Kind::Ignored | Kind::LocalPath | Kind::Map | Kind::ListOfText, _) => {
            Vec::new()
        }
        (Kind::Settings, Some(Value::Object(map))) => {
            let entries = map.iter().filter(|(_, value)| is_word(value, word));
            entries.map(|(key, was)| guess(Some(key.clone()), was, scalar(theirs))).collect()
        }
        (kind, Some(was)) if is_word(was, word) => {
            let value = kind.read(&scalar(theirs)).ok().filter(|value| value != was);
            value.map(|value| guess(None, was, value)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn is_word(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text == word,
        Value::Number(number) => number.to_string() == word,
        Value::Bool(value) => {
            [["false", "off", "no"], ["true", "on", "yes"]][usize::from(*value)].contains(&word)
        }
        _ => false,
    }
}

/// A number where it is one, else a text.
fn scalar(word: &str) -> Value {
    word.parse::<i64>().map_or_else(|_| word.into(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vars() -> Map<String, Value> {
        let vars = json!({
            "haproxy_maxconn": 2000, "haproxy_client_timeout": "30m", "haproxy_check_interval_ms": 250,
            "open_files_limit": 2000, "postgres_parameters": {"work_mem": "4MB"}, "superuser_password": "2000",
        });
        vars.as_object().cloned().unwrap_or_default()
    }

    fn said(diff: &str) -> Vec<String> {
        guesses(diff, &vars())
            .iter()
            .map(|guess| format!("{guess} {} -> {}", guess.was, guess.value))
            .collect()
    }

    #[test]
    fn the_variable_that_the_line_speaks_of_comes_first() {
        let diff =
            "--- a\n+++ b\n@@ -1,3 +1,3 @@\n global\n-    maxconn 5000\n+    maxconn 2000\n     daemon\n";
        assert_eq!(said(diff), ["haproxy_maxconn 2000 -> 5000", "open_files_limit 2000 -> 5000"]);
    }

    #[test]
    fn units_texts_and_settings_are_read() {
        let line = |theirs: &str, ours: &str| said(&format!("@@ -1 +1 @@\n-{theirs}\n+{ours}\n"));
        assert_eq!(line("inter 500ms", "inter 250ms"), ["haproxy_check_interval_ms 250 -> 500"]);
        assert_eq!(
            line("timeout client 1h", "timeout client 30m"),
            ["haproxy_client_timeout \"30m\" -> \"1h\""]
        );
        assert_eq!(
            line("work_mem: 8MB", "work_mem: 4MB"),
            ["postgres_parameters.work_mem \"4MB\" -> \"8MB\""]
        );
    }

    #[test]
    fn what_no_variable_explains_is_not_guessed_at() {
        for diff in [
            "@@ -1,2 +1 @@\n global\n-# by hand\n",
            "@@ -1 +1 @@\n-maxconn 5000 # more\n+maxconn 2000\n",
            "@@ -1 +1 @@\n-maxconn many\n+maxconn 2000\n",
            "@@ -1 +1 @@\n-bind 1.2.3.4:1\n+bind 4.3.2.1:1\n",
        ] {
            assert_eq!(said(diff), [""; 0], "{diff}");
        }
    }

    #[test]
    fn pairs_are_made_of_runs_of_equal_length() {
        let diff = "-a\n-b\n+c\n+d\n-e\n+f\n+g\n-h\n+i\n";
        assert_eq!(changed_lines(diff), [("a", "c"), ("b", "d"), ("h", "i")]);
        assert_eq!(differing(diff), 9);
    }
}
