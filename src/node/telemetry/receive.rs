//! Where services and scripts tell what they measure themselves: a socket in the data directory,
//! and a port where one is given.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::{UdpSocket, UnixDatagram};
use tokio_util::sync::CancellationToken;

use crate::proto::telemetry::statsd::Custom;

/// The longest packet that is read whole, bytes: what clients of StatsD send at the most through
/// loopback or a Unix socket.
const PACKET_MAX: usize = 8 << 10;

/// What was told, shared with the thread that keeps it.
pub(in crate::node) type Told = Arc<Mutex<Custom>>;

/// Makes the socket at `path`, for this user and its group. What an earlier member left there is
/// replaced: only one has a data directory. Needs a runtime.
///
/// # Errors
/// `AlreadyExists` if it is no socket, and what the system says (a path of more than 100 bytes).
pub(in crate::node) fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            let why = format!("{} is no socket: move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(socket)
}

/// Takes what comes to `socket`, until it is stopped.
pub(in crate::node) async fn from_socket(
    socket: UnixDatagram,
    told: Told,
    stopping: CancellationToken,
) {
    let mut packet = vec![0; PACKET_MAX];
    while let Some(Ok(size)) = stopping.run_until_cancelled(socket.recv(&mut packet)).await {
        take(&told, &packet[..size]);
    }
}

/// The same for a port.
pub(in crate::node) async fn from_port(socket: UdpSocket, told: Told, stopping: CancellationToken) {
    let mut packet = vec![0; PACKET_MAX];
    while let Some(received) = stopping.run_until_cancelled(socket.recv(&mut packet)).await {
        // An error is about some packet that was sent, and none is.
        if let Ok(size) = received {
            take(&told, &packet[..size]);
        }
    }
}

fn take(told: &Told, packet: &[u8]) {
    told.lock().unwrap_or_else(PoisonError::into_inner).take(packet);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Time, WallTime};

    #[tokio::test]
    async fn what_comes_to_either_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        drop(bind(&path).unwrap());
        let (socket, told) = (bind(&path).expect("what is left is replaced"), Told::default());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let port = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = port.local_addr().unwrap();
        let stopping = CancellationToken::new();
        let tasks = [
            tokio::spawn(from_socket(socket, told.clone(), stopping.clone())),
            tokio::spawn(from_port(port, told.clone(), stopping.clone())),
        ];
        UnixDatagram::unbound().unwrap().send_to(b"one:1|g", &path).await.unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender.send_to(b"two:2|g\n", at).await.unwrap();
        let count = || told.lock().unwrap().readings(Time(1), WallTime(1)).len();
        while count() < 2 {
            tokio::task::yield_now().await;
        }
        stopping.cancel();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
