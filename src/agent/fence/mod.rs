//! What keeps a primary without a lease from writing.
