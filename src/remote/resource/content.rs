//! What a file-like resource shall hold: text that travels with the arguments, or a content that
//! travels apart, named by its digest.

use crate::model::Digest;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;

/// Wanted content: `content: "text"` in a playbook, or what the engine lowers `src` to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Content {
    Inline(String),
    /// Transferred in a content frame when the target has it nowhere. `size` is in bytes.
    Stored {
        sha256: Digest,
        size: u64,
    },
}

impl Content {
    /// The digest to transfer; none when the content travels with the arguments.
    pub fn stored(&self) -> Option<Digest> {
        match self {
            Content::Inline(_) => None,
            Content::Stored { sha256, .. } => Some(*sha256),
        }
    }

    /// The digest of the content, however it travels.
    pub fn digest(&self) -> Digest {
        match self {
            Content::Inline(text) => Digest::of(text.as_bytes()),
            Content::Stored { sha256, .. } => *sha256,
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Stored {
            sha256: Digest,
            size: u64,
        }
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Inline(text.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
                Stored::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|Stored { sha256, size }| Content::Stored { sha256, size })
            }
        }
        deserializer.deserialize_any(Either)
    }
}
