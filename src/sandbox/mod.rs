//! Throw-away systemd hosts on this machine.
