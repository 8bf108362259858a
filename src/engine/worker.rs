//! One host's hands: the SSH session, the process `pgfleet remote` at its end, and the protocol
//! between.

use crate::{
    inventory,
    model::Digest,
    remote::{
        frame::{self, FrameError},
        preflight::{
            Questions, Survey,
            links::{Dial, Door, Reached, Unreached},
        },
        protocol::{Batch, Drift, Event, Hello, Outcome, Request},
    },
    ssh::{self, ConnectError, Executables, Session, SessionError, Target},
};
use std::{collections::HashMap, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// Contents that a run may have to send, by their digest.
pub type Contents = HashMap<Digest, Arc<[u8]>>;

/// The host went away, or its hands did: nothing is known about the step under way.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Lost {
    pub message: String,
    pub last_lines: Vec<String>,
}

/// What a batch tells while it runs.
pub enum Progress<'a> {
    Started(u32),
    Waiting(&'a str),
    Finished(u32, &'a Outcome),
}

/// Why a host's hands could not be started. Nothing was changed on it.
#[derive(Debug, thiserror::Error)]
pub enum NoHands {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("pgfleet's hands do not answer: {0}")]
    Silent(String),
}

impl NoHands {
    /// What is wrong, for where the host is named already.
    pub fn problem(&self) -> String {
        match self {
            NoHands::Connect(error) => error.problem.to_string(),
            NoHands::Session(error) => error.problem.to_string(),
            NoHands::Silent(_) => self.to_string(),
        }
    }

    /// What the operator does next.
    pub fn next_step(&self) -> String {
        match self {
            NoHands::Connect(error) => error.next_step(),
            NoHands::Session(error) => error.next_step(),
            NoHands::Silent(_) => {
                "run `/var/lib/pgfleet/bin/current --version` on the host to see whether it runs there"
                    .to_owned()
            }
        }
    }

    /// Whether the host said no, in contrast to not being there at all.
    pub fn is_unreachable(&self) -> bool {
        match self {
            NoHands::Connect(_) => true,
            NoHands::Session(error) => error.is_unreachable(),
            NoHands::Silent(_) => false,
        }
    }
}

pub struct Worker {
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What has to be ended besides; none where the hands are at the end of a pipe.
    connection: Option<Connection>,
    events: mpsc::Receiver<Result<Event, FrameError>>,
    pub hello: Hello,
}

/// What carries the two streams of a host's hands.
struct Connection {
    session: Session,
    stderr: ssh::Stderr,
}

impl Worker {
    /// Connects, makes sure that the target has this very executable, and starts its hands.
    pub async fn connect(
        host: &inventory::Host,
        options: &ssh::Options,
        executables: &Executables,
    ) -> Result<Worker, NoHands> {
        let target = Target::of(host, options);
        let session = Session::connect(&target, options).await?;
        let process = session.start_remote(executables, target.r#become.is_some()).await?;
        let connection = Connection { session, stderr: process.stderr };
        Self::greet(process.stdout, process.stdin, Some(connection)).await
    }

    /// Hands at the other end of two streams, however they have come there.
    pub async fn over(
        stdout: impl AsyncRead + Send + Unpin + 'static,
        stdin: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Worker, NoHands> {
        Self::greet(stdout, stdin, None).await
    }

    async fn greet(
        stdout: impl AsyncRead + Send + Unpin + 'static,
        stdin: impl AsyncWrite + Send + Unpin + 'static,
        connection: Option<Connection>,
    ) -> Result<Worker, NoHands> {
        let (sender, mut events) = mpsc::channel(64);
        tokio::spawn(read(stdout, sender));
        match events.recv().await {
            Some(Ok(Event::Hello(hello))) => Ok(Worker { stdin: Box::new(stdin), connection, events, hello }),
            Some(Err(error)) => Err(NoHands::Silent(error.to_string())),
            _ => {
                let said = connection.map(|connection| connection.stderr.last_lines(5)).unwrap_or_default();
                Err(NoHands::Silent(said.join("; ")))
            }
        }
    }

    /// Sends a batch and sees it through. Steps after the first failure have no outcome.
    pub async fn carry_out(
        &mut self,
        batch: Batch,
        contents: &Contents,
        cancel: &CancellationToken,
        mut on: impl FnMut(Progress<'_>),
    ) -> Result<HashMap<u32, Outcome>, Lost> {
        let mut outcomes = HashMap::with_capacity(batch.steps.len());
        self.send(&[Request::Batch(batch)], None).await?;
        let mut told = false;
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = cancel.cancelled(), if !told => {
                    told = true;
                    self.send(&[Request::Cancel], None).await?;
                    continue;
                }
            };
            match event {
                // Told to stop, the hands end their session after the step under way.
                None | Some(Err(_)) if told => return Ok(outcomes),
                None => return Err(self.lost("the connection was closed in the middle of a step")),
                Some(Err(error)) => return Err(self.lost(&error.to_string())),
                Some(Ok(event)) => match event {
                    Event::Hello(_)
                    | Event::Surveyed(_)
                    | Event::Opened(_)
                    | Event::Dialled(_)
                    | Event::Drifted(_) => {}
                    Event::Need { .. } if told => {}
                    Event::Need { digests } => self.send_contents(&digests, contents).await?,
                    Event::Started { step } => on(Progress::Started(step)),
                    Event::Waiting { message, .. } => on(Progress::Waiting(&message)),
                    Event::Finished { step, outcome } => {
                        on(Progress::Finished(step, &outcome));
                        outcomes.insert(step, outcome);
                    }
                    Event::BatchDone => return Ok(outcomes),
                },
            }
        }
    }

    /// Says who runs what, so that those who find the host taken are told. Before the first batch.
    pub async fn introduce(&mut self, purpose: &str) -> Result<(), Lost> {
        self.send(&[Request::Introduce { purpose: purpose.to_owned() }], None).await
    }

    /// Takes debts back: the control machine has judged that what was noted has not changed anything.
    pub async fn settle(&mut self, handlers: &[String]) -> Result<(), Lost> {
        self.send(&[Request::Debts { owe: Vec::new(), settle: handlers.to_vec() }], None).await
    }

    /// Asks what is there. Changes nothing; between batches.
    pub async fn survey(&mut self, questions: Questions) -> Result<Survey, Lost> {
        self.answer(Request::Survey(Box::new(questions)), |event| match event {
            Event::Surveyed(survey) => Some(survey),
            _ => None,
        })
        .await
    }

    /// Has ports listened on for other hosts until [`Worker::close`]; `name` is the host's. Between batches.
    pub async fn open(&mut self, name: &str, doors: Vec<Door>) -> Result<Vec<Result<u16, String>>, Lost> {
        self.answer(Request::Open { name: name.to_owned(), doors }, |event| match event {
            Event::Opened(opened) => Some(opened),
            _ => None,
        })
        .await
    }

    /// Has ports of other hosts connected to. Between batches.
    pub async fn dial(&mut self, dials: Vec<Dial>) -> Result<Vec<Result<Reached, Unreached>>, Lost> {
        self.answer(Request::Dial(dials), |event| match event {
            Event::Dialled(dialled) => Some(dialled),
            _ => None,
        })
        .await
    }

    /// Asks what is no longer as we put it. Changes nothing; between batches.
    pub async fn drift(&mut self) -> Result<Vec<Drift>, Lost> {
        self.answer(Request::Drift, |event| match event {
            Event::Drifted(drifts) => Some(drifts),
            _ => None,
        })
        .await
    }

    /// Sends a request that has one answer, and waits for that.
    async fn answer<T>(&mut self, request: Request, of: impl Fn(Event) -> Option<T>) -> Result<T, Lost> {
        self.send(&[request], None).await?;
        loop {
            match self.events.recv().await {
                None => return Err(self.lost("the connection was closed")),
                Some(Err(error)) => return Err(self.lost(&error.to_string())),
                Some(Ok(event)) => {
                    if let Some(answer) = of(event) {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    async fn send_contents(&mut self, digests: &[Digest], contents: &Contents) -> Result<(), Lost> {
        for digest in digests {
            let Some(content) = contents.get(digest) else {
                return Err(
                    self.lost(&format!("the host asked for a content that this run does not have: {digest}"))
                );
            };
            self.send(&[Request::Content { digest: *digest }], Some(content)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, requests: &[Request], content: Option<&[u8]>) -> Result<(), Lost> {
        let sent = async {
            for request in requests {
                frame::write_message(&mut self.stdin, request).await?;
            }
            if let Some(content) = content {
                frame::write_content(&mut self.stdin, content).await?;
            }
            self.stdin.flush().await?;
            Ok::<(), FrameError>(())
        };
        sent.await.map_err(|error| self.lost(&error.to_string()))
    }

    fn lost(&self, message: &str) -> Lost {
        let said = self.connection.as_ref().map(|connection| connection.stderr.last_lines(10));
        Lost { message: message.to_owned(), last_lines: said.unwrap_or_default() }
    }

    /// Ends the hands and the connection. A host that is gone already is no error.
    pub async fn close(mut self) {
        let _ = self.stdin.shutdown().await;
        if let Some(connection) = self.connection {
            connection.session.close().await;
        }
    }
}

/// Reads events until the stream ends; a reader of its own, so that waiting for an event can be
/// given up at any moment without losing half a frame.
async fn read(mut stdout: impl AsyncRead + Unpin, sender: mpsc::Sender<Result<Event, FrameError>>) {
    loop {
        let event = match frame::read(&mut stdout).await {
            Ok(Some(frame)) => frame.decode(),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let over = event.is_err();
        if sender.send(event).await.is_err() || over {
            return;
        }
    }
}
