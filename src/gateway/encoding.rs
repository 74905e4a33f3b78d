//! gzip: who accepts it, what is worth it, and a bounded cache of what was
//! compressed. The negotiation is pure; the cache is shared memory and no
//! more. After RFC 9110, section 12.5.3.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::sync::Semaphore;

use crate::base::Digest;

/// Files below this size, bytes, are sent as they are: they fit one packet.
pub const SIZE_MIN: u64 = 1 << 10;
/// Files above this size, bytes, are sent as they are: compressing happens in
/// memory and before the first byte leaves.
pub const SIZE_MAX: u64 = 8 << 20;
/// Compressed bodies kept, bytes of all together.
const CACHE_MAX: usize = 64 << 20;
/// Files compressed at the same time: requests must not wait for a processor
/// that compresses.
const PARALLEL_MAX: usize = 2;

/// Whether a client that sent this `Accept-Encoding` prefers gzip to nothing.
pub fn accepts_gzip(line: &str) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for item in line.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut quality = 1000;
        for parameter in parts {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("q")
            {
                // A quality that can't be read is no permission.
                quality = thousandths(value.trim()).unwrap_or(0);
            }
        }
        match coding.as_str() {
            "gzip" | "x-gzip" => gzip = gzip.max(Some(quality)),
            "*" => any = Some(quality),
            "identity" => identity = Some(quality),
            _ => {}
        }
    }
    let quality = gzip.or(any).unwrap_or(0);
    quality > 0 && quality >= identity.unwrap_or(0)
}

/// A quality value, `0` to `1` with up to three digits behind the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().all(|b| b.is_ascii_digit());
    if !digits || fraction.len() > 3 || !matches!(whole, "0" | "1") {
        return None;
    }
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    let value = if whole == "1" { 1000 + fraction } else { fraction };
    (value <= 1000).then_some(value)
}

/// Whether files of this content type become much smaller.
pub fn compressible(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/")
        || essence.ends_with("+xml")
        || essence.ends_with("+json")
        || matches!(
            essence,
            "application/javascript"
                | "application/json"
                | "application/xml"
                | "application/x-javascript"
                | "application/wasm"
        )
}

/// `bytes` as a gzip stream. The same bytes give the same stream: no time and
/// no name is in it.
pub fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 3), Compression::new(6));
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Compressed bodies by the digest of what they were made from. Content
/// decides, so one cache serves every site and every version.
pub struct Cache {
    kept: Mutex<Kept>,
    bytes_max: usize,
    /// Taken by whoever compresses.
    pub turns: Semaphore,
}

#[derive(Default)]
struct Kept {
    bodies: BTreeMap<Digest, (u64, Bytes)>,
    by_use: BTreeMap<u64, Digest>,
    uses: u64,
    bytes: usize,
}

impl Cache {
    /// A cache for `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { kept: Mutex::default(), bytes_max, turns: Semaphore::new(PARALLEL_MAX) }
    }

    /// The cache of this process.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cache> = LazyLock::new(|| Cache::new(CACHE_MAX));
        &SHARED
    }

    /// The compressed form of the content with `digest`, if it is kept.
    pub fn body(&self, digest: &Digest) -> Option<Bytes> {
        let mut guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *guard;
        let (used, body) = kept.bodies.get_mut(digest)?;
        kept.uses += 1;
        kept.by_use.remove(used);
        kept.by_use.insert(kept.uses, *digest);
        *used = kept.uses;
        Some(body.clone())
    }

    /// Keeps `body`, and lets go of what was not used for longest.
    pub fn keep(&self, digest: Digest, body: Bytes) {
        if body.len() > self.bytes_max / 4 {
            return; // one body must not throw out everything else
        }
        let mut guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *guard;
        kept.uses += 1;
        kept.bytes += body.len();
        kept.by_use.insert(kept.uses, digest);
        if let Some((used, before)) = kept.bodies.insert(digest, (kept.uses, body)) {
            kept.by_use.remove(&used);
            kept.bytes -= before.len();
        }
        while kept.bytes > self.bytes_max {
            let Some((_, oldest)) = kept.by_use.pop_first() else { break };
            if let Some((_, body)) = kept.bodies.remove(&oldest) {
                kept.bytes -= body.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn quality_values_decide() {
        for (line, accepted) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("deflate, gzip;q=0.5, br", true),
            ("*", true),
            ("gzip;q=0.001", true),
            ("gzip; q=1.000", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000, *", false),
            ("*;q=0", false),
            ("*;q=0, gzip;q=0.3", true),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("br", false),
            ("", false),
            ("gzip;q=2", false),
            ("gzip;q=1.001", false),
            ("gzip;q=0.0001", false),
            ("gzip;q=x", false),
            ("gzip;q=.5", false),
            ("gzipped", false),
        ] {
            assert_eq!(accepts_gzip(line), accepted, "{line}");
        }
    }

    #[test]
    fn text_is_compressible_and_pictures_are_not() {
        for text in ["text/html; charset=utf-8", "application/json", "image/svg+xml"] {
            assert!(compressible(text), "{text}");
        }
        for other in ["image/png", "application/zip", "font/woff2", "video/mp4", ""] {
            assert!(!compressible(other), "{other}");
        }
    }

    #[test]
    fn compression_goes_back_and_is_the_same_each_time() {
        let text = b"all the same, ".repeat(1000);
        let packed = compress(&text).unwrap();
        assert!(packed.len() < text.len() / 10);
        assert_eq!(packed, compress(&text).unwrap());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, text);
    }

    #[test]
    fn the_cache_lets_go_of_what_is_not_used() {
        let cache = Cache::new(100);
        let key = |n: u8| Digest([n; 32]);
        for n in 0..4 {
            cache.keep(key(n), Bytes::from(vec![n; 25]));
        }
        assert!(cache.body(&key(0)).is_some(), "just used");
        cache.keep(key(4), Bytes::from(vec![4; 25]));
        assert!(cache.body(&key(1)).is_none(), "the oldest use went");
        assert!(cache.body(&key(0)).is_some());
        cache.keep(key(5), Bytes::from(vec![5; 26]));
        assert!(cache.body(&key(5)).is_none(), "more than a quarter is not kept");
        for _ in 0..9 {
            cache.keep(key(4), Bytes::from(vec![4; 25]));
        }
        assert!(cache.body(&key(0)).is_some(), "the same body again costs nothing");
    }
}
