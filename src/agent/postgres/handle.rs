//! The kernel's handle to a process (pidfd): it can never mean another process, whatever happens to the
//! number.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::io::{Interest, unix::AsyncFd};

/// A process that existed when the handle was made.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pid: i32,
    descriptor: Arc<OwnedFd>,
}

impl Handle {
    /// A handle to the process that has the number now; `None`: there is none.
    pub fn of(pid: i32) -> Option<Handle> {
        // SAFETY: the call takes two integers.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        // SAFETY: a new descriptor, owned by nobody else.
        let owned = (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })?;
        Some(Handle { pid, descriptor: Arc::new(owned) })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended yet. When that cannot be told, it has not.
    pub fn is_alive(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, and a timeout of zero.
        unsafe { libc::poll(&mut poll, 1, 0) < 1 }
    }

    /// Resolves the moment it has ended, whoever its parent is.
    pub async fn exited(&self) {
        if let Ok(descriptor) = self.descriptor.as_fd().try_clone_to_owned() {
            // SAFETY: the descriptor is owned by what it is registered with, and closed with it.
            let watch = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
            if let Ok(watch) = watch
                && watch.readable().await.is_ok()
            {
                return;
            }
        }
        // No descriptor left to wait with: ask again and again instead.
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let (descriptor, number) = (self.descriptor.as_raw_fd(), signal as i32);
        let no_information = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a live descriptor, a signal number, no siginfo, no flags.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, number, no_information, 0) };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
