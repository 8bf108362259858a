//! How a playbook's arguments become a resource: Ansible's habits (`yes`, `"22"`, `a,b`, a lone value
//! for a list) are accepted where the type asks for them, everything else is refused with a sentence
//! that names the argument. Owns no resource's fields: those are the structs' own.

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess,
        SeqAccess, Unexpected, VariantAccess, Visitor,
    },
};
use serde_json::{Map, Value};
use std::{fmt, str::FromStr};

/// What is wrong with an argument, and which one it is.
#[derive(Debug)]
pub(crate) struct Mistake {
    path: Vec<String>,
    message: String,
}

impl Mistake {
    fn inside(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.path.join("."))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), message: message.to_string() }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Bool(value) => format!("`{value}`"),
            Unexpected::Unsigned(value) => format!("`{value}`"),
            Unexpected::Signed(value) => format!("`{value}`"),
            Unexpected::Float(value) => format!("`{value}`"),
            Unexpected::Str(value) => format!("`{value}`"),
            Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a map".to_owned(),
            other => other.to_string(),
        };
        de::Error::custom(format!("expected {expected}, found {found}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let meant = nearest(field, known).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
        de::Error::custom(format!("unknown argument `{field}`{meant} (known: {})", known.join(", ")))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let words = known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let meant = nearest(found, known).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
        de::Error::custom(format!("expected one of {words}, found `{found}`{meant}"))
    }

    fn missing_field(field: &'static str) -> Self {
        de::Error::custom(format!("argument `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        de::Error::custom(format!("argument `{field}` is given twice, under two of its names"))
    }
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Reads `args` as `T`; the error names the argument and what was expected of it.
pub(crate) fn read<T: DeserializeOwned>(args: Value) -> Result<T, Mistake> {
    T::deserialize(Lenient(args))
}

/// A value whose reading is guided by what the type asks for.
struct Lenient(Value);

impl Lenient {
    fn found(&self) -> String {
        match &self.0 {
            Value::Null => "nothing".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a map".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        }
    }

    fn expected(&self, what: &str) -> Mistake {
        de::Error::custom(format!("expected {what}, found {}", self.found()))
    }

    fn number<N: FromStr>(&self, what: &str) -> Result<N, Mistake> {
        match &self.0 {
            Value::Number(number) => number.to_string().parse().map_err(|_| self.expected(what)),
            Value::String(text) => text.trim().parse().map_err(|_| self.expected(what)),
            _ => Err(self.expected(what)),
        }
    }
}

macro_rules! numbers {
    ($($method:ident, $visit:ident, $number:ty, $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
            visitor.$visit(self.number::<$number>($what)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::Object(map) => visitor.visit_map(Entries::new(map)),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => Err(de::Error::custom(format!("`{number}` is out of range"))),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let flag = match &self.0 {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => match number.as_u64() {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "true" | "on" | "y" | "1" => Some(true),
                "no" | "false" | "off" | "n" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        visitor.visit_bool(flag.ok_or_else(|| self.expected("`true` or `false`"))?)
    }

    numbers! {
        deserialize_u8, visit_u8, u8, "a whole number from 0 to 255";
        deserialize_u16, visit_u16, u16, "a whole number from 0 to 65535";
        deserialize_u32, visit_u32, u32, "a whole number, not negative";
        deserialize_u64, visit_u64, u64, "a whole number, not negative";
        deserialize_i32, visit_i32, i32, "a whole number";
        deserialize_i64, visit_i64, i64, "a whole number";
        deserialize_f64, visit_f64, f64, "a number";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(flag) => visitor.visit_string(flag.to_string()),
            _ => Err(self.expected("text")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let items = match self.0 {
            Value::Array(items) => items,
            Value::String(text) => text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
            Value::Object(_) | Value::Null => return Err(self.expected("a list")),
            single => vec![single],
        };
        visitor.visit_seq(Items(items.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Object(map) => visitor.visit_map(Entries::new(map)),
            _ => Err(self.expected("a map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(Word(word)),
            // YAML 1.1 writers leave `state: on` a boolean.
            Value::Bool(flag) => visitor.visit_enum(Word(flag.to_string())),
            _ => Err(self.expected("a word")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        self.0.next().map(|value| seed.deserialize(Lenient(value))).transpose()
    }
}

struct Entries {
    entries: <Map<String, Value> as IntoIterator>::IntoIter,
    current: Option<(String, Value)>,
}

impl Entries {
    fn new(map: Map<String, Value>) -> Self {
        Self { entries: map.into_iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        self.current = self.entries.next();
        match &self.current {
            Some((key, _)) => seed.deserialize(key.as_str().into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let (key, value) = self.current.take().unwrap_or_default();
        seed.deserialize(Lenient(value)).map_err(|mistake| mistake.inside(&key))
    }
}

struct Word(String);

impl<'de> EnumAccess<'de> for Word {
    type Error = Mistake;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Mistake> {
        let variant = seed.deserialize(self.0.as_str().into_deserializer())?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Word {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Mistake> {
        Err(de::Error::custom(format!("`{}` stands alone", self.0)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Mistake> {
        Err(de::Error::custom(format!("`{}` stands alone", self.0)))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Mistake> {
        Err(de::Error::custom(format!("`{}` stands alone", self.0)))
    }
}

/// The names that a struct's derived `Deserialize` knows, aliases included.
pub(crate) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The probe ends in an error once it has seen the names; the names are what is wanted.
    let _ = T::deserialize(FieldProbe(&mut fields));
    fields
}

struct FieldProbe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldProbe<'_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Mistake> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Mistake> {
        *self.0 = fields;
        Err(de::Error::custom("seen"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The mode bits of a file, written in octal as `"0644"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(pub u32);

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for Permissions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octal;
        impl Visitor<'_> for Octal {
            type Value = Permissions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode in octal within quotes, such as \"0644\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Permissions, E> {
                let octal = text.strip_prefix("0o").unwrap_or(text);
                match u32::from_str_radix(octal, 8) {
                    Ok(mode) if mode <= 0o7777 && octal.len() >= 3 => Ok(Permissions(mode)),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Octal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum State {
        Present,
        Absent,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(alias = "pkg")]
        name: Vec<String>,
        #[serde(default)]
        force: bool,
        port: Option<u16>,
        mode: Option<Permissions>,
        state: Option<State>,
    }

    fn mistake(args: Value) -> String {
        read::<Sample>(args).expect_err("a mistake").to_string()
    }

    #[test]
    fn accepts_ansibles_habits() {
        let expected = Sample {
            name: vec!["a".into(), "b".into()],
            force: true,
            port: Some(22),
            mode: Some(Permissions(0o644)),
            state: Some(State::Absent),
        };
        for args in [
            json!({"name": "a, b", "force": "yes", "port": "22", "mode": "0644", "state": "absent"}),
            json!({"pkg": ["a", "b"], "force": true, "port": 22, "mode": "644", "state": "absent"}),
        ] {
            assert_eq!(read::<Sample>(args).expect("readable"), expected);
        }
    }

    #[test]
    fn names_the_argument_and_what_was_expected() {
        insta::assert_snapshot!(mistake(json!({"name": "a", "port": "abc"})), @"`port`: expected a whole number from 0 to 65535, found `abc`");
        insta::assert_snapshot!(mistake(json!({"name": "a", "port": 70000})), @"`port`: expected a whole number from 0 to 65535, found `70000`");
        insta::assert_snapshot!(mistake(json!({"name": "a", "forse": 1})), @"unknown argument `forse`; did you mean `force`? (known: name, pkg, force, port, mode, state)");
        insta::assert_snapshot!(mistake(json!({"name": "a", "mode": 420})), @r#"`mode`: expected a mode in octal within quotes, such as "0644", found `420`"#);
        insta::assert_snapshot!(mistake(json!({"name": "a", "state": "abssent"})), @"`state`: expected one of `present`, `absent`, found `abssent`; did you mean `absent`?");
        insta::assert_snapshot!(mistake(json!({"name": {"x": 1}})), @"`name`: expected a list, found a map");
        insta::assert_snapshot!(mistake(json!({"name": "a", "force": "maybe"})), @"`force`: expected `true` or `false`, found `maybe`");
        insta::assert_snapshot!(mistake(json!({})), @"argument `name` is missing");
    }

    #[test]
    fn knows_the_fields_of_a_struct_with_their_aliases() {
        assert_eq!(fields_of::<Sample>(), ["name", "pkg", "force", "port", "mode", "state"]);
    }
}
