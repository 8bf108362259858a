//! Keeps the contents up to date in the background. After an interruption everything is read anew: what
//! happened meanwhile is seen by its result, and a compacted history does no harm.

use super::{Contents, Shared, Sight, Snapshot, Unreachable, messages};
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Waits between two attempts to connect: the first is short, for it is often one endpoint alone that went.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a watch may be behind what others have read.
const GRACE: Duration = Duration::from_millis(300);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let why = match shared.read().await {
            Ok(contents) => {
                let endpoint = contents.endpoint;
                let begun = Instant::now();
                let why = follow(&shared, contents).await;
                if begun.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                shared.gateway.avoid(endpoint);
                why
            }
            Err(why) => why,
        };
        shared.sight.send_if_modified(|sight| {
            let news = sight.interrupted.is_none();
            sight.interrupted = Some(why.0);
            news
        });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until others than the watch (renewals read everything) have seen newer contents for a while: then
/// the endpoint is hung, or cut off from the rest of etcd, and its connection does not tell.
async fn overtaken(sight: &mut watch::Receiver<Sight>, shown: &Snapshot) {
    let newer = |sight: &Sight| {
        let snapshot = sight.snapshot.as_ref();
        snapshot.is_some_and(|snapshot| snapshot.revision > shown.revision && !snapshot.same_contents(shown))
    };
    if sight.wait_for(newer).await.is_ok() {
        tokio::time::sleep(GRACE).await;
    }
}

/// Shows the contents and every change to them. Returns why that ended.
async fn follow(shared: &Shared, mut contents: Contents) -> Unreachable {
    let request = messages::watch_prefix(shared.layout.prefix(), contents.revision + 1);
    let mut stream = match shared.gateway.stream(contents.endpoint, "/v3/watch", &request).await {
        Ok(stream) => stream,
        Err(why) => return why.into(),
    };
    let mut sight = shared.sight.subscribe();
    let mut shown = shared.show(&contents.entries, contents.revision);
    shared.sight.send_if_modified(|sight| sight.interrupted.take().is_some());
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            () = overtaken(&mut sight, &shown) => return Unreachable("the watch lags behind".to_owned()),
            () = shared.gateway.suspected(contents.endpoint) => {
                return Unreachable("the endpoint of the watch does not answer".to_owned());
            }
        };
        let message = match message {
            Ok(message) => message,
            Err(why) => return why.into(),
        };
        let result = &message["result"];
        if messages::header(result).is_none() {
            return Unreachable(format!("the watch failed: {}", message["error"]));
        }
        if result["canceled"].as_bool() == Some(true) {
            return Unreachable(format!("the watch was cancelled: {}", result["cancel_reason"]));
        }
        let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        if events.is_empty() {
            continue;
        }
        if !events.iter().all(|event| apply(shared, &mut contents, event)) {
            return Unreachable("the watch holds an event that is not understood".to_owned());
        }
        // Not the header's revision: while a watch catches up, that one runs ahead of the events.
        let revisions = events.iter().map(|event| messages::number(&event["kv"]["mod_revision"]));
        contents.revision = revisions.fold(contents.revision, i64::max);
        shown = shared.show(&contents.entries, contents.revision);
    }
}

/// Applies one event; false if it makes no sense.
fn apply(shared: &Shared, contents: &mut Contents, event: &Value) -> bool {
    let Some(path) = messages::decode(&event["kv"]["key"]) else { return false };
    let Some(name) = shared.layout.relative(&path) else { return false };
    match event["type"].as_str() {
        // PUT is the zero of its enum, which JSON leaves out.
        None | Some("PUT") => match messages::entry(&event["kv"]) {
            Some((_, entry)) => drop(contents.entries.insert(name.to_owned(), entry)),
            None => drop(contents.entries.remove(name)),
        },
        Some("DELETE") => drop(contents.entries.remove(name)),
        Some(_) => return false,
    }
    true
}
