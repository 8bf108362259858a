//! What is true of a whole cluster: health, members, switchover, write probe.
