//! Who: hosts, groups and variables, read from Ansible-shaped YAML and checked strictly.
//!
//! Start reading at `catalogue`, which has a row for each variable.

pub mod catalogue;
pub mod variable;
