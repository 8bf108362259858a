//! The API's sockets outlive the agent, in the keeping of the service manager. Who asks while one agent has gone and
//! the next is not there yet then waits for a moment instead of being refused: a load balancer takes a few refusals
//! in a row for the end of the server, and closes its clients' sessions.
//!
//! The protocol is systemd's file descriptor store, see `FileDescriptorStoreMax=` in systemd.service(5).

use sd_notify::NotifyState;
use std::{
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, FromRawFd as _},
};

const NAME: &str = "api";

/// The sockets that the agent before this one has left. To be asked for once, at the start.
pub fn take() -> Vec<TcpListener> {
    let Ok(descriptors) = sd_notify::listen_fds_with_names() else { return Vec::new() };
    let ours = descriptors.filter(|(_, name)| name == NAME);
    // SAFETY: the service manager has opened them for this process, and nobody else takes them.
    ours.map(|(descriptor, _)| unsafe { TcpListener::from_raw_fd(descriptor) }).collect()
}

/// Leaves these sockets, and no others, to the agent after this one. Without a service manager: nothing.
pub fn keep<S: AsFd>(listeners: &[S]) -> std::io::Result<()> {
    let name = NotifyState::FdName(NAME);
    sd_notify::notify(&[NotifyState::FdStoreRemove, name.clone()])?;
    let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    sd_notify::notify_with_fds(&[NotifyState::FdStore, name], &descriptors)
}
