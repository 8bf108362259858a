//! Becoming another user: the script that does it, and what sudo's complaints mean.

use super::{error::SessionProblem, launch::quote, target::Become};

const NO_SUDO: &str = "pgfleet-no-sudo";

/// A script that runs `command` as the user of `become`: directly when that is the login user, through
/// sudo, or by root without sudo through runuser. With a password sudo asks by `prompt` on standard
/// error and reads standard input; without one it must not ask.
pub fn script(r#become: &Become, command: &str, prompt: &str) -> String {
    let user = quote(&r#become.user);
    let asking =
        if r#become.password.is_some() { format!("-S -p {}", quote(prompt)) } else { "-n".to_owned() };
    // The complaints are read by `diagnose`, so they must not be translated.
    format!(
        "c={command}; u={user}; LC_ALL=C; export LC_ALL; \
         if test \"$(id -un)\" = \"$u\"; then exec sh -c \"$c\"; fi; \
         if command -v sudo >/dev/null 2>&1; then exec sudo -H {asking} -u \"$u\" -- sh -c \"$c\"; fi; \
         if test \"$(id -u)\" = 0; then exec runuser -u \"$u\" -- sh -c \"$c\"; fi; \
         echo {NO_SUDO} >&2; exit 127",
        command = quote(command),
    )
}

/// What kept sudo from running the command, read from standard error; `None` when it was not sudo.
pub fn diagnose(complaint: &str, user: &str) -> Option<SessionProblem> {
    let says = |texts: &[&str]| texts.iter().any(|text| complaint.contains(text));
    let user = user.to_owned();
    if says(&[NO_SUDO]) {
        return Some(SessionProblem::NoSudo { user });
    }
    if says(&[
        "incorrect password",
        "Sorry, try again",
        "Authentication failed, try again",
        "no password was provided",
    ]) {
        return Some(SessionProblem::SudoWrongPassword { user });
    }
    if says(&["a password is required", "interactive authentication is required"]) {
        return Some(SessionProblem::SudoNeedsPassword);
    }
    if says(&[
        "is not in the sudoers file",
        "is not allowed to",
        "may not run sudo",
        "I'm afraid I can't do that",
    ]) {
        return Some(SessionProblem::NotInSudoers { user });
    }
    if says(&["you must have a tty"]) {
        return Some(SessionProblem::SudoNeedsTerminal);
    }
    let said: Vec<_> = complaint.lines().filter(|line| line.starts_with("sudo:")).map(str::trim).collect();
    (!said.is_empty()).then(|| SessionProblem::Sudo { said: said.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What sudo 1.8 to 1.9 and sudo-rs print.
    #[test]
    fn tells_sudos_complaints_apart() {
        let problems = [
            "sudo: a password is required\n",
            "sudo: interactive authentication is required\n",
            "deploy is not in the sudoers file.  This incident will be reported.\n",
            "Sorry, user deploy is not allowed to execute '/bin/sh' as root on pg1.\n",
            "Sorry, try again.\nsudo: 1 incorrect password attempt\n",
            "sudo: sorry, you must have a tty to run sudo\n",
            "sudo: unable to resolve host pg1\nsudo: /etc/sudo.conf is owned by uid 1000, should be 0\n",
            "pgfleet-no-sudo\n",
            "sh: 1: nothing of ours: not found\n",
        ]
        .map(|complaint| diagnose(complaint, "deploy").map_or("-".to_owned(), |problem| problem.to_string()));
        insta::assert_snapshot!(problems.join("\n"), @r"
        sudo asks for a password, and none is given
        sudo asks for a password, and none is given
        user `deploy` may not use sudo
        user `deploy` may not use sudo
        sudo does not accept the password of user `deploy`
        sudo wants a terminal (`requiretty`)
        sudo failed: sudo: unable to resolve host pg1; sudo: /etc/sudo.conf is owned by uid 1000, should be 0
        sudo is not installed, and user `deploy` is not root
        -
        ");
    }
}
