//! The write probe: a client that commits through the entry point for the whole of a change, and measures
//! for how long it could not.
//!
//! It writes nothing that stays: each commit is a logical message in the WAL, which needs no table. It
//! waits for synchronous standbys as every commit does.

use super::{access::Access, sql, topology::Topology};
use crate::model::HostName;
use std::{
    convert::Infallible,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Between one commit and the next, and before another attempt.
const INTERVAL: Duration = Duration::from_millis(10);

/// A client gives up on a connection and its commit after this, and tries again.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long to wait for a commit that shows the end of an interruption, or that writing works at all.
const PATIENCE: Duration = Duration::from_secs(10);

const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'pgfleet', 'probe')";

/// What is measured of commits, while they go on. Its clock is the caller's.
#[derive(Clone, Copy, Debug, Default)]
struct Gauge {
    last: Option<Instant>,
    longest: Duration,
    step_began: Option<Instant>,
    step_longest: Duration,
}

impl Gauge {
    fn acknowledge(&mut self, now: Instant) {
        self.longest = self.longest(now).unwrap_or_default();
        self.step_longest = self.step(now).unwrap_or_default();
        self.last = Some(now);
    }

    fn begin_step(&mut self, now: Instant) {
        self.step_began = Some(now);
        self.step_longest = Duration::ZERO;
    }

    /// The longest time between two commits, the time since the last one among them; `None` before the first.
    fn longest(&self, now: Instant) -> Option<Duration> {
        self.last.map(|last| self.longest.max(now.saturating_duration_since(last)))
    }

    /// The longest part of such a time that lies within the step under way.
    fn step(&self, now: Instant) -> Option<Duration> {
        let last = self.last?;
        let since = self.step_began.map_or(last, |began| began.max(last));
        Some(self.step_longest.max(now.saturating_duration_since(since)))
    }
}

/// A client that writes while something else goes on; see [`during`].
#[derive(Debug, Default)]
pub struct Probe {
    gauge: Mutex<Gauge>,
    commits: watch::Sender<u64>,
}

impl Probe {
    /// The longest time without an acknowledged commit since the probe began, the time under way among
    /// them; `None` while nothing has been acknowledged yet.
    pub fn longest(&self) -> Option<Duration> {
        self.gauge().longest(Instant::now())
    }

    /// The same within the step under way: what of a pause lies before it is not counted.
    pub fn step(&self) -> Option<Duration> {
        self.gauge().step(Instant::now())
    }

    /// From here on it is another step.
    pub fn begin_step(&self) {
        self.gauge().begin_step(Instant::now());
    }

    /// Waits for a commit that is acknowledged after this moment: an interruption is over, and measured.
    /// `false` when there is none for a while.
    pub async fn acknowledged(&self) -> bool {
        let mut commits = self.commits.subscribe();
        // The one under way may have been sent before this moment: the next but one has not.
        let seen = *commits.borrow_and_update();
        tokio::time::timeout(PATIENCE, commits.wait_for(|count| *count > seen + 1)).await.is_ok()
    }

    fn gauge(&self) -> std::sync::MutexGuard<'_, Gauge> {
        self.gauge.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self) {
        self.gauge().acknowledge(Instant::now());
        self.commits.send_modify(|count| *count += 1);
    }

    /// Commits again and again.
    async fn write(&self, topology: &Topology, access: &Access) -> Infallible {
        let Some(superuser) = &topology.superuser else { return std::future::pending().await };
        let doors = doors(topology, access);
        let mut doors = doors.iter().cycle();
        let mut client = None;
        loop {
            let attempt = async {
                let writer = match client.take() {
                    Some(writer) => writer,
                    None => {
                        let door = doors.next()?;
                        let endpoint = (door.address.as_str(), door.port);
                        sql::connect(access, door.through, endpoint, superuser, ATTEMPT).await.ok()?
                    }
                };
                sql::text(&writer, COMMIT, ATTEMPT).await.ok()?;
                Some(writer)
            };
            client = tokio::time::timeout(ATTEMPT, attempt).await.ok().flatten();
            if client.is_some() {
                self.note();
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Carries out `change` while a client writes through the entry point. The change begins at once; whether
/// writing works is for it to ask ([`Probe::acknowledged`]).
pub async fn during<T>(topology: &Topology, access: &Access, change: impl AsyncFnOnce(&Probe) -> T) -> T {
    let probe = Probe::default();
    tokio::select! {
        result = change(&probe) => result,
        never = probe.write(topology, access) => match never {},
    }
}

/// A way in for clients that write, and the host that opens the connection.
struct Door<'a> {
    through: &'a HostName,
    address: String,
    port: u16,
}

/// Where clients write: the virtual address, else each HAProxy, else one server after the other, as libpq
/// tries them.
fn doors<'a>(topology: &'a Topology, access: &Access) -> Vec<Door<'a>> {
    let reached = |name: &&HostName| access.session(name).is_ok();
    if let (Some(vip), Some(proxy)) = (&topology.vip, topology.proxies.first()) {
        // From outside, where there is somebody, so that the address has to be reached over the network.
        let hosts = topology.hosts().into_iter().filter(reached);
        let (outside, holders): (Vec<_>, Vec<_>) = hosts.partition(|name| !vip.candidates.contains(name));
        let door = |through| Door { through, address: vip.address.to_string(), port: proxy.primary_port };
        return outside.into_iter().chain(holders).map(door).collect();
    }
    let proxies = topology.proxies.iter().filter(|proxy| reached(&&proxy.name));
    let mut doors: Vec<_> = proxies
        .map(|proxy| Door { through: &proxy.name, address: proxy.address.clone(), port: proxy.primary_port })
        .collect();
    if doors.is_empty() {
        let agents = topology.agents.iter().filter(|agent| reached(&&agent.name));
        doors = agents
            .map(|agent| Door {
                through: &agent.name,
                address: agent.address.clone(),
                port: agent.postgres_port,
            })
            .collect();
    }
    doors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times in milliseconds: `c` a commit, `s` the begin of a step.
    fn gauge(start: Instant, story: &[(char, u64)]) -> Gauge {
        let mut gauge = Gauge::default();
        for (what, at) in story {
            let at = start + Duration::from_millis(*at);
            match what {
                'c' => gauge.acknowledge(at),
                _ => gauge.begin_step(at),
            }
        }
        gauge
    }

    #[test]
    fn the_longest_pause_is_told_overall_and_within_the_step() {
        /// What happened; when it is asked; the longest pause overall and in the step.
        type Case = (&'static [(char, u64)], u64, Option<u64>, Option<u64>);
        let cases: &[Case] = &[
            (&[], 500, None, None),
            (&[('s', 10)], 500, None, None),
            (&[('c', 0), ('c', 10), ('c', 30)], 35, Some(20), Some(20)),
            // The time under way counts.
            (&[('c', 0), ('c', 10)], 400, Some(390), Some(390)),
            // A step begins with nothing.
            (&[('c', 0), ('c', 300), ('s', 301), ('c', 310)], 312, Some(300), Some(9)),
            // Of a pause that began before the step, the part within it.
            (&[('c', 0), ('s', 100), ('c', 250)], 251, Some(250), Some(150)),
            (&[('c', 0), ('s', 100)], 250, Some(250), Some(150)),
            // The first commit ends no pause: nothing was acknowledged before.
            (&[('s', 0), ('c', 900), ('c', 910)], 910, Some(10), Some(10)),
        ];
        let start = Instant::now();
        for (story, asked, longest, step) in cases {
            let gauge = gauge(start, story);
            let asked = start + Duration::from_millis(*asked);
            let told = (gauge.longest(asked), gauge.step(asked));
            let expected = (longest.map(Duration::from_millis), step.map(Duration::from_millis));
            assert_eq!(told, expected, "{story:?}");
        }
    }

    #[tokio::test]
    async fn only_commits_after_the_moment_count() {
        let probe = Probe::default();
        probe.note();
        let mut waiting = std::pin::pin!(probe.acknowledged());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        probe.note();
        assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "it may have been sent before");
        probe.note();
        assert!(waiting.await);
    }
}
