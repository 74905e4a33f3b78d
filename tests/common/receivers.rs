//! Receivers of what rules tell: of webhooks, and of mail.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// Where receivers are for members that are not in a namespace of their own.
pub const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What was told, in order.
pub type Heard = Arc<Mutex<Vec<String>>>;

/// Takes what is told on a port of its own.
fn receiver(
    at: Ipv4Addr,
    each: impl Fn(std::net::TcpStream) -> Option<String> + Send + 'static,
) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
    let all = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            all.lock().unwrap().extend(each(stream));
        }
    });
    (address, heard)
}

/// A receiver of webhooks.
pub fn web(at: Ipv4Addr) -> (SocketAddr, Heard) {
    receiver(at, |stream| {
        let mut reader = BufReader::new(&stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").ok()?;
        String::from_utf8(body).ok()
    })
}

/// A receiver of mail (RFC 5321), as much of one as a client needs.
pub fn mail(at: Ipv4Addr) -> (SocketAddr, Heard) {
    receiver(at, |stream| {
        let mut reader = BufReader::new(&stream);
        let say = |text: &str| (&stream).write_all(text.as_bytes()).ok();
        say("220 mail.test\r\n")?;
        let mut whole = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.to_ascii_uppercase().split([' ', ':', '\r']).next()? {
                "DATA" => {
                    say("354 go on\r\n")?;
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).ok()?;
                        if line == ".\r\n" {
                            break;
                        }
                        whole.push_str(&line);
                    }
                    say("250 taken\r\n")?;
                    return Some(whole);
                }
                "QUIT" => {
                    say("221 bye\r\n")?;
                    return None;
                }
                _ => say("250 fine\r\n")?,
            };
        }
    })
}
