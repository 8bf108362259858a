//! Filters on lists and maps: `map`, `selectattr`, `combine`, `dict2items` and their kin.

use super::data;
use regex::Regex;
use serde_json::{Map, Value as Json};
use std::sync::Arc;
use tera::{Error, Kwargs, State, Tera, TeraResult, Value};

pub(super) fn register(tera: &mut Tera) {
    tera.register_filter("list", |value: Value, _: Kwargs, _: &State| items(&value));
    // `map.items()` in a `for` of two variables, which in Tera goes over the map itself.
    tera.register_filter("items", |value: Value, _: Kwargs, _: &State| {
        if value.is_map() { Ok(value) } else { Err(Error::message("`items` needs a map")) }
    });
    tera.register_filter("count", |value: Value, _: Kwargs, _: &State| {
        value.len().ok_or_else(|| Error::message("only texts, lists and maps have a length"))
    });
    tera.register_filter("contains", |value: Value, args: Kwargs, _: &State| {
        contains(&value, &args.must_get::<Value>("pat")?)
    });
    tera.register_filter("dict2items", dict2items);
    tera.register_filter("items2dict", items2dict);
    tera.register_filter("combine", combine);
    tera.register_filter("map", map);
    for (name, keep) in [("select", true), ("reject", false)] {
        tera.register_filter(name, move |value: Value, args: Kwargs, _: &State| {
            let test = args.get::<&str>("test")?.unwrap_or("truthy");
            let operand = args.get::<Value>("value")?.map(|operand| data::json(&operand)).transpose()?;
            filter(&value, |item| holds(test, Some(item), operand.as_ref()).map(|held| held == keep))
        });
    }
    for (name, keep) in [("selectattr", true), ("rejectattr", false)] {
        tera.register_filter(name, move |value: Value, args: Kwargs, _: &State| {
            let attribute = args.must_get::<&str>("attribute")?;
            let test = args.get::<&str>("test")?.unwrap_or("truthy");
            let operand = args.get::<Value>("value")?.map(|operand| data::json(&operand)).transpose()?;
            filter(&value, |item| {
                holds(test, field(item, attribute), operand.as_ref()).map(|held| held == keep)
            })
        });
    }
    tera.register_filter("union", |value: Value, args: Kwargs, _: &State| {
        let other = args.must_get::<Value>("other")?;
        let mut result = Vec::new();
        for item in items(&value)?.into_iter().chain(items(&other)?) {
            if !result.contains(&item) {
                result.push(item);
            }
        }
        Ok::<_, Error>(result)
    });
    for (name, keep) in [("difference", false), ("intersect", true)] {
        tera.register_filter(name, move |value: Value, args: Kwargs, _: &State| {
            let other = items(&args.must_get::<Value>("other")?)?;
            Ok::<_, Error>(
                items(&value)?.into_iter().filter(|item| other.contains(item) == keep).collect::<Vec<_>>(),
            )
        });
    }
    tera.register_filter("flatten", |value: Value, _: Kwargs, _: &State| {
        let mut result = Vec::new();
        flatten(&value, &mut result)?;
        Ok::<_, Error>(result)
    });
    tera.register_filter("sum", |value: Value, _: Kwargs, _: &State| {
        items(&value)?.iter().try_fold(0_i64, |sum, item| {
            item.as_i64()
                .map(|number| sum + number)
                .ok_or_else(|| Error::message(format!("`{item}` is not a whole number")))
        })
    });
    tera.register_filter("min", |value: Value, _: Kwargs, _: &State| {
        items(&value)?.into_iter().min().ok_or_else(|| Error::message("the list is empty"))
    });
    tera.register_filter("max", |value: Value, _: Kwargs, _: &State| {
        items(&value)?.into_iter().max().ok_or_else(|| Error::message("the list is empty"))
    });
}

/// A list's items, a map's keys.
pub(super) fn items(value: &Value) -> TeraResult<Vec<Value>> {
    if let Some(list) = value.as_array() {
        return Ok(list.to_vec());
    }
    if let Some(map) = value.as_map() {
        return Ok(map.keys().map(tera::value::Key::as_value).collect());
    }
    Err(Error::message(format!("expected a list, found {}", data::kind(value))))
}

pub(super) fn contains(value: &Value, wanted: &Value) -> TeraResult<bool> {
    match (value.as_str(), wanted.as_str()) {
        (Some(text), Some(part)) => Ok(text.contains(part)),
        _ => Ok(items(value)?.contains(wanted)),
    }
}

fn flatten(value: &Value, into: &mut Vec<Value>) -> TeraResult<()> {
    for item in items(value)? {
        if item.is_array() { flatten(&item, into)? } else { into.push(item) }
    }
    Ok(())
}

fn dict2items(value: Value, _: Kwargs, _: &State) -> TeraResult<Value> {
    let Json::Object(map) = data::json(&value)? else {
        return Err(Error::message(format!("`dict2items` needs a map, found {}", data::kind(&value))));
    };
    data::tera(&Json::Array(
        map.into_iter().map(|(key, value)| serde_json::json!({ "key": key, "value": value })).collect(),
    ))
}

fn items2dict(value: Value, _: Kwargs, _: &State) -> TeraResult<Value> {
    let mut map = Map::new();
    for item in items(&value)? {
        let item = data::json(&item)?;
        let (Some(key), Some(value)) = (field(&item, "key"), field(&item, "value")) else {
            return Err(Error::message("`items2dict` needs a list of maps with `key` and `value`"));
        };
        map.insert(key.as_str().map_or_else(|| key.to_string(), str::to_owned), value.clone());
    }
    data::tera(&Json::Object(map))
}

fn combine(value: Value, args: Kwargs, _: &State) -> TeraResult<Value> {
    let recursive = args.get::<bool>("recursive")?.unwrap_or(false);
    let other = args.must_get::<Value>("other")?;
    let (mut base, other) = (data::json(&value)?, data::json(&other)?);
    if !base.is_object() || !other.is_object() {
        return Err(Error::message("`combine` needs two maps"));
    }
    merge(&mut base, other, recursive);
    data::tera(&base)
}

fn merge(base: &mut Json, other: Json, recursive: bool) {
    match (base, other) {
        (Json::Object(base), Json::Object(other)) => {
            for (key, value) in other {
                match base.get_mut(&key) {
                    Some(old) if recursive && old.is_object() && value.is_object() => merge(old, value, true),
                    _ => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, other) => *base = other,
    }
}

fn map(value: Value, args: Kwargs, state: &State) -> TeraResult<Value> {
    let mut result = Vec::new();
    for item in items(&value)? {
        result.push(match (args.get::<&str>("attribute")?, args.get::<&str>("filter")?) {
            (Some(attribute), _) => {
                let item = data::json(&item)?;
                let found = field(&item, attribute).cloned().or_else(|| None);
                match (found, args.get::<Value>("default")?) {
                    (Some(found), _) => data::tera(&found)?,
                    (None, Some(fallback)) => fallback,
                    (None, None) => return Err(Error::message(format!("an item has no `{attribute}`"))),
                }
            }
            (None, Some("extract")) => extract(&item, &args)?,
            (None, Some(name)) => {
                let mut given = tera::Map::new();
                let names = super::dialect::positional(name);
                for (name, from) in names.iter().zip(["container", "key"]) {
                    if let Some(argument) = args.get::<Value>(from)? {
                        given.insert(tera::value::Key::from((*name).to_owned()), argument);
                    }
                }
                state.call_filter(name, &item, Kwargs::new(Arc::new(given)))?
            }
            (None, None) => return Err(Error::message("`map` needs a filter's name or `attribute=`")),
        });
    }
    Ok(Value::from(result))
}

/// `groups.etcd | map('extract', hostvars, 'ansible_host')`
fn extract(key: &Value, args: &Kwargs) -> TeraResult<Value> {
    let container = args.must_get::<Value>("container")?;
    let get = |container: &Value, key: &str| {
        container.as_map().and_then(|map| map.get(&tera::value::Key::from(key.to_owned())).cloned())
    };
    let name = key.as_str().unwrap_or_default();
    let found =
        get(&container, name).ok_or_else(|| Error::message(format!("there is no `{name}` to extract")))?;
    match args.get::<&str>("key")? {
        Some(inner) => get(&found, inner).ok_or_else(|| Error::message(format!("`{name}` has no `{inner}`"))),
        None => Ok(found),
    }
}

fn filter(value: &Value, keep: impl Fn(&Json) -> TeraResult<bool>) -> TeraResult<Vec<Value>> {
    let mut result = Vec::new();
    for item in items(value)? {
        if keep(&data::json(&item)?)? {
            result.push(item);
        }
    }
    Ok(result)
}

/// The value below a dotted path.
fn field<'a>(item: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').try_fold(item, |at, name| match at {
        Json::Array(list) => name.parse::<usize>().ok().and_then(|index| list.get(index)),
        other => other.get(name),
    })
}

/// The tests that `select` and `selectattr` take by name.
fn holds(test: &str, item: Option<&Json>, operand: Option<&Json>) -> TeraResult<bool> {
    let text = |value: Option<&Json>| value.and_then(Json::as_str).map(str::to_owned);
    let pattern = || {
        let given = text(operand).unwrap_or_default();
        Regex::new(&given).map_err(|_| Error::message(format!("`{given}` is not a regular expression")))
    };
    let order = || match (item.and_then(Json::as_f64), operand.and_then(Json::as_f64)) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => text(item).partial_cmp(&text(operand)),
    };
    Ok(match test {
        "truthy" => item.is_some_and(data::truthy),
        "falsy" => !item.is_some_and(data::truthy),
        "defined" => item.is_some(),
        "undefined" => item.is_none(),
        "none" => item.is_some_and(Json::is_null),
        "equalto" | "==" | "eq" | "sameas" => item == operand,
        "ne" | "!=" => item != operand,
        "in" => match operand {
            Some(Json::Array(list)) => item.is_some_and(|item| list.contains(item)),
            Some(Json::String(whole)) => text(item).is_some_and(|part| whole.contains(&part)),
            _ => false,
        },
        "contains" => match item {
            Some(Json::Array(list)) => operand.is_some_and(|wanted| list.contains(wanted)),
            Some(Json::String(whole)) => text(operand).is_some_and(|part| whole.contains(&part)),
            _ => false,
        },
        "match" => pattern()?.find(&text(item).unwrap_or_default()).is_some_and(|found| found.start() == 0),
        "search" => pattern()?.is_match(&text(item).unwrap_or_default()),
        "gt" | ">" => order() == Some(std::cmp::Ordering::Greater),
        "lt" | "<" => order() == Some(std::cmp::Ordering::Less),
        "ge" | ">=" => order().is_some_and(std::cmp::Ordering::is_ge),
        "le" | "<=" => order().is_some_and(std::cmp::Ordering::is_le),
        "string" => item.is_some_and(Json::is_string),
        "number" => item.is_some_and(Json::is_number),
        "mapping" => item.is_some_and(Json::is_object),
        _ => return Err(Error::message(format!("`{test}` is not a test that lists can be filtered by"))),
    })
}
