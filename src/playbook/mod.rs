//! What: plays, tasks, handlers and conditions, validated.
