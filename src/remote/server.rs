//! A session: batches in, events out. Owns the order of things (lock, contents, debts, check, apply,
//! verification); what a step does is its resource's.

use crate::{
    model::Digest,
    remote::{
        debts::Debts,
        facts,
        frame::{self, Frame, FrameError},
        host::{Context, Finding, Host, failure, failure_with},
        lock::Lock,
        memory::Memory,
        preflight::{
            self, Questions,
            links::{self, Dial, Door, Doors},
        },
        protocol::{
            AWAITED, Batch, Drift, DriftKind, Effect, Event, Failure, Hello, Mode, Outcome, PROTOCOL_VERSION,
            Request, Step, Verdict,
        },
        resource,
    },
};
use std::{path::PathBuf, time::Instant};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::sync::CancellationToken;

/// Serves one session. It ends when the input ends, at [`Request::Cancel`], or when `stop` is cancelled;
/// the step at hand is finished first.
pub async fn serve(
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    root: PathBuf,
    stop: CancellationToken,
) -> Result<(), FrameError> {
    let (events, to_write) = unbounded_channel();
    let (incoming, requests) = unbounded_channel();
    let host = Host::new(root, stop.clone());
    let (purpose, doors) = (String::new(), Doors::default());
    let session = Session { host: &host, events, requests, lock: None, purpose, doors };
    let talk = async { tokio::join!(session.run(), write(output, to_write, &stop)).1 };
    let listen = async {
        let ended = listen(input, &incoming, &stop).await;
        drop(incoming);
        match ended {
            // The session finishes its step and then ends the other branch.
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        biased;
        written = talk => written,
        error = listen => Err(error),
    }
}

/// What arrives, besides what cancels.
enum Incoming {
    Batch(Batch),
    Content(Vec<u8>),
    Debts { owe: Vec<String>, settle: Vec<String> },
    Survey(Box<Questions>),
    Open { name: String, doors: Vec<Door> },
    Dial(Vec<Dial>),
    Introduce(String),
    Drift,
}

async fn listen(
    mut input: impl AsyncRead + Unpin,
    incoming: &UnboundedSender<Incoming>,
    stop: &CancellationToken,
) -> Result<(), FrameError> {
    let _cancel_at_the_end = stop.clone().drop_guard();
    while let Some(frame) = frame::read(&mut input).await? {
        let message = match frame {
            Frame::Content(content) => Incoming::Content(content),
            Frame::Message(_) => match frame.decode()? {
                Request::Batch(batch) => Incoming::Batch(batch),
                Request::Debts { owe, settle } => Incoming::Debts { owe, settle },
                Request::Survey(questions) => Incoming::Survey(questions),
                Request::Open { name, doors } => Incoming::Open { name, doors },
                Request::Dial(dials) => Incoming::Dial(dials),
                Request::Introduce { purpose } => Incoming::Introduce(purpose),
                Request::Drift => Incoming::Drift,
                // The content itself says what it is.
                Request::Content { .. } => continue,
                Request::Cancel => break,
            },
        };
        if incoming.send(message).is_err() {
            break;
        }
    }
    Ok(())
}

async fn write(
    mut output: impl AsyncWrite + Unpin,
    mut events: UnboundedReceiver<Event>,
    stop: &CancellationToken,
) -> Result<(), FrameError> {
    let _cancel_at_the_end = stop.clone().drop_guard();
    while let Some(event) = events.recv().await {
        frame::write_message(&mut output, &event).await?;
        if events.is_empty() {
            output.flush().await?;
        }
    }
    Ok(())
}

struct Session<'a> {
    host: &'a Host,
    events: UnboundedSender<Event>,
    requests: UnboundedReceiver<Incoming>,
    lock: Option<Lock>,
    /// Who runs what.
    purpose: String,
    /// What listens for other hosts.
    doors: Doors,
}

impl Session<'_> {
    async fn run(mut self) {
        self.tell(Event::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            facts: facts::gather(self.host),
            // A folder that can't be read is met again, and reported, by the first step that notifies.
            debts: Debts::of(self.host).list().unwrap_or_default(),
            interrupted: resource::is_interrupted(self.host),
        }));
        while let Some(incoming) = self.next().await {
            match incoming {
                Incoming::Batch(batch) => {
                    self.batch(&batch).await;
                    self.host.forget_contents();
                    self.tell(Event::BatchDone);
                }
                Incoming::Content(content) => {
                    self.host.store(content);
                }
                Incoming::Survey(questions) => {
                    self.tell(Event::Surveyed(preflight::survey(self.host, &questions).await));
                }
                Incoming::Open { name, doors } => {
                    let opened = self.doors.open(&name, &doors).await;
                    self.tell(Event::Opened(opened));
                }
                Incoming::Dial(dials) => {
                    self.tell(Event::Dialled(links::dial(self.host, &dials).await));
                }
                Incoming::Introduce(purpose) => self.purpose = purpose,
                Incoming::Drift => self.tell(Event::Drifted(Memory::of(self.host).drifts(self.host))),
                Incoming::Debts { owe, settle } => {
                    let debts = Debts::of(self.host);
                    // What can't be noted here fails the next step that owes something.
                    let _ = owe.iter().try_for_each(|handler| debts.owe(handler).map(drop));
                    let _ = settle.iter().try_for_each(|handler| debts.settle(handler));
                }
            }
        }
    }

    /// What arrived next; none when the session is to end.
    async fn next(&mut self) -> Option<Incoming> {
        tokio::select! {
            biased;
            incoming = self.requests.recv() => incoming,
            () = self.host.cancelled.cancelled() => None,
        }
    }

    fn tell(&self, event: Event) {
        // With the connection gone nobody listens; the writer has cancelled the session.
        let _ = self.events.send(event);
    }

    async fn batch(&mut self, batch: &Batch) {
        let wanted = batch.steps.iter().flat_map(|step| self.missing(batch, step)).collect();
        self.fetch(wanted).await;
        for step in &batch.steps {
            if self.host.cancelled.is_cancelled() {
                return;
            }
            self.tell(Event::Started { step: step.id });
            let outcome = self.step(batch, step).await;
            let failed = matches!(outcome.verdict, Verdict::Failed(_));
            self.tell(Event::Finished { step: step.id, outcome });
            if failed {
                return;
            }
        }
    }

    /// The contents that looking at or carrying out a step takes and that are not here.
    fn missing(&self, batch: &Batch, step: &Step) -> Vec<Digest> {
        if batch.mode == Mode::Check && !batch.diff {
            return Vec::new();
        }
        let mut digests = step.resource.contents();
        digests.retain(|digest| !self.host.holds(digest));
        if !digests.is_empty() && step.resource.is_in_place(self.host) {
            digests.clear();
        }
        digests
    }

    /// Asks for contents and waits until they are here or the session ends.
    async fn fetch(&mut self, mut digests: Vec<Digest>) {
        digests.sort_unstable();
        digests.dedup();
        if digests.is_empty() {
            return;
        }
        self.tell(Event::Need { digests: digests.clone() });
        while digests.iter().any(|digest| !self.host.holds(digest)) {
            match self.next().await {
                Some(Incoming::Content(content)) => {
                    self.host.store(content);
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    async fn step(&mut self, batch: &Batch, step: &Step) -> Outcome {
        let begun = Instant::now();
        let missing = self.missing(batch, step);
        self.fetch(missing).await;
        let context = Context::new(self.host, batch, step, self.events.clone());
        let mut finding = Finding::default();
        let carried_out = match self.ensure_lock(&context).await {
            Ok(()) => carry_out(&context, step, &mut finding).await,
            Err(failure) => Err(failure),
        };
        let mut outcome = conclude(step, finding, carried_out);
        outcome.elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        outcome
    }

    async fn ensure_lock(&mut self, context: &Context<'_>) -> Result<(), Failure> {
        if context.mode == Mode::Apply && self.lock.is_none() {
            self.lock = Some(Lock::take(context, &self.purpose).await?);
            resource::recover(context).await?;
        }
        Ok(())
    }
}

/// Check, and where something differs, debts, apply and verification.
async fn carry_out(context: &Context<'_>, step: &Step, finding: &mut Finding) -> Result<(), Failure> {
    *finding = step.resource.check(context).await?;
    if context.mode == Mode::Check {
        return Ok(());
    }
    if let Some(drift) = &finding.drift
        && drift.kind == DriftKind::Edited
        && !context.overwrite_drift
    {
        return Err(kept(drift));
    }
    let debts = Debts::of(context.host);
    let memory = Memory::of(context.host);
    if finding.changed {
        let mut owed = Vec::new();
        if step.changed != Some(false) {
            for handler in &step.notify {
                if debts.owe(handler)? {
                    owed.push(handler);
                }
            }
        }
        memory.intend(finding.trace.as_ref())?;
        step.resource.apply(context, finding).await?;
        if finding.changed {
            step.resource.verify(context, finding).await?;
        } else {
            owed.into_iter().try_for_each(|handler| debts.settle(handler))?;
        }
    }
    memory.settle(finding.trace.as_ref())?;
    match &step.settles {
        Some(handler) => debts.settle(handler),
        None => Ok(()),
    }
}

/// The failure for what somebody has changed by hand: it is theirs until they decide.
fn kept(drift: &Drift) -> Failure {
    failure_with(
        format!("{drift}; it is kept"),
        "see what differs with `pgfleet plan --diff`; take the change into the inventory (`pgfleet import`), or give \
         it up with `--overwrite-drift`",
    )
}

/// What the engine is told about a step.
fn conclude(step: &Step, mut finding: Finding, carried_out: Result<(), Failure>) -> Outcome {
    let changed = step.changed.unwrap_or(finding.changed);
    let failed = match (carried_out, step.failed) {
        (Ok(()), Some(true)) => Some(failure("the task is declared as failed by `failed_when`")),
        (Err(failure), Some(false)) => {
            finding.warnings.push(format!("failed, which `failed_when` allows: {}", failure.message));
            None
        }
        (Err(failure), _) => Some(failure),
        (Ok(()), _) => None,
    };
    finding.result.insert("changed".to_owned(), changed.into());
    if let Some(failure) = &failed {
        finding.result.insert("failed".to_owned(), true.into());
        finding.result.insert("msg".to_owned(), failure.message.clone().into());
    }
    if step.no_log {
        finding.diff.clear();
        finding.warnings.clear();
        finding.result.retain(|key, _| ["changed", "failed", "rc", AWAITED].contains(&key.as_str()));
    }
    let verdict = match failed {
        Some(failure) if step.no_log => Verdict::Failed(Failure {
            message: "failed; what it said is hidden by `no_log`".to_owned(),
            exit_code: failure.exit_code,
            next_step: Some("take `no_log` away while you look for the cause".to_owned()),
            ..Failure::default()
        }),
        Some(failure) => Verdict::Failed(failure),
        None if changed => Verdict::Changed,
        None => Verdict::Unchanged,
    };
    Outcome {
        effect: if finding.changed { finding.effect } else { Effect::None },
        verdict,
        diff: finding.diff,
        settings: finding.settings,
        drift: finding.drift,
        result: finding.result,
        warnings: finding.warnings,
        elapsed_ms: 0,
    }
}

/// Serves the protocol on standard input and output until the input ends. SIGHUP, SIGTERM and SIGINT end
/// it after the step at hand.
pub fn run() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure(format!("the runtime could not be started: {error}")))?;
    let served = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(cancel_on_signal(stop.clone()));
        serve(tokio::io::stdin(), tokio::io::stdout(), "/".into(), stop).await
    });
    // A read of standard input may still be under way; nobody waits for it.
    runtime.shutdown_background();
    served.map_err(|error| failure_with(error.to_string(), "this command is for pgfleet itself, over SSH"))
}

async fn cancel_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let signals =
        (signal(SignalKind::hangup()), signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    if let (Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)) = signals {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    }
}
