//! One command on many hosts.

use super::{Trouble, on_each};
use crate::{
    cluster::Access,
    model::HostName,
    ssh::{self, Process, quote},
};
use bytes::Bytes;
use tokio::{io::AsyncReadExt as _, sync::mpsc};

/// What is run, for a POSIX shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(String);

impl Command {
    /// One word is a line for the shell; of several, each stays the word that it is.
    pub fn of(words: &[String]) -> Self {
        match words {
            [line] => Self(line.clone()),
            words => Self(words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which of its two outputs a command wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    Output,
    Error,
}

/// A piece of what a command says, as it arrived.
#[derive(Clone, Debug)]
pub struct Piece {
    pub host: HostName,
    pub said: Said,
    pub bytes: Bytes,
}

/// How a command ended on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

/// Runs the command on every host, as the user that the connection says. What it prints goes to `pieces` while
/// it runs; a slow reader slows the commands down.
pub async fn exec(
    access: &Access,
    hosts: &[HostName],
    forks: usize,
    command: &Command,
    pieces: mpsc::Sender<Piece>,
) -> Vec<(HostName, Result<Ended, Trouble>)> {
    on_each(access, hosts, forks, |host, session| {
        let pieces = pieces.clone();
        async move {
            let mut process = session.open(command.as_str(), session.becomes()).await?;
            // Nobody is there to type; what reads its input shall see its end.
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut process.stdin).await;
            hear(host, &mut process, &pieces).await;
            match process.wait().await {
                ssh::Exit::Status(code) => Ok(Ended::Code(code)),
                ssh::Exit::Signal(signal) => Ok(Ended::Signal(signal)),
                ssh::Exit::Refused => {
                    let next = "A `ForceCommand` in its sshd_config may stand in the way.";
                    Err(Trouble::here("the server refuses to run commands", next))
                }
                ssh::Exit::Lost => Err(Trouble {
                    message: "the connection was lost while the command ran".to_owned(),
                    next_step: "Whether it went on there is not known: look at the host.".to_owned(),
                    unreachable: true,
                }),
            }
        }
    })
    .await
}

/// Passes on all that a command prints, until it has closed both outputs.
async fn hear(host: &HostName, process: &mut Process, pieces: &mpsc::Sender<Piece>) {
    let mut errors = process.stderr.follow();
    let mut buffer = vec![0; 32 * 1024];
    let (mut output_ended, mut errors_ended) = (false, false);
    while !(output_ended && errors_ended) {
        let (said, bytes) = tokio::select! {
            read = process.stdout.read(&mut buffer), if !output_ended => match read {
                Ok(count @ 1..) => (Said::Output, Bytes::copy_from_slice(&buffer[..count])),
                _ => {
                    output_ended = true;
                    continue;
                }
            },
            piece = errors.recv(), if !errors_ended => match piece {
                Some(piece) => (Said::Error, piece),
                None => {
                    errors_ended = true;
                    continue;
                }
            },
        };
        if !bytes.is_empty() && pieces.send(Piece { host: host.clone(), said, bytes }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_line_and_several_stay_words() {
        let command = |words: &[&str]| {
            Command::of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).as_str().to_owned()
        };
        assert_eq!(command(&["df -h | tail -1"]), "df -h | tail -1");
        assert_eq!(command(&["ls", "-l", "/a b"]), "'ls' '-l' '/a b'");
    }
}
