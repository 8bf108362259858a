//! The PostgreSQL server: process, configuration, replication, slots, rewind, bootstrap.
