//! Whole sessions against a directory tree: what the control machine would send is sent, what it would be
//! told is looked at.

mod drift;
mod interrupted;
mod sessions;
mod waits;

use crate::{
    model::Digest,
    remote::{
        frame::{self, Frame},
        protocol::{Batch, Event, Hello, Mode, Outcome, Request, Step, Verdict},
        server::serve,
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// The control machine's side of a session.
pub(super) struct Control<I, O> {
    to: I,
    from: O,
    contents: BTreeMap<Digest, Vec<u8>>,
    /// Contents that were asked for, over the whole session.
    pub sent: Vec<Digest>,
    pub waits: Vec<String>,
    pub overwrite_drift: bool,
}

impl<I: AsyncWrite + Unpin, O: AsyncRead + Unpin> Control<I, O> {
    pub async fn hello(&mut self) -> Hello {
        match self.event().await {
            Some(Event::Hello(hello)) => hello,
            other => panic!("expected a greeting, found {other:?}"),
        }
    }

    pub async fn send(&mut self, request: &Request) {
        frame::write_message(&mut self.to, request).await.expect("written");
        self.to.flush().await.expect("written");
    }

    pub async fn event(&mut self) -> Option<Event> {
        let frame = frame::read(&mut self.from).await.expect("readable")?;
        Some(frame.decode().expect("an event"))
    }

    /// Sends a batch and gathers its outcomes, by step.
    pub async fn batch(&mut self, mode: Mode, steps: Vec<Step>) -> Vec<Outcome> {
        self.send(&Request::Batch(Batch { mode, diff: true, overwrite_drift: self.overwrite_drift, steps }))
            .await;
        let mut outcomes = Vec::new();
        while let Some(event) = self.event().await {
            match event {
                Event::Need { digests } => {
                    for digest in digests {
                        self.send(&Request::Content { digest }).await;
                        let content = self.contents.get(&digest).expect("a content that the test has");
                        frame::write_content(&mut self.to, content).await.expect("written");
                        self.sent.push(digest);
                    }
                    self.to.flush().await.expect("written");
                }
                Event::Waiting { message, .. } => self.waits.push(message),
                Event::Finished { outcome, .. } => outcomes.push(outcome),
                Event::BatchDone => break,
                Event::Started { .. }
                | Event::Hello(_)
                | Event::Surveyed(_)
                | Event::Opened(_)
                | Event::Dialled(_)
                | Event::Drifted(_) => {}
            }
        }
        outcomes
    }
}

/// Runs `test` as the control machine of a session on the tree at `root`.
pub(super) async fn session<T>(
    root: &Path,
    contents: &[&[u8]],
    test: impl AsyncFnOnce(&mut Control<tokio::io::DuplexStream, tokio::io::DuplexStream>) -> T,
) -> T {
    let (to, input) = tokio::io::duplex(1 << 16);
    let (output, from) = tokio::io::duplex(1 << 16);
    let contents = contents.iter().map(|content| (Digest::of(content), content.to_vec())).collect();
    let mut control =
        Control { to, from, contents, sent: Vec::new(), waits: Vec::new(), overwrite_drift: false };
    let server = serve(input, output, root.to_owned(), CancellationToken::new());
    let control = async {
        let value = test(&mut control).await;
        drop(control.to);
        while let Ok(Some(Frame::Message(_))) = frame::read(&mut control.from).await {}
        value
    };
    let (served, value) = tokio::join!(server, control);
    served.expect("a session that ends well");
    value
}

/// A tree with the few files that resources expect of a host.
pub(super) fn tree() -> tempfile::TempDir {
    // In memory where there is such a place: what is synced a thousand times need not reach a disk.
    let shm = Path::new("/dev/shm");
    let root = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    let root = root.expect("a directory");
    let me = (nix::unistd::geteuid(), nix::unistd::getegid());
    for folder in [
        "etc/sysctl.d",
        "etc/security/limits.d",
        "etc/modules-load.d",
        "etc/apt/sources.list.d",
        "proc/sys/vm",
    ] {
        fs::create_dir_all(root.path().join(folder)).expect("a directory");
    }
    fs::create_dir_all(root.path().join("etc/systemd/system")).expect("a directory");
    fs::create_dir_all(root.path().join("sys/module/softdog")).expect("a directory");
    let passwd = format!("me:x:{}:{}::/home/me:/bin/sh\n", me.0, me.1);
    fs::write(root.path().join("etc/passwd"), passwd).expect("written");
    fs::write(root.path().join("etc/group"), format!("us:x:{}:me\n", me.1)).expect("written");
    fs::write(root.path().join("proc/sys/vm/swappiness"), "60\n").expect("written");
    root
}

pub(super) fn step(id: u32, module: &str, args: Value) -> Step {
    let resource = crate::remote::parse(module, args).expect("a resource");
    let step = json!({"id": id, "name": format!("{module} {id}"), "resource": resource});
    serde_json::from_value(step).expect("a step")
}

/// One step alone, with its outcome.
pub(super) async fn one(root: &Path, mode: Mode, step: Step) -> Outcome {
    let outcomes = session(root, &[], async |control| {
        control.hello().await;
        control.batch(mode, vec![step]).await
    });
    outcomes.await.into_iter().next().expect("an outcome")
}

pub(super) fn failure(outcome: &Outcome) -> String {
    match &outcome.verdict {
        Verdict::Failed(failure) => {
            format!("{}\n-> {}", failure.message, failure.next_step.as_deref().unwrap_or("nothing"))
        }
        other => panic!("expected a failure, found {other:?}"),
    }
}
