//! What a target can be made to be: a file per resource, each with its arguments, check and apply.

use serde::{Deserialize, Serialize};

/// A resource with its arguments, named by the playbook's word for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {}
