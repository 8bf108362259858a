//! How to get to a host: sessions, host keys, jump hosts, sudo, upload.
