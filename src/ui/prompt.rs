//! Questions to a person at a terminal. Nobody there means no answer.

use crate::model::Secret;
use dialoguer::{Input, Password, Select};
use std::io::IsTerminal;

/// Whether somebody is there to answer.
pub fn possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for a line of text until `accept` takes it; what it says is shown otherwise. An empty line takes the
/// default. `None` where nobody answers.
pub fn text(question: &str, default: &str, accept: impl Fn(&str) -> Result<(), String>) -> Option<String> {
    if !possible() {
        return None;
    }
    Input::<String>::new()
        .with_prompt(question)
        .with_initial_text("")
        .default(default.to_owned())
        .show_default(!default.is_empty())
        .allow_empty(true)
        .validate_with(|text: &String| accept(text))
        .interact_text()
        .ok()
}

/// Asks for one of some answers; the first is the default.
pub fn choice(question: &str, answers: &[&str]) -> Option<usize> {
    if !possible() {
        return None;
    }
    Select::new().with_prompt(question).items(answers).default(0).interact_opt().ok().flatten()
}

/// Asks for a passphrase, which is not shown; a new one has to be typed twice. An empty line is no answer.
pub fn passphrase(question: &str, new: bool) -> Option<Secret> {
    if !possible() {
        return None;
    }
    let prompt = Password::new().with_prompt(question).allow_empty_password(true);
    let prompt = if new { prompt.with_confirmation("Once more", "The two differ.") } else { prompt };
    let typed = zeroize::Zeroizing::new(prompt.interact().ok()?);
    Some(Secret::new(typed.trim())).filter(|passphrase| !passphrase.expose().is_empty())
}
