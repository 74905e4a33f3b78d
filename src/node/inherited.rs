//! Sockets that whoever started this process listens on for it (sd_listen_fds(3), systemd's
//! socket units). They outlive the process: while a member restarts, clients wait in the
//! kernel's queue and are not refused.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Mutex, OnceLock, PoisonError},
};

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};

/// The one for `address`, if it was handed over; each is given once.
pub(super) fn take(address: SocketAddr) -> Option<TcpListener> {
    let mut all = all().lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |listener: &TcpListener| listener.local_addr().is_ok_and(|at| at == address);
    let at = all.iter().position(fits)?;
    Some(all.swap_remove(at))
}

/// The addresses of sockets that were handed over to this process and that it did not take.
pub fn unclaimed() -> Vec<SocketAddr> {
    let all = all().lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

fn all() -> &'static Mutex<Vec<TcpListener>> {
    static ALL: OnceLock<Mutex<Vec<TcpListener>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut handed_over = ListenFd::from_env();
        let numbers = 0..handed_over.len();
        // What is no TCP listener is nothing of ours.
        let listeners = numbers.filter_map(|n| handed_over.take_tcp_listener(n).ok().flatten());
        let own = |listener: &TcpListener| {
            // Not for what this member starts.
            fcntl_setfd(listener, FdFlags::CLOEXEC).is_ok()
        };
        Mutex::new(listeners.filter(own).collect())
    })
}
