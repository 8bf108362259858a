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

/// Asks for something that is not shown while it is typed. `None` where nobody answers, or with nothing.
pub fn secret(question: &str) -> Option<Secret> {
    if !possible() {
        return None;
    }
    let answer = Password::new().with_prompt(question).allow_empty_password(true).interact().ok()?;
    (!answer.is_empty()).then(|| Secret::new(answer))
}
