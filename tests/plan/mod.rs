//! Plans of the shipped playbook: forty-odd cases of (inventory before, inventory after, what is found on
//! the hosts), each as the text that people read. The hands are the real ones, each on a directory tree as
//! its host; PostgreSQL is a real server; the agents' REST API answers from memory.

mod cases;
pub mod world;
