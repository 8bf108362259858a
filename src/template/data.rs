//! Values on their way between JSON, which all of pgfleet speaks, and Tera.

use serde_json::Value as Json;
use tera::{Error, TeraResult, Value};

pub(super) fn json(value: &Value) -> TeraResult<Json> {
    serde_json::to_value(value).map_err(Error::message)
}

pub(super) fn tera(value: &Json) -> TeraResult<Value> {
    Value::try_from_serializable(value)
}

/// What Python would call true.
pub(super) fn truthy(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(flag) => *flag,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
    }
}

/// A value where yes or no is asked for. Ansible's words are taken; another text is an error, because a
/// text like `maybe` or `flase` would otherwise silently mean yes.
pub(super) fn truth(value: &Json) -> TeraResult<bool> {
    match value {
        Json::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" | "y" | "t" => Ok(true),
            "false" | "no" | "off" | "0" | "n" | "f" | "" => Ok(false),
            _ => Err(Error::message(format!("`{text}` is neither true nor false"))),
        },
        other => Ok(truthy(other)),
    }
}

/// The kind of a value in words.
pub(super) fn kind(value: &Value) -> &'static str {
    if value.is_undefined() {
        "an undefined value"
    } else if value.is_none() {
        "null"
    } else if value.is_map() {
        "a map"
    } else if value.is_array() {
        "a list"
    } else if value.as_str().is_some() {
        "a text"
    } else if value.as_bool().is_some() {
        "a boolean"
    } else {
        "a number"
    }
}
