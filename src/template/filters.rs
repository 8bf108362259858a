//! The filters and tests that Ansible users expect and Tera lacks.
//!
//! Names and meaning are Ansible's; a value of the wrong kind is an error, never a guess.

use super::{data, lists};
use ipnet::IpNet;
use regex::Regex;
use serde_json::Value as Json;
use std::{net::IpAddr, path::Path};
use tera::{Error, Kwargs, State, Tera, TeraResult, Value};

/// Every filter's name, Tera's own included: where the nearest word is looked for.
pub(super) const FILTERS: &[&str] = &[
    "abs",
    "b64decode",
    "b64encode",
    "basename",
    "bool",
    "capitalize",
    "combine",
    "contains",
    "count",
    "d",
    "default",
    "dict2items",
    "difference",
    "dirname",
    "endswith",
    "first",
    "flatten",
    "float",
    "from_json",
    "from_yaml",
    "get",
    "group_by",
    "indent",
    "int",
    "intersect",
    "ipaddr",
    "ipwrap",
    "items",
    "items2dict",
    "join",
    "keys",
    "last",
    "length",
    "list",
    "lower",
    "mandatory",
    "map",
    "max",
    "min",
    "nth",
    "pairs",
    "quote",
    "regex_replace",
    "regex_search",
    "reject",
    "rejectattr",
    "replace",
    "required",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "split",
    "splitlines",
    "startswith",
    "str",
    "string",
    "strip",
    "sum",
    "ternary",
    "title",
    "to_json",
    "to_nice_json",
    "to_nice_yaml",
    "to_yaml",
    "tojson",
    "trim",
    "truncate",
    "union",
    "unique",
    "upper",
    "values",
    "wordcount",
];

/// Every test's name, Tera's own included.
pub(super) const TESTS: &[&str] = &[
    "array",
    "bool",
    "boolean",
    "changed",
    "containing",
    "contains",
    "defined",
    "divisible_by",
    "divisibleby",
    "ending_with",
    "even",
    "failed",
    "float",
    "integer",
    "iterable",
    "map",
    "mapping",
    "match",
    "none",
    "number",
    "odd",
    "search",
    "sequence",
    "skipped",
    "starting_with",
    "string",
    "subset",
    "succeeded",
    "success",
    "superset",
    "undefined",
    "version",
];

/// The name of the filter through which [`super::Templates::value`] gets an expression's value.
pub(super) const NATIVE: &str = "__native";

pub(super) fn register(tera: &mut Tera) {
    tera.register_filter(NATIVE, |value: Value, _: Kwargs, _: &State| {
        if value.is_undefined() { Err(Error::message(UNDEFINED)) } else { text(&value) }
    });
    for name in ["d", "default"] {
        tera.register_filter(name, default);
    }
    for name in ["required", "mandatory"] {
        tera.register_filter(name, required);
    }
    for name in ["to_json", "tojson"] {
        tera.register_filter(name, |value: Value, _: Kwargs, _: &State| text(defined(&value)?));
    }
    tera.register_filter("to_nice_json", |value: Value, _: Kwargs, _: &State| {
        serde_json::to_string_pretty(&data::json(defined(&value)?)?).map_err(Error::message)
    });
    for name in ["to_yaml", "to_nice_yaml"] {
        tera.register_filter(name, |value: Value, _: Kwargs, _: &State| {
            Ok::<_, Error>(crate::yaml::to_string(&data::json(defined(&value)?)?))
        });
    }
    tera.register_filter("from_json", |value: &str, _: Kwargs, _: &State| {
        serde_json::from_str::<Json>(value).map_err(Error::message).and_then(|parsed| data::tera(&parsed))
    });
    tera.register_filter("from_yaml", |value: &str, _: Kwargs, _: &State| {
        let document =
            crate::yaml::Document::parse("value", value).map_err(|wrong| Error::message(wrong.message))?;
        data::tera(document.value())
    });
    tera.register_filter("bool", |value: Value, _: Kwargs, _: &State| {
        data::truth(&data::json(defined(&value)?)?)
    });
    tera.register_filter("int", int);
    tera.register_filter("float", float);
    tera.register_filter("string", |value: Value, _: Kwargs, _: &State| {
        Ok::<_, Error>(defined(&value)?.to_string())
    });
    tera.register_filter("ternary", ternary);
    tera.register_filter("quote", |value: Value, _: Kwargs, _: &State| {
        let plain = defined(&value)?.to_string();
        shlex::try_quote(&plain).map(|quoted| quoted.into_owned()).map_err(Error::message)
    });
    tera.register_filter("b64encode", |value: &str, _: Kwargs, _: &State| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(value)
    });
    tera.register_filter("b64decode", |value: &str, _: Kwargs, _: &State| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(value).map_err(Error::message)?;
        String::from_utf8(bytes).map_err(Error::message)
    });
    tera.register_filter("basename", |value: &str, _: Kwargs, _: &State| {
        Path::new(value).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    });
    tera.register_filter("dirname", |value: &str, _: Kwargs, _: &State| {
        Path::new(value).parent().map_or_else(String::new, |parent| parent.to_string_lossy().into_owned())
    });
    tera.register_filter("strip", |value: &str, _: Kwargs, _: &State| value.trim().to_owned());
    tera.register_filter("splitlines", |value: &str, _: Kwargs, _: &State| {
        value.lines().map(Value::from).collect::<Vec<Value>>()
    });
    tera.register_filter("startswith", |value: &str, args: Kwargs, _: &State| {
        Ok::<_, Error>(value.starts_with(args.must_get::<&str>("pat")?))
    });
    tera.register_filter("endswith", |value: &str, args: Kwargs, _: &State| {
        Ok::<_, Error>(value.ends_with(args.must_get::<&str>("pat")?))
    });
    tera.register_filter("regex_replace", regex_replace);
    tera.register_filter("regex_search", |value: &str, args: Kwargs, _: &State| {
        let found = regex(&args)?.find(value).map(|found| found.as_str().to_owned());
        Ok::<_, Error>(found.map_or_else(Value::none, Value::from))
    });
    tera.register_filter("ipaddr", |value: &str, args: Kwargs, _: &State| {
        ipaddr(value, args.get::<&str>("query")?.unwrap_or(""))
    });
    // An IPv6 address in a URL stands in brackets.
    tera.register_filter("ipwrap", |value: &str, _: Kwargs, _: &State| {
        if value.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{value}]") } else { value.to_owned() }
    });
    lists::register(tera);
    register_tests(tera);
}

/// What [`NATIVE`] says about an undefined value; the caller finds out which variable it was.
pub(super) const UNDEFINED: &str = "undefined value";

/// Refuses an undefined value: a filter must not turn a typing mistake into an empty text.
fn defined(value: &Value) -> TeraResult<&Value> {
    if value.is_undefined() { Err(Error::message(UNDEFINED)) } else { Ok(value) }
}

fn text(value: &Value) -> TeraResult<String> {
    serde_json::to_string(&data::json(value)?).map_err(Error::message)
}

fn default(value: Value, args: Kwargs, _: &State) -> TeraResult<Value> {
    let falsy = args.get::<bool>("boolean")?.unwrap_or(false) && !value.is_truthy();
    if value.is_undefined() || falsy {
        Ok(args.get::<Value>("value")?.unwrap_or_else(|| Value::from("")))
    } else {
        Ok(value)
    }
}

fn required(value: Value, args: Kwargs, _: &State) -> TeraResult<Value> {
    if value.is_undefined() || value.is_none() {
        let said = args.get::<&str>("message")?.unwrap_or("this value is required, and it isn't set");
        return Err(Error::message(said));
    }
    Ok(value)
}

fn int(value: Value, args: Kwargs, _: &State) -> TeraResult<Value> {
    let plain = defined(&value)?;
    let base = args.get::<u32>("base")?.unwrap_or(10);
    let number = match (plain.as_i64(), plain.as_f64(), plain.as_bool(), plain.as_str()) {
        (Some(number), ..) => Some(number),
        // A float is cut off, as Python does it.
        (_, Some(number), ..) if number.abs() < 9e15 => Some(number.trunc() as i64),
        (_, _, Some(flag), _) => Some(i64::from(flag)),
        (_, _, _, Some(text)) => i64::from_str_radix(text.trim(), base).ok(),
        _ => None,
    };
    match (number, args.get::<Value>("default")?) {
        (Some(number), _) => Ok(Value::from(number)),
        (None, Some(fallback)) => Ok(fallback),
        (None, None) => Err(Error::message(format!("`{plain}` is not a whole number"))),
    }
}

fn float(value: Value, args: Kwargs, _: &State) -> TeraResult<Value> {
    let plain = defined(&value)?;
    let number = plain.as_f64().or_else(|| plain.as_str().and_then(|text| text.trim().parse().ok()));
    match (number, args.get::<Value>("default")?) {
        (Some(number), _) => Ok(Value::from(number)),
        (None, Some(fallback)) => Ok(fallback),
        (None, None) => Err(Error::message(format!("`{plain}` is not a number"))),
    }
}

fn ternary(value: Value, args: Kwargs, _: &State) -> TeraResult<Value> {
    let value = defined(&value)?;
    match args.get::<Value>("none")? {
        Some(none) if value.is_none() => Ok(none),
        _ if value.is_truthy() => args.must_get::<Value>("yes"),
        _ => args.must_get::<Value>("no"),
    }
}

fn regex(args: &Kwargs) -> TeraResult<Regex> {
    let pattern = args.must_get::<&str>("pattern")?;
    Regex::new(pattern).map_err(|_| Error::message(format!("`{pattern}` is not a regular expression")))
}

fn regex_replace(value: &str, args: Kwargs, _: &State) -> TeraResult<String> {
    // Python writes groups `\1` and `\g<name>`, the regex crate `${1}` and `${name}`.
    let replacement = args.get::<&str>("replacement")?.unwrap_or("").replace('$', "$$");
    let groups = Regex::new(r"\\(?:g<(\w+)>|(\d+))").map_err(Error::message)?;
    let replacement = groups.replace_all(&replacement, "$${$1$2}");
    Ok(regex(&args)?.replace_all(value, replacement.as_ref()).into_owned())
}

/// Pieces of an address that may carry a prefix length: `192.0.2.7/24`.
fn ipaddr(value: &str, query: &str) -> TeraResult<Value> {
    let wrong = || Error::message(format!("`{value}` is not an IP address"));
    let net: IpNet = match value.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(value.parse::<IpAddr>().map_err(|_| wrong())?),
    };
    Ok(match query {
        "" | "host/prefix" => Value::from(value),
        "address" | "host" => Value::from(net.addr().to_string()),
        "prefix" => Value::from(net.prefix_len()),
        "network" => Value::from(net.network().to_string()),
        "netmask" => Value::from(net.netmask().to_string()),
        "broadcast" => Value::from(net.broadcast().to_string()),
        "network/prefix" | "subnet" => Value::from(net.trunc().to_string()),
        "version" => Value::from(if net.addr().is_ipv4() { 4 } else { 6 }),
        _ => {
            return Err(Error::message(format!(
                "`{query}` is no part of an address: expected address, prefix, network, netmask, broadcast, \
                 subnet or version"
            )));
        }
    })
}

fn register_tests(tera: &mut Tera) {
    tera.register_test("mapping", |value: Value, _: Kwargs, _: &State| value.is_map());
    tera.register_test("sequence", |value: Value, _: Kwargs, _: &State| value.is_array());
    tera.register_test("boolean", |value: Value, _: Kwargs, _: &State| value.is_bool());
    tera.register_test("divisibleby", |value: i128, args: Kwargs, _: &State| {
        let divisor = args.must_get::<i128>("divisor")?;
        if divisor == 0 { Err(Error::message("division by zero")) } else { Ok(value % divisor == 0) }
    });
    tera.register_test("match", |value: &str, args: Kwargs, _: &State| {
        Ok::<_, Error>(regex(&args)?.find(value).is_some_and(|found| found.start() == 0))
    });
    tera.register_test("search", |value: &str, args: Kwargs, _: &State| {
        Ok::<_, Error>(regex(&args)?.is_match(value))
    });
    tera.register_test("contains", |value: Value, args: Kwargs, _: &State| {
        lists::contains(&value, &args.must_get::<Value>("pat")?)
    });
    tera.register_test("subset", |value: Value, args: Kwargs, _: &State| {
        let of = args.must_get::<Value>("of")?;
        Ok::<_, Error>(lists::items(&value)?.iter().all(|item| lists::contains(&of, item).unwrap_or(false)))
    });
    tera.register_test("superset", |value: Value, args: Kwargs, _: &State| {
        let of = args.must_get::<Value>("of")?;
        Ok::<_, Error>(lists::items(&of)?.iter().all(|item| lists::contains(&value, item).unwrap_or(false)))
    });
    tera.register_test("version", |value: Value, args: Kwargs, _: &State| version(&value, &args));
    // What `register` stored.
    for (name, field, expected) in [
        ("changed", "changed", true),
        ("failed", "failed", true),
        ("succeeded", "failed", false),
        ("success", "failed", false),
        ("skipped", "skipped", true),
    ] {
        tera.register_test(name, move |value: Value, _: Kwargs, _: &State| {
            let result = data::json(defined(&value)?)?;
            let Json::Object(result) = result else {
                return Err(Error::message(format!("`is {name}` needs a registered result")));
            };
            Ok(result.get(field).and_then(Json::as_bool).unwrap_or(false) == expected)
        });
    }
}

/// Compares dotted versions number by number: `17.2 is version('17', '>=')`.
fn version(value: &Value, args: &Kwargs) -> TeraResult<bool> {
    let parts = |text: String| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    let (mut left, mut right) =
        (parts(value.to_string()), parts(args.must_get::<Value>("version")?.to_string()));
    let length = left.len().max(right.len());
    left.resize(length, 0);
    right.resize(length, 0);
    let operator = args.get::<&str>("operator")?.unwrap_or("==");
    Ok(match operator {
        "==" | "=" | "eq" => left == right,
        "!=" | "ne" => left != right,
        ">" | "gt" => left > right,
        ">=" | "ge" => left >= right,
        "<" | "lt" => left < right,
        "<=" | "le" => left <= right,
        _ => {
            return Err(Error::message(format!(
                "`{operator}` does not compare versions: expected ==, !=, <, <=, > or >="
            )));
        }
    })
}
