//! etcd's JSON: keys and values in base64, 64-bit numbers as text, zero and false left out.

use crate::agent::dcs::Entry;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

pub fn decode(value: &Value) -> Option<String> {
    let text = value.as_str().unwrap_or_default();
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// A 64-bit number, which etcd writes as text; absent is zero.
pub fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

/// A range over everything that begins with `prefix`.
pub fn range_prefix(prefix: &str) -> Value {
    json!({"key": encode(prefix), "range_end": range_end(prefix)})
}

/// The first key after all that begin with `prefix`, as etcd wants it.
pub fn range_end(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    STANDARD.encode(end)
}

pub fn watch_prefix(prefix: &str, from: i64) -> Value {
    json!({"create_request": {
        "key": encode(prefix), "range_end": range_end(prefix), "start_revision": from.to_string(),
    }})
}

pub fn range(key: &str) -> Value {
    json!({"request_range": {"key": encode(key)}})
}

pub fn put(key: &str, value: &str, lease: i64) -> Value {
    json!({"request_put": {"key": encode(key), "value": encode(value), "lease": lease.to_string()}})
}

/// Moves a key to another lease and leaves its value.
pub fn put_lease(key: &str, lease: i64) -> Value {
    json!({"request_put": {"key": encode(key), "ignore_value": true, "lease": lease.to_string()}})
}

pub fn delete(key: &str) -> Value {
    json!({"request_delete_range": {"key": encode(key)}})
}

pub fn created_at(key: &str, revision: i64) -> Value {
    json!({"key": encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": revision.to_string()})
}

/// A revision of zero stands for a key that is not there.
pub fn modified_at(key: &str, revision: i64) -> Value {
    json!({"key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()})
}

pub fn has_value(key: &str, value: &str) -> Value {
    json!({"key": encode(key), "target": "VALUE", "result": "EQUAL", "value": encode(value)})
}

pub fn leased_by(key: &str, lease: i64) -> Value {
    json!({"key": encode(key), "target": "LEASE", "result": "EQUAL", "lease": lease.to_string()})
}

pub fn txn(compare: Vec<Value>, success: Vec<Value>, failure: Vec<Value>) -> Value {
    json!({"compare": compare, "success": success, "failure": failure})
}

/// The store's revision and raft term at the moment of an answer. `None` if it is not etcd's.
pub fn header(body: &Value) -> Option<(i64, i64)> {
    let header = body.get("header")?;
    let revision = number(&header["revision"]);
    (revision > 0).then(|| (revision, number(&header["raft_term"])))
}

/// A key and its entry.
pub fn entry(kv: &Value) -> Option<(String, Entry)> {
    let key = decode(&kv["key"])?;
    let entry = Entry {
        value: decode(&kv["value"])?,
        created: number(&kv["create_revision"]),
        modified: number(&kv["mod_revision"]),
        lease: number(&kv["lease"]),
    };
    Some((key, entry))
}

/// The keys of a range, by full path. What is not text is left out.
pub fn entries(body: &Value) -> BTreeMap<String, Entry> {
    body["kvs"].as_array().into_iter().flatten().filter_map(entry).collect()
}

/// Whether a transaction's comparisons held, and the keys that its reads found.
pub fn outcome(body: &Value) -> (bool, BTreeMap<String, Entry>) {
    let succeeded = body["succeeded"].as_bool().unwrap_or(false);
    let responses = body["responses"].as_array().into_iter().flatten();
    let found = responses.flat_map(|response| entries(&response["response_range"])).collect();
    (succeeded, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_neighbour() {
        assert_eq!(range_end("/service/demo/"), encode("/service/demo0"));
        assert_eq!(STANDARD.decode(range_end("a\u{7f}")).unwrap(), b"a\x80");
    }

    #[test]
    fn absent_numbers_are_zero() {
        assert_eq!(number(&json!("7587881234567890123")), 7_587_881_234_567_890_123);
        assert_eq!(number(&json!(null)), 0);
        assert_eq!(header(&json!({"header": {"revision": "5", "raft_term": "2"}})), Some((5, 2)));
        assert_eq!(header(&json!({})), None);
    }
}
