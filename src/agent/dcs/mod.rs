//! The store that elects: a trait, etcd, and one in memory.
