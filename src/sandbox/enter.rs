//! Ways into a sandbox's network for programs of this machine.

use super::{Error, Name, Result, Sandbox, host::enter_namespace, layout::Store, network::is_namespace};
use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command};

/// Makes this process a member of the sandbox's network, for good. To be called before any other
/// thread is started: only the calling thread changes its network.
pub fn enter(name: &Name) -> Result<()> {
    let sandbox = Sandbox::open(&Store::from_environment(), name)?;
    sandbox.enter()
}

/// The private key that logs in to the hosts of a sandbox.
pub fn identity_file(name: &Name) -> PathBuf {
    Store::from_environment().resolved().sandbox(name).key()
}

/// The known_hosts file with the keys of a sandbox's hosts.
pub fn known_hosts(name: &Name) -> PathBuf {
    Store::from_environment().resolved().sandbox(name).known_hosts()
}

/// Replaces this process by a program of this machine inside the sandbox's network; returns only if
/// that fails.
pub fn exec(sandbox: &Sandbox, program: &OsString, arguments: &[OsString]) -> Error {
    if let Err(error) = sandbox.enter() {
        return error;
    }
    let source = Command::new(program).args(arguments).exec();
    Error::Spawn { program: program.to_string_lossy().into_owned(), source }
}

/// The arguments of OpenSSH's `ssh` that log in to a host, and run `command` there if there is one.
pub fn ssh_command(
    sandbox: &Sandbox,
    host: &str,
    user: Option<&str>,
    command: &[OsString],
) -> Result<Vec<OsString>> {
    let host = sandbox.host(host)?;
    let user = user.unwrap_or("root");
    let mut arguments: Vec<OsString> =
        ["-F", "/dev/null", "-o", "IdentitiesOnly=yes"].map(OsString::from).into();
    arguments.extend(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"].map(OsString::from));
    arguments.push("-o".into());
    arguments.push(format!("UserKnownHostsFile={}", sandbox.known_hosts().display()).into());
    arguments.extend(["-i".into(), sandbox.identity_file().into()]);
    arguments.extend(["-p".into(), host.port.to_string().into()]);
    arguments.push(format!("{user}@{}", host.address).into());
    arguments.extend(command.iter().cloned());
    Ok(arguments)
}

impl Sandbox {
    fn enter(&self) -> Result<()> {
        let path = self.namespace();
        if !is_namespace(&path) {
            // The machine was restarted since, or the run that made it was killed.
            return Err(Error::Halted { name: self.name().clone() });
        }
        enter_namespace(&path).map_err(|why| Error::Enter { name: self.name().clone(), why })
    }
}
