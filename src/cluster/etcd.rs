//! Asking one member of etcd, through its JSON gateway.

use super::{
    access::Access,
    http::{self, Question},
    topology::DcsHost,
};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// What one member of the DCS says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcsFacts {
    pub leader: bool,
    /// Why it is not well; `None` when it is.
    pub ailment: Option<String>,
}

#[derive(Deserialize)]
#[serde(default)]
struct MaintenanceStatus {
    header: Header,
    leader: String,
    errors: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Header {
    member_id: String,
}

impl Default for MaintenanceStatus {
    fn default() -> Self {
        Self { header: Header::default(), leader: "0".to_owned(), errors: Vec::new() }
    }
}

#[derive(Deserialize)]
struct Health {
    health: serde_json::Value,
    #[serde(default)]
    reason: String,
}

/// Asks one member; the error says why it has no answer.
pub async fn ask(access: &Access, host: &DcsHost, within: Duration) -> Result<DcsFacts, String> {
    let send = async |question: Question<'_>| {
        let stream = access.service(&host.name, &host.address, host.client_port).await;
        let stream = stream.map_err(|error| error.to_string())?;
        http::ask(stream, &host.address, question).await.map_err(|error| error.to_string())
    };
    let (status, health) = tokio::join!(
        send(Question::post("/v3/maintenance/status", json!({}), within)),
        send(Question::get("/health", within)),
    );
    let status = status?;
    if status.code != 200 {
        return Err(format!("code {}: {}", status.code, status.text()));
    }
    let status: MaintenanceStatus = status.json().map_err(|error| error.to_string())?;
    Ok(judge(&status, health.and_then(|health| health.json::<Health>().map_err(|error| error.to_string()))))
}

fn judge(status: &MaintenanceStatus, health: Result<Health, String>) -> DcsFacts {
    let ailment = match health {
        Err(why) => Some(why),
        // Members before 3.4 wrote a boolean.
        Ok(health) if health.health == "true" || health.health == true => None,
        Ok(health) if !health.reason.is_empty() => Some(health.reason.to_lowercase()),
        Ok(_) if status.leader == "0" => Some("it sees no leader".to_owned()),
        Ok(_) => Some("it says that it is not healthy".to_owned()),
    };
    let ailment = ailment.or_else(|| (!status.errors.is_empty()).then(|| status.errors.join("; ")));
    DcsFacts { leader: status.leader != "0" && status.leader == status.header.member_id, ailment }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: &str, health: &str) -> DcsFacts {
        judge(&serde_json::from_str(status).unwrap(), serde_json::from_str(health).map_err(|e| e.to_string()))
    }

    /// Answers of etcd 3.4.23 and 3.5.16.
    #[test]
    fn reads_what_members_answer() {
        let leader = r#"{"header":{"cluster_id":"1","member_id":"7","revision":"4","raft_term":"2"},"version":"3.5.16",
            "dbSize":"20480","leader":"7","raftIndex":"10","raftTerm":"2"}"#;
        assert_eq!(
            facts(leader, r#"{"health":"true","reason":""}"#),
            DcsFacts { leader: true, ailment: None }
        );
        let follower = leader.replace(r#""leader":"7""#, r#""leader":"8""#);
        assert!(!facts(&follower, r#"{"health":"true"}"#).leader);
        let alone = r#"{"header":{"member_id":"7"},"version":"3.5.16","errors":["etcdserver: no leader"]}"#;
        let sick = facts(alone, r#"{"health":"false","reason":"RAFT NO LEADER"}"#);
        assert_eq!(sick, DcsFacts { leader: false, ailment: Some("raft no leader".to_owned()) });
        let full = facts(
            &leader.replace("\"leader\"", r#""errors":["memberID:7 alarm:NOSPACE"],"leader""#),
            r#"{"health":"true"}"#,
        );
        assert_eq!(full.ailment.as_deref(), Some("memberID:7 alarm:NOSPACE"));
    }
}
