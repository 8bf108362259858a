//! The only writer to a terminal: data to standard output, all else to standard error.
