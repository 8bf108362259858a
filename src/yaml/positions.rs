//! Where each key and value of a document stands.
//!
//! serde_yaml tells positions in errors alone. So a second pass over the text answers every scalar with an
//! error, which consumes it, reads its position off the error, and goes on. A map or list stands where its
//! first key or item stands, or at its opening bracket.

use super::PathStep;
use indexmap::IndexMap;
use serde::de::{
    self, DeserializeSeed, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::fmt;

/// Line and column, both from 1.
pub(super) type Position = (usize, usize);

#[derive(Debug, Default)]
pub(super) struct Positions {
    at: Option<Position>,
    within: Within,
}

#[derive(Debug, Default)]
enum Within {
    #[default]
    Nothing,
    Map(IndexMap<String, (Option<Position>, Positions)>),
    List(Vec<Positions>),
}

impl Positions {
    /// The position of the value at `path`, or of its nearest parent that has one.
    pub(super) fn of_value(&self, path: &[PathStep<'_>]) -> Position {
        let mut best = self.at.unwrap_or((1, 1));
        let mut here = self;
        for step in path {
            match here.step(step) {
                Some((key, next)) => {
                    best = next.at.or(key).unwrap_or(best);
                    here = next;
                }
                None => break,
            }
        }
        best
    }

    /// The position of the key at the end of `path`.
    pub(super) fn of_key(&self, path: &[PathStep<'_>]) -> Position {
        let Some((last, parents)) = path.split_last() else { return self.of_value(path) };
        let mut here = self;
        for step in parents {
            match here.step(step) {
                Some((_, next)) => here = next,
                None => return self.of_value(path),
            }
        }
        match here.step(last) {
            Some((Some(key), _)) => key,
            _ => self.of_value(path),
        }
    }

    fn step(&self, step: &PathStep<'_>) -> Option<(Option<Position>, &Positions)> {
        match (&self.within, step) {
            (Within::Map(entries), PathStep::Key(key)) => entries.get(*key).map(|(at, value)| (*at, value)),
            (Within::List(items), PathStep::Index(index)) => items.get(*index).map(|item| (None, item)),
            _ => None,
        }
    }
}

/// The positions within a text that is known to parse.
pub(super) fn index(text: &str) -> Positions {
    let Some(document) = serde_yaml::Deserializer::from_str(text).next() else { return Positions::default() };
    let lines: Vec<&str> = text.lines().collect();
    let mut root = Probe.deserialize(document).unwrap_or_else(|error| scalar(&error));
    fill_in(&mut root, &lines);
    root
}

/// Gives maps and lists the position of their first content, or of the bracket before it.
fn fill_in(positions: &mut Positions, lines: &[&str]) {
    let first = match &mut positions.within {
        Within::Nothing => return,
        Within::Map(entries) => {
            entries.values_mut().for_each(|(_, value)| fill_in(value, lines));
            entries.first().and_then(|(_, (key, _))| *key)
        }
        Within::List(items) => {
            items.iter_mut().for_each(|item| fill_in(item, lines));
            items.first().and_then(|item| item.at).map(|at| before_dash(at, lines))
        }
    };
    positions.at = first.map(|at| before_bracket(at, lines));
}

fn before_dash((line, column): Position, lines: &[&str]) -> Position {
    let prefix: String = lines.get(line - 1).unwrap_or(&"").chars().take(column - 1).collect();
    match prefix.trim_end().strip_suffix('-') {
        Some(indent) => (line, indent.chars().count() + 1),
        None => (line, column),
    }
}

fn before_bracket((line, column): Position, lines: &[&str]) -> Position {
    let prefix: String = lines.get(line - 1).unwrap_or(&"").chars().take(column - 1).collect();
    match prefix.trim_end().strip_suffix(['{', '[']) {
        Some(before) => (line, before.chars().count() + 1),
        None => (line, column),
    }
}

/// The error that a scalar was answered with, read for its position.
fn scalar(error: &impl fmt::Display) -> Positions {
    let text = error.to_string();
    let at = text.rsplit_once(" at line ").and_then(|(_, position)| {
        let (line, column) = position.split_once(" column ")?;
        Some((line.parse().ok()?, column.parse().ok()?))
    });
    Positions { at: Some(at.unwrap_or((1, 1))), within: Within::Nothing }
}

struct Probe;

impl<'de> DeserializeSeed<'de> for Probe {
    type Value = Positions;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Positions, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe {
    type Value = Positions;

    /// Scalars are not visited: the default methods of `Visitor` answer them with an error.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map or list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Positions, A::Error> {
        let mut list = Vec::new();
        loop {
            match items.next_element_seed(Probe) {
                Ok(Some(item)) => list.push(item),
                Ok(None) => break,
                Err(error) => list.push(scalar(&error)),
            }
        }
        Ok(Positions { at: None, within: Within::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Positions, A::Error> {
        let mut map = IndexMap::new();
        loop {
            let mut name = None;
            let at = match entries.next_key_seed(KeyProbe(&mut name)) {
                Ok(None) => break,
                Ok(Some(_)) => None,
                Err(error) => scalar(&error).at,
            };
            let value = entries.next_value_seed(Probe).unwrap_or_else(|error| scalar(&error));
            if let Some(name) = name {
                map.insert(name, (at, value));
            }
        }
        Ok(Positions { at: None, within: Within::Map(map) })
    }

    /// A tag is passed by.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Positions, A::Error> {
        let (_, content) = tagged.variant::<IgnoredAny>()?;
        content.newtype_variant_seed(Probe)
    }
}

/// Notes a key's text and answers it with an error.
struct KeyProbe<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for KeyProbe<'_> {
    type Value = IgnoredAny;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<IgnoredAny, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeyProbe<'_> {
    type Value = IgnoredAny;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<IgnoredAny, E> {
        *self.0 = Some(key.to_owned());
        Err(E::custom("noted"))
    }
}
