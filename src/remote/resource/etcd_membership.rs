//! Who belongs to an etcd cluster: members join and leave one at a time, never at the price of its quorum.
//! etcd's own rules: <https://etcd.io/docs/v3.5/op-guide/runtime-configuration/>.

use crate::remote::{
    host::{Context, Finding, Manage, failure_with},
    http::{Call, Tls},
    protocol::Failure,
    wait::{Look, until},
};
use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// `etcd_membership`: whether a cluster has this member. Run where the member has no data (to join) or
/// where another member runs (to leave). Without `state` it only tells.
///
/// Returns `formed` (a cluster answers) and `initial_cluster`, what a joining member is to be started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdMembership {
    pub name: String,
    /// The URL by which the other members reach it; needed to join.
    #[serde(default)]
    pub peer_url: String,
    /// Client URLs of the members to ask.
    pub endpoints: Vec<String>,
    /// Files with which to speak to them where they speak TLS.
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub state: Option<Membership>,
    /// How long to wait until the others are healthy enough, in seconds.
    #[serde(default = "minute_secs")]
    pub timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    Present,
    Absent,
}

fn minute_secs() -> u64 {
    60
}

const ATTEMPT: Duration = Duration::from_secs(3);

/// A row of etcd's list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    id: String,
    name: String,
    peer_urls: Vec<String>,
    /// It has run and told the others where its clients reach it.
    started: bool,
}

/// The cluster as its members tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    members: Vec<Member>,
    /// Ids of those that answer and are healthy.
    healthy: BTreeSet<String>,
    /// The healthy member to ask, by its URL.
    through: String,
}

/// What is to be done to the list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Add,
    Remove(Member),
    /// The member ran before and its data are gone, or it has a new address: it joins as a new one.
    Renew(Member),
}

impl View {
    /// Whether `size` members have a quorum in those that are healthy now, `without` one of them.
    fn has_quorum(&self, size: usize, without: Option<&Member>) -> Result<(), String> {
        let healthy = self.healthy.iter().filter(|id| without.is_none_or(|gone| gone.id != **id)).count();
        let quorum = size / 2 + 1;
        if healthy >= quorum {
            return Ok(());
        }
        let unwell: Vec<&str> = self
            .members
            .iter()
            .filter(|member| !self.healthy.contains(&member.id) && without != Some(member))
            .map(|member| if member.name.is_empty() { "one that has not started" } else { &member.name })
            .collect();
        let unwell = match unwell.is_empty() {
            true => String::new(),
            false => format!(" (not healthy: {})", unwell.join(", ")),
        };
        Err(format!("etcd would be {size} members that need {quorum}, and {healthy} are healthy{unwell}"))
    }
}

impl EtcdMembership {
    pub(super) fn validate(&self) -> Result<(), String> {
        match self.state {
            Some(Membership::Present) if self.peer_url.is_empty() => {
                Err("`peer_url` is needed for a member to join".to_owned())
            }
            _ if self.endpoints.is_empty() => Err("`endpoints` must name a member to ask".to_owned()),
            _ => Ok(()),
        }
    }

    /// What the wanted state needs, or why it cannot be now.
    fn decide(&self, view: &View) -> Result<Change, String> {
        let by_url = view.members.iter().find(|member| member.peer_urls.contains(&self.peer_url));
        let by_name = view.members.iter().find(|member| member.name == self.name);
        let size = view.members.len();
        match (self.state, by_url.or(by_name)) {
            (None, _) | (Some(Membership::Absent), None) => Ok(Change::Nothing),
            (Some(Membership::Absent), Some(_)) if size == 1 => {
                Err(format!("{} is the only member of etcd", self.name))
            }
            (Some(Membership::Absent), Some(member)) => {
                view.has_quorum(size - 1, Some(member))?;
                Ok(Change::Remove(member.clone()))
            }
            (Some(Membership::Present), Some(member)) if by_url.is_some() && !member.started => {
                Ok(Change::Nothing)
            }
            (Some(Membership::Present), Some(member)) => {
                view.has_quorum(size - 1, Some(member))?;
                view.has_quorum(size, Some(member))?;
                Ok(Change::Renew(member.clone()))
            }
            // A member that is added counts before it runs; alone, etcd makes an exception.
            (Some(Membership::Present), None) => {
                if size > 1 {
                    view.has_quorum(size + 1, None)?;
                }
                Ok(Change::Add)
            }
        }
    }

    /// Asks all endpoints at once. `None`: no cluster answers.
    async fn look(&self) -> Option<View> {
        let answers = join_all(self.endpoints.iter().map(|endpoint| self.answer(endpoint))).await;
        let mut view = View::default();
        for (through, id, members) in answers.into_iter().flatten() {
            view.healthy.insert(id);
            if view.through.is_empty() {
                view.members = members;
                view.through = through;
            }
        }
        (!view.through.is_empty()).then_some(view)
    }

    /// `name=url` of every member, this one among them.
    fn initial_cluster(&self, members: &[Member]) -> String {
        let of = |member: &Member| {
            let own = member.peer_urls.contains(&self.peer_url);
            let name = if own { &self.name } else { &member.name };
            member.peer_urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>()
        };
        let mut all: Vec<String> = members.iter().flat_map(of).collect();
        if !self.peer_url.is_empty() && !members.iter().any(|one| one.peer_urls.contains(&self.peer_url)) {
            all.push(format!("{}={}", self.name, self.peer_url));
        }
        all.sort();
        all.join(",")
    }

    /// Waits until the change is allowed, or tells why it is not.
    async fn settle(&self, context: &Context<'_>) -> Result<Option<(View, Change)>, Failure> {
        let mut settled = None;
        until(context, Duration::from_secs(self.timeout), async || {
            let Some(view) = self.look().await else {
                return match self.state {
                    Some(_) => Look::Missing("no member of etcd answers".to_owned()),
                    None => Look::Satisfied,
                };
            };
            match self.decide(&view) {
                Ok(change) => {
                    settled = Some((view, change));
                    Look::Satisfied
                }
                Err(why) => Look::Missing(why),
            }
        })
        .await
        .map_err(|failure| Failure {
            next_step: Some(
                "bring the members back that are not healthy (`pgfleet status`), then run the same command again"
                    .to_owned(),
            ),
            ..failure
        })?;
        Ok(settled)
    }

    async fn add(&self, context: &Context<'_>, through: &str) -> Result<(), Failure> {
        self.send(context, through, "member/add", json!({"peerURLs": [self.peer_url]})).await
    }

    async fn remove(&self, context: &Context<'_>, view: &View, member: &Member) -> Result<(), Failure> {
        self.hand_over(view, member).await;
        self.send(context, &view.through, "member/remove", json!({"ID": member.id})).await
    }

    /// Sends a change. etcd refuses while a member has not been connected for some seconds, one that has just
    /// joined for example; then it is sent again.
    async fn send(
        &self,
        context: &Context<'_>,
        through: &str,
        operation: &str,
        body: Value,
    ) -> Result<(), Failure> {
        let url = format!("{through}/v3/cluster/{operation}");
        let next = "look at `journalctl -u etcd` on the members, then run the same command again";
        until(context, Duration::from_secs(self.timeout), async || {
            let answer = self.post(&url, body.to_string()).limit(ATTEMPT * 3).run().await;
            match answer {
                Ok(answer) if answer.status == 200 => Look::Satisfied,
                Ok(answer) if answer.status == 503 => Look::Missing(format!("etcd: {}", said(&answer.body))),
                Ok(answer) => Look::Hopeless(failure_with(
                    format!("etcd refuses {operation} (code {}): {}", answer.status, said(&answer.body)),
                    next,
                )),
                Err(error) => Look::Hopeless(failure_with(format!("etcd does not answer: {error}"), next)),
            }
        })
        .await
    }

    /// A leader that goes hands over first: an election would cost a second. Where that fails, the election
    /// comes to the same.
    async fn hand_over(&self, view: &View, member: &Member) {
        let successor = view.healthy.iter().find(|id| **id != member.id);
        for endpoint in &self.endpoints {
            let base = endpoint.trim_end_matches('/');
            let status = self.post(&format!("{base}/v3/maintenance/status"), "{}");
            let Ok(status) = status.run().await else { continue };
            let status: Value = serde_json::from_slice(&status.body).unwrap_or_default();
            let leads =
                status["leader"] == member.id.as_str() && status["header"]["member_id"] == member.id.as_str();
            if let (true, Some(successor)) = (leads, successor) {
                let body = json!({"targetID": successor}).to_string();
                let url = format!("{base}/v3/maintenance/transfer-leadership");
                let _ = self.post(&url, body).run().await;
            }
        }
    }

    fn post(&self, url: &str, body: impl Into<Bytes>) -> Call {
        Call::send(Method::POST, url, body).tls(&self.tls).limit(ATTEMPT)
    }

    /// A healthy member's URL, its id, and the members that it lists; none when it is not healthy.
    async fn answer(&self, endpoint: &str) -> Option<(String, String, Vec<Member>)> {
        let base = endpoint.trim_end_matches('/');
        let health = Call::get(&format!("{base}/health")).tls(&self.tls).limit(ATTEMPT).run().await.ok()?;
        let health: Value = serde_json::from_slice(&health.body).ok()?;
        // A boolean in some versions, its word in others.
        if health["health"] != true && health["health"] != "true" {
            return None;
        }
        let list = self.post(&format!("{base}/v3/cluster/member/list"), "{}").run().await.ok()?;
        let document: Value = serde_json::from_slice(&list.body).ok()?;
        let id = document["header"]["member_id"].as_str()?.to_owned();
        Some((base.to_owned(), id, members(&document)))
    }
}

/// The members in an answer of etcd's gateway, which leaves out what is empty.
fn members(document: &Value) -> Vec<Member> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default();
    let rows = document["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .map(|row| {
            let client_urls: Vec<String> = list(&row["clientURLs"]);
            Member {
                id: text(&row["ID"]),
                name: text(&row["name"]),
                peer_urls: list(&row["peerURLs"]),
                started: !client_urls.is_empty(),
            }
        })
        .collect()
}

/// The sentence in an error of etcd's gateway.
fn said(body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = document["message"].as_str().map(str::to_owned);
    message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

impl Manage for EtcdMembership {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let Some((view, change)) = self.settle(context).await? else {
            return Ok(Finding::unchanged().with("formed", false).with("initial_cluster", ""));
        };
        let mut finding = Finding::unchanged()
            .with("formed", true)
            .with("initial_cluster", self.initial_cluster(&view.members));
        match change {
            Change::Nothing => {}
            Change::Add => finding.differs(format!("{}: no member -> member of etcd", self.name)),
            Change::Remove(member) => finding.differs(format!("{}: member of etcd -> removed", member.name)),
            Change::Renew(member) => {
                finding.differs(format!("{}: member {} -> a new member", self.name, member.id))
            }
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let Some((view, change)) = self.settle(context).await? else { return Ok(()) };
        match &change {
            Change::Nothing => {}
            Change::Add => self.add(context, &view.through).await?,
            Change::Remove(member) => self.remove(context, &view, member).await?,
            Change::Renew(member) => {
                self.remove(context, &view, member).await?;
                self.add(context, &view.through).await?;
            }
        }
        let after = self.look().await.map(|view| view.members).unwrap_or(view.members);
        finding.result.insert("initial_cluster".to_owned(), self.initial_cluster(&after).into());
        Ok(())
    }

    async fn verify(&self, _context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let Some(view) = self.look().await else { return Ok(()) };
        let listed = view.members.iter().any(|member| {
            member.peer_urls.contains(&self.peer_url) || self.peer_url.is_empty() && member.name == self.name
        });
        match self.state {
            Some(Membership::Absent) if listed => {
                Err(failure_with(format!("etcd still lists {}", self.name), "run the same command again"))
            }
            Some(Membership::Present) if !listed => {
                Err(failure_with(format!("etcd does not list {}", self.name), "run the same command again"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(state: &str) -> EtcdMembership {
        let arguments =
            json!({"name": "c", "peer_url": "http://c:2380", "endpoints": ["http://a:2379"], "state": state});
        crate::remote::arguments::read(arguments).expect("arguments")
    }

    /// Members by name; `-` before a name: it has not started, `!`: it is not healthy.
    fn view(names: &[&str]) -> View {
        let mut view = View { through: "http://a:2379".to_owned(), ..View::default() };
        for name in names {
            let plain = name.trim_start_matches(['-', '!']);
            if !name.starts_with(['-', '!']) {
                view.healthy.insert(plain.to_owned());
            }
            view.members.push(Member {
                id: plain.to_owned(),
                name: if name.starts_with('-') { String::new() } else { plain.to_owned() },
                peer_urls: vec![format!("http://{plain}:2380")],
                started: !name.starts_with('-'),
            });
        }
        view
    }

    #[test]
    fn members_come_and_go_with_a_quorum() {
        let member = |name: &str| view(&[name]).members.remove(0);
        let cases: &[(&str, &[&str], Result<Change, &str>)] = &[
            // A lone member may be joined by a second one.
            ("present", &["a"], Ok(Change::Add)),
            (
                "present",
                &["a", "!b"],
                Err("etcd would be 3 members that need 2, and 1 are healthy (not healthy: b)"),
            ),
            ("present", &["a", "b", "d"], Ok(Change::Add)),
            (
                "present",
                &["a", "!b", "d"],
                Err("etcd would be 4 members that need 3, and 2 are healthy (not healthy: b)"),
            ),
            // It was added by a run that died before it was started.
            ("present", &["a", "b", "-c"], Ok(Change::Nothing)),
            // It ran, and its data are gone.
            ("present", &["a", "b", "!c"], Ok(Change::Renew(member("c")))),
            (
                "present",
                &["a", "!b", "!c"],
                Err("etcd would be 2 members that need 2, and 1 are healthy (not healthy: b)"),
            ),
            ("absent", &["a", "b", "c"], Ok(Change::Remove(member("c")))),
            ("absent", &["a", "b", "!c"], Ok(Change::Remove(member("c")))),
            (
                "absent",
                &["a", "!b", "c"],
                Err("etcd would be 2 members that need 2, and 1 are healthy (not healthy: b)"),
            ),
            ("absent", &["a", "b"], Ok(Change::Nothing)),
            ("absent", &["c"], Err("c is the only member of etcd")),
        ];
        for (state, names, expected) in cases {
            let got = membership(state).decide(&view(names));
            assert_eq!(got, expected.clone().map_err(str::to_owned), "{state} {names:?}");
        }
    }

    #[test]
    fn a_joining_member_is_started_with_the_list_and_itself() {
        let c = membership("present");
        assert_eq!(c.initial_cluster(&view(&["a"]).members), "a=http://a:2380,c=http://c:2380");
        assert_eq!(c.initial_cluster(&view(&["a", "-c"]).members), "a=http://a:2380,c=http://c:2380");
    }
}
