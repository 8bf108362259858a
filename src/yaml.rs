//! The only user of `serde_yaml`: strict, duplicate keys refused, positions kept.
