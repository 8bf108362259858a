//! Keys and leases of the cluster's etcd, for what a run keeps there: one connection to a member that answers,
//! another member when it does not.

use super::{
    access::Access,
    http::{Connection, Question},
    topology::DcsHost,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// How long one member may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// No member gave an answer; says what each of them did.
    #[error("{0}")]
    Away(String),
    #[error("etcd knows no such lease")]
    NoLease,
    #[error("etcd says: {0}")]
    Refused(String),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: Vec<u8>,
    pub lease: i64,
}

/// A condition of a transaction.
#[derive(Clone, Copy, Debug)]
pub enum If<'a> {
    Absent(&'a str),
    LeasedBy(&'a str, i64),
}

/// What a transaction does.
#[derive(Clone, Copy, Debug)]
pub enum Do<'a> {
    Get(&'a str),
    /// The keys that begin with this.
    All(&'a str),
    /// The same without their values.
    Names(&'a str),
    Put(&'a str, &'a [u8]),
    PutLeased(&'a str, &'a [u8], i64),
    Delete(&'a str),
}

/// Whether the conditions of a transaction held, and what it found.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub held: bool,
    pub found: Vec<Pair>,
}

impl Outcome {
    pub fn get(&self, key: &str) -> Option<&Pair> {
        self.found.iter().find(|pair| pair.key == key)
    }
}

/// etcd, by way of its members' hosts.
pub struct Kv {
    access: Arc<Access>,
    members: Vec<DcsHost>,
    /// Which member is asked, on a connection that is open already or not.
    current: Mutex<(usize, Option<Connection>)>,
}

impl Kv {
    pub fn new(access: Arc<Access>, members: Vec<DcsHost>) -> Self {
        Self { access, members, current: Mutex::new((0, None)) }
    }

    /// Grants a lease; its id, and for how many seconds.
    pub async fn grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        let answer = self.call("/v3/lease/grant", &json!({"TTL": ttl.as_secs().to_string()})).await?;
        let seconds = u64::try_from(number(&answer["TTL"])).unwrap_or_default();
        Ok((number(&answer["ID"]), Duration::from_secs(seconds)))
    }

    /// Extends a lease: for how long, or that it has ended.
    pub async fn keep_alive(&self, lease: i64) -> Result<Duration, KvError> {
        let answer = self.call("/v3/lease/keepalive", &json!({"ID": lease.to_string()})).await?;
        match u64::try_from(number(&answer["result"]["TTL"])) {
            Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
            _ => Err(KvError::NoLease),
        }
    }

    /// Ends a lease, and removes its keys.
    pub async fn revoke(&self, lease: i64) -> Result<(), KvError> {
        match self.call("/v3/lease/revoke", &json!({"ID": lease.to_string()})).await {
            Ok(_) | Err(KvError::NoLease) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All or nothing: `then` where every condition holds, else `otherwise`.
    pub async fn txn(
        &self,
        conditions: &[If<'_>],
        then: &[Do<'_>],
        otherwise: &[Do<'_>],
    ) -> Result<Outcome, KvError> {
        let body = json!({
            "compare": conditions.iter().map(compare).collect::<Vec<_>>(),
            "success": then.iter().map(operation).collect::<Vec<_>>(),
            "failure": otherwise.iter().map(operation).collect::<Vec<_>>(),
        });
        let answer = self.call("/v3/kv/txn", &body).await?;
        let responses = answer["responses"].as_array().into_iter().flatten();
        let found = responses.flat_map(|response| pairs(&response["response_range"])).collect();
        Ok(Outcome { held: answer["succeeded"] == true, found })
    }

    /// Reads all of it at one moment.
    pub async fn read(&self, what: &[Do<'_>]) -> Result<Vec<Pair>, KvError> {
        Ok(self.txn(&[], what, &[]).await?.found)
    }

    /// Asks one member after the other, each once, beginning with the one that answered last. A request whose
    /// answer was lost may be carried out twice.
    async fn call(&self, path: &str, body: &Value) -> Result<Value, KvError> {
        let mut current = self.current.lock().await;
        let mut said = Vec::new();
        for _ in 0..self.members.len() {
            let (index, connection) = (current.0, current.1.take());
            let fresh = connection.is_none();
            match self.attempt(index, connection, path, body).await {
                Ok((connection, answer)) => {
                    current.1 = Some(connection);
                    return judge(answer.0, &answer.1);
                }
                // It was closed while nobody used it: no word of the member's own.
                Err(_) if !fresh => match self.attempt(index, None, path, body).await {
                    Ok((connection, answer)) => {
                        current.1 = Some(connection);
                        return judge(answer.0, &answer.1);
                    }
                    Err(why) => said.push(format!("{}: {why}", self.members[index].name)),
                },
                Err(why) => said.push(format!("{}: {why}", self.members[index].name)),
            }
            current.0 = (index + 1) % self.members.len();
        }
        Err(KvError::Away(match said.is_empty() {
            true => "the inventory has no host of etcd".to_owned(),
            false => said.join("; "),
        }))
    }

    async fn attempt(
        &self,
        index: usize,
        connection: Option<Connection>,
        path: &str,
        body: &Value,
    ) -> Result<(Connection, (u16, Value)), String> {
        let member = &self.members[index];
        let ask = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => {
                    let stream = self.access.service(&member.name, &member.address, member.client_port).await;
                    let stream = stream.map_err(|error| error.to_string())?;
                    Connection::over(stream).await.map_err(|error| error.to_string())?
                }
            };
            let question = Question::post(path, body.clone(), PATIENCE);
            let answer = connection.ask(&member.address, question).await;
            answer.map(|answer| (connection, answer)).map_err(|error| error.to_string())
        };
        let asked = tokio::time::timeout(PATIENCE, ask).await;
        let (connection, answer) = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
        let value: Value = answer.json().map_err(|_| format!("code {} without a JSON body", answer.code))?;
        // A member without a leader, or one that is about to stop: another may do better.
        match answer.code {
            500.. => Err(message(&value).unwrap_or_else(|| format!("code {}", answer.code))),
            code => Ok((connection, (code, value))),
        }
    }
}

/// What an answer means.
fn judge(code: u16, body: &Value) -> Result<Value, KvError> {
    match message(body) {
        Some(message) if message.contains("lease not found") => Err(KvError::NoLease),
        Some(message) => Err(KvError::Refused(message)),
        None if code != 200 => Err(KvError::Refused(format!("code {code}"))),
        None => Ok(body.clone()),
    }
}

/// etcd's complaint; a streaming call has its own below `error`.
fn message(body: &Value) -> Option<String> {
    let error = body.get("error").or_else(|| body.pointer("/result/error"))?;
    let text = error.as_str().or_else(|| error["message"].as_str()).or_else(|| body["message"].as_str());
    Some(text.unwrap_or("no reason given").to_owned())
}

fn compare(condition: &If<'_>) -> Value {
    match condition {
        If::Absent(key) => json!({
            "key": BASE64.encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0",
        }),
        If::LeasedBy(key, lease) => json!({
            "key": BASE64.encode(key), "target": "LEASE", "result": "EQUAL", "lease": lease.to_string(),
        }),
    }
}

fn operation(operation: &Do<'_>) -> Value {
    match operation {
        Do::Get(key) => json!({"request_range": {"key": BASE64.encode(key)}}),
        Do::All(prefix) => {
            json!({"request_range": {"key": BASE64.encode(prefix), "range_end": range_end(prefix)}})
        }
        Do::Names(prefix) => json!({"request_range": {
            "key": BASE64.encode(prefix), "range_end": range_end(prefix), "keys_only": true,
        }}),
        Do::Put(key, value) => {
            json!({"request_put": {"key": BASE64.encode(key), "value": BASE64.encode(value)}})
        }
        Do::PutLeased(key, value, lease) => json!({"request_put": {
            "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": lease.to_string(),
        }}),
        Do::Delete(key) => json!({"request_delete_range": {"key": BASE64.encode(key)}}),
    }
}

/// The first key after all that begin with `prefix`, which ends in an ASCII character.
fn range_end(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    BASE64.encode(end)
}

/// A 64-bit number, which etcd writes as text; absent is zero.
fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn pairs(range: &Value) -> Vec<Pair> {
    let decode = |value: &Value| BASE64.decode(value.as_str().unwrap_or_default()).ok();
    let pair = |kv: &Value| {
        Some(Pair {
            key: String::from_utf8(decode(&kv["key"])?).ok()?,
            value: decode(&kv["value"])?,
            lease: number(&kv["lease"]),
        })
    };
    range["kvs"].as_array().into_iter().flatten().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of etcd 3.4.23 and 3.5.16.
    #[test]
    fn refusals_are_told_apart() {
        let judged = |code, text: &str| judge(code, &serde_json::from_str(text).unwrap()).map(drop);
        assert_eq!(judged(200, r#"{"header":{"revision":"5"}}"#), Ok(()));
        let gone = r#"{"error":"etcdserver: requested lease not found","code":5,"message":"etcdserver: requested lease not found"}"#;
        assert_eq!(judged(404, gone), Err(KvError::NoLease));
        let login = r#"{"error":"etcdserver: user name is empty","code":3}"#;
        assert_eq!(judged(400, login), Err(KvError::Refused("etcdserver: user name is empty".to_owned())));
        let stream = r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#;
        assert_eq!(judged(200, stream), Err(KvError::Refused("etcdserver: no leader".to_owned())));
    }
}
