//! A GET, as a browser would send it to one member: for checking what each of
//! them serves. No redirects, no compression, bounded in time and size.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(15);
/// The largest file that the demonstration asks for is some megabytes.
const BODY_MAX: usize = 256 << 20;

/// What came back.
#[derive(Debug)]
pub(super) struct Response {
    pub status: u16,
    /// The header `Althing-Version`: application and version.
    pub version: String,
    pub body: Bytes,
}

/// Asks `address` for `path`, which starts with a slash and is not yet encoded.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<Response, String> {
    match tokio::time::timeout(WITHIN, exchange(address, path)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(format!("GET http://{address}{path}: {error}")),
        Err(_) => Err(format!("GET http://{address}{path}: nothing within {WITHIN:?}")),
    }
}

async fn exchange(
    address: SocketAddr,
    path: &str,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(encode(path))
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let version = response.headers().get("althing-version");
    let version = version.and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok(Response { status, version, body })
}

fn encode(path: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEEP: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');
    utf8_percent_encode(path, KEEP).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn asks_for_the_encoded_path_and_reads_the_version() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let answer = "HTTP/1.1 404 N\r\nAlthing-Version: site/3\r\nContent-Length: 2\r\n\r\nhi";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let response = get(address, "/a b/ä.html").await.unwrap();
        assert_eq!((response.status, response.version.as_str()), (404, "site/3"));
        assert_eq!(&response.body[..], b"hi");
        assert!(server.await.unwrap().starts_with("GET /a%20b/%C3%A4.html HTTP/1.1\r\n"));
        // Nobody listens there any more.
        assert!(get(address, "/").await.unwrap_err().contains(&address.to_string()));
    }
}
