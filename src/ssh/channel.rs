//! One channel of a connection: a running command or a tunnelled TCP stream.
//!
//! Owns its life: a task moves what arrives, and closes the channel on the server when the command has
//! ended or the reader is dropped. Without that, sshd would soon refuse further channels.

use bytes::{Buf as _, Bytes};
use russh::{Channel, ChannelMsg, client::Msg};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, mpsc, watch},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How much of what a command wrote to standard error is kept: its end.
const STDERR_KEPT_BYTES: usize = 64 * 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    /// Ended by this signal, named without `SIG`.
    Signal(String),
    /// The server would not run it.
    Refused,
    /// The connection ended first.
    Lost,
}

/// A running command. Dropping its `stdout` closes it: the command gets SIGHUP and the end of its input.
#[derive(Debug)]
pub struct Process {
    pub stdin: Stdin,
    pub stdout: Stdout,
    pub stderr: Stderr,
    pub(super) exit: ExitWatch,
}

impl Process {
    /// Waits for the end of the command. What it prints meanwhile is kept up to a limit, then it waits:
    /// read `stdout` to its end first.
    pub async fn wait(&mut self) -> Exit {
        self.exit.wait().await
    }
}

#[derive(Debug, Clone)]
pub(super) struct ExitWatch(watch::Receiver<Option<Exit>>);

impl ExitWatch {
    pub(super) async fn wait(&mut self) -> Exit {
        match self.0.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Lost),
            Err(_) => Exit::Lost,
        }
    }
}

/// Starts to move what arrives on `channel`.
pub(super) fn attach(channel: Channel<Msg>) -> Process {
    let (mut incoming, outgoing) = channel.split();
    let (data_sender, data) = mpsc::channel(16);
    let (exit_sender, exit) = watch::channel(None);
    let stderr = Stderr::default();
    let ended = CancellationToken::new();
    let stdin =
        Stdin { writer: Box::pin(outgoing.make_writer()), ended: Box::pin(ended.clone().cancelled_owned()) };
    let kept = stderr.clone();
    tokio::spawn(async move {
        let mut exit = None;
        let mut abandoned = false;
        let mut data_sender = Some(data_sender);
        loop {
            let message = match &data_sender {
                Some(sender) => tokio::select! {
                    message = incoming.wait() => message,
                    () = sender.closed() => {
                        abandoned = true;
                        break;
                    }
                },
                None => incoming.wait().await,
            };
            match message {
                Some(ChannelMsg::Data { data }) => {
                    if let Some(sender) = &data_sender
                        && sender.send(data).await.is_err()
                    {
                        abandoned = true;
                        break;
                    }
                }
                Some(ChannelMsg::ExtendedData { data, ext: 1 }) => kept.push(&data),
                Some(ChannelMsg::Eof) => data_sender = None,
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    exit = Some(Exit::Status(exit_status.cast_signed()))
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    exit = Some(Exit::Signal(format!("{signal_name:?}")));
                }
                Some(ChannelMsg::Failure) => {
                    exit = Some(Exit::Refused);
                    break;
                }
                Some(ChannelMsg::Close) | None => break,
                Some(_) => {}
            }
        }
        if abandoned {
            // sshd counts a session until its command has ended, so ask it to: what a lost terminal says.
            let _ = outgoing.signal(russh::Sig::HUP).await;
        }
        let _ = outgoing.close().await;
        drop(data_sender);
        kept.finish();
        exit_sender.send_replace(Some(exit.unwrap_or(Exit::Lost)));
        ended.cancel();
    });
    Process { stdin, stdout: Stdout { data, current: Bytes::new() }, stderr, exit: ExitWatch(exit) }
}

/// Standard input of a command. `shutdown` tells the command that there is no more; writes fail with
/// `BrokenPipe` once it has ended.
pub struct Stdin {
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl std::fmt::Debug for Stdin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stdin")
    }
}

impl Stdin {
    /// A writer that waits for the far side's window would wait for ever once the channel is gone.
    fn check_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(Err(error)) = self.check_ended(cx) {
            return Poll::Ready(Err(error));
        }
        self.writer.as_mut().poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.check_ended(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.writer.as_mut().poll_shutdown(cx)
    }
}

/// Standard output of a command.
#[derive(Debug)]
pub struct Stdout {
    data: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Stdout {
    /// The next piece as it arrived; `None` at the end.
    pub(super) async fn piece(&mut self) -> Option<Bytes> {
        if self.current.is_empty() { self.data.recv().await } else { Some(std::mem::take(&mut self.current)) }
    }

    /// Puts back what was read too far.
    pub(super) fn unread(&mut self, rest: Bytes) {
        self.current = rest;
    }
}

impl AsyncRead for Stdout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.data.poll_recv(cx)) {
                Some(piece) => self.current = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.current.len().min(into.remaining());
        into.put_slice(&self.current[..length]);
        self.current.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// The end of what a command wrote to standard error.
#[derive(Clone, Debug, Default)]
pub struct Stderr(Arc<StderrInner>);

#[derive(Debug, Default)]
struct StderrInner {
    text: Mutex<(Vec<u8>, bool)>,
    /// Who reads all of it, besides what is kept.
    reader: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    changed: Notify,
}

impl Stderr {
    fn push(&self, data: &[u8]) {
        // Held to the end, so that who comes to read misses nothing.
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = &*reader {
            let _ = reader.send(Bytes::copy_from_slice(data));
        }
        let mut guard = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.extend_from_slice(data);
        if guard.0.len() > 2 * STDERR_KEPT_BYTES {
            let surplus = guard.0.len() - STDERR_KEPT_BYTES;
            guard.0.drain(..surplus);
        }
        drop(guard);
        self.0.changed.notify_waiters();
    }

    fn finish(&self) {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.changed.notify_waiters();
    }

    /// What is kept so far, then every piece as it arrives, to the end of the command.
    pub fn follow(&self) -> mpsc::UnboundedReceiver<Bytes> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sender.send(Bytes::copy_from_slice(&guard.0));
        *reader = (!guard.1).then_some(sender);
        receiver
    }

    /// All that is kept.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// All that is kept, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The last `count` lines that are not empty.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = self.text();
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Forgets everything up to and including `marker`.
    pub(super) fn forget_through(&self, marker: &str) {
        let mut guard = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        let marker = marker.as_bytes();
        if let Some(at) = guard.0.windows(marker.len()).rposition(|window| window == marker) {
            guard.0.drain(..at + marker.len());
        }
    }

    /// Waits until the text contains `needle` for the `times`th time; false when the command ended first.
    pub(super) async fn wait_for(&self, needle: &str, times: usize) -> bool {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let guard = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
                if String::from_utf8_lossy(&guard.0).matches(needle).count() >= times {
                    return true;
                }
                if guard.1 {
                    return false;
                }
            }
            changed.await;
        }
    }
}

/// A TCP connection that the host opened for us. Dropping it closes it.
#[derive(Debug)]
pub struct Tunnel {
    stdin: Stdin,
    stdout: Stdout,
}

impl Tunnel {
    pub(super) fn new(process: Process) -> Self {
        Self { stdin: process.stdin, stdout: process.stdout }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, into)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
