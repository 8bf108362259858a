//! An authenticated connection to one host: commands, processes, tunnels.

use super::{
    channel::{self, Exit, ExitWatch, Process, Tunnel},
    config::Route,
    error::{SessionError, SessionProblem},
    host_key::{Gate, Lost, plain},
    launch::Launch,
    target::{Become, Target},
};
use crate::model::HostName;
use russh::{ChannelOpenFailure, Disconnect, client::Handle};
use std::{fmt, sync::Arc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An authenticated connection. Clones share it; it ends when the last one is dropped or one is closed.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    route: Route,
    handle: Handle<Gate>,
    lost: Lost,
    /// The connection that this one runs through lives as long.
    _jump: Option<Session>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} at {})", self.inner.target.name, self.inner.route.destination())
    }
}

/// What a command that has ended left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit code; 128 when a signal ended it.
    pub status: i32,
    pub stdout: Vec<u8>,
    /// The end of it, at most about 100 kB.
    pub stderr: Vec<u8>,
}

impl Session {
    pub(super) fn new(
        target: &Target,
        route: Route,
        handle: Handle<Gate>,
        lost: Lost,
        jump: Option<Session>,
    ) -> Self {
        Self { inner: Arc::new(Inner { target: target.clone(), route, handle, lost, _jump: jump }) }
    }

    /// The host's name in the inventory.
    pub fn host(&self) -> &HostName {
        &self.inner.target.name
    }

    /// The login user.
    pub fn user(&self) -> &str {
        &self.inner.route.user
    }

    /// `user@host:port`.
    pub fn destination(&self) -> String {
        self.inner.route.destination()
    }

    /// Whether commands become another user, as the target says.
    pub fn becomes(&self) -> bool {
        self.inner.target.r#become.is_some()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.handle.is_closed()
    }

    /// Runs `command` in a POSIX shell as the login user, feeds it `stdin`, and waits for its end. An
    /// exit code other than 0 is no error.
    pub async fn run(&self, command: &str, stdin: &[u8]) -> Result<Output, SessionError> {
        self.run_as(command, stdin, false).await
    }

    /// Like [`Session::run`]; with `become`, as the user that the target says.
    pub async fn run_as(&self, command: &str, stdin: &[u8], r#become: bool) -> Result<Output, SessionError> {
        let process = self.open(command, r#become).await?;
        let Process { stdin: mut input, stdout: mut output, stderr, mut exit } = process;
        let feed = async {
            // A command may end without having read all of it.
            if input.write_all(stdin).await.is_ok() {
                let _ = input.shutdown().await;
            }
        };
        let mut stdout = Vec::new();
        let (_, read) = tokio::join!(feed, output.read_to_end(&mut stdout));
        read.map_err(|error| self.error(SessionProblem::Lost { why: error.to_string() }))?;
        let status = self.status(&mut exit).await?;
        Ok(Output { status, stdout, stderr: stderr.bytes() })
    }

    async fn status(&self, exit: &mut ExitWatch) -> Result<i32, SessionError> {
        match exit.wait().await {
            Exit::Status(status) => Ok(status),
            Exit::Signal(_) => Ok(128),
            Exit::Refused => Err(self.error(SessionProblem::ExecRefused)),
            Exit::Lost => Err(self.error(self.lost())),
        }
    }

    /// Starts `command` in a POSIX shell; with `become`, as the user that the target says, through sudo
    /// where needed. Returns once it runs: sudo's questions are answered, and `stdout` begins with what
    /// the command itself prints.
    pub async fn open(&self, command: &str, r#become: bool) -> Result<Process, SessionError> {
        let root = Become::root();
        let r#become = r#become.then(|| self.inner.target.r#become.as_ref().unwrap_or(&root));
        let launch = Launch::new(command, r#become);
        let channel =
            self.inner.handle.channel_open_session().await.map_err(|error| self.channel_error(error))?;
        let exec = channel.exec(true, launch.line.as_bytes().to_vec()).await;
        let mut process = channel::attach(channel);
        exec.map_err(|_| self.error(self.lost()))?;
        launch.see_started(&mut process, self.user()).await.map_err(|problem| match problem {
            SessionProblem::Lost { .. } => self.error(self.lost()),
            problem => self.error(problem),
        })?;
        Ok(process)
    }

    /// Opens a TCP connection from the host to `address:port`, as the host itself would.
    pub async fn tunnel(&self, address: &str, port: u16) -> Result<Tunnel, SessionError> {
        let to = format!("{address}:{port}");
        let open = self.inner.handle.channel_open_direct_tcpip(address, u32::from(port), "127.0.0.1", 0);
        match open.await {
            Ok(channel) => Ok(Tunnel::new(channel::attach(channel))),
            Err(russh::Error::ChannelOpenFailure(failure)) => Err(self.error(match failure {
                ChannelOpenFailure::AdministrativelyProhibited => SessionProblem::TunnelForbidden { to },
                ChannelOpenFailure::ConnectFailed => {
                    SessionProblem::TunnelRefused { to, why: "nothing accepts connections there".to_owned() }
                }
                other => SessionProblem::TunnelRefused { to, why: format!("{other:?}") },
            })),
            Err(_) => Err(self.error(self.lost())),
        }
    }

    /// Ends the connection, for its clones too.
    pub async fn close(self) {
        let _ = self.inner.handle.disconnect(Disconnect::ByApplication, "", "").await;
    }

    pub(super) fn error(&self, problem: SessionProblem) -> SessionError {
        SessionError::new(self.host(), problem)
    }

    fn lost(&self) -> SessionProblem {
        SessionProblem::Lost { why: self.inner.lost.why() }
    }

    fn channel_error(&self, error: russh::Error) -> SessionError {
        self.error(match error {
            russh::Error::ChannelOpenFailure(failure) => {
                SessionProblem::ChannelRefused { why: format!("{failure:?}") }
            }
            russh::Error::SendError | russh::Error::Disconnect | russh::Error::HUP => self.lost(),
            other => SessionProblem::ChannelRefused { why: plain(&other) },
        })
    }
}
