//! Who: hosts, groups and variables, validated.
