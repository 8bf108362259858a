//! Generated passwords and SCRAM verifiers.
