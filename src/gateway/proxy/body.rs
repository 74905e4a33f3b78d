//! Where a message body ends. Pure: it is told what arrived and says what of it is
//! content. A chunked body is taken apart strictly and written anew, so that nothing
//! which two programs could read in two ways is passed on.
//!
//! After RFC 9112, sections 6 and 7.1.

use bytes::{Buf, Bytes, BytesMut};

/// The longest line with the size of a chunk, bytes, extensions included.
const SIZE_LINE_MAX: usize = 256;
/// The most trailer that is read (and dropped), bytes.
const TRAILER_MAX: usize = 8 << 10;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// By a chunk without bytes.
    Chunked,
    /// By the end of the connection. Responses only.
    UntilClose,
}

/// Takes one body apart.
#[derive(Debug)]
pub(in crate::gateway) struct Decoder(State);

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    /// The line with the size of the next chunk.
    Size,
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// Lines behind the last chunk, bytes of them so far.
    Trailer(usize),
    End,
}

/// What follows in a body.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Next {
    /// Content.
    Data(Bytes),
    /// More has to arrive first.
    More,
    /// It is over; what is left in the buffer is not part of it.
    End,
}

/// It is not framed as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is malformed: {0}")]
pub(in crate::gateway) struct BadBody(&'static str);

impl Decoder {
    pub(in crate::gateway) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Takes the next piece out of `buffer`.
    pub(in crate::gateway) fn next(&mut self, buffer: &mut BytesMut) -> Result<Next, BadBody> {
        loop {
            match &mut self.0 {
                State::End => return Ok(Next::End),
                _ if buffer.is_empty() => return Ok(Next::More),
                State::UntilClose => return Ok(Next::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let piece = take(buffer, left);
                    if *left == 0 {
                        self.0 = State::End;
                    }
                    return Ok(Next::Data(piece));
                }
                State::Chunk(left) => {
                    let piece = take(buffer, left);
                    if *left == 0 {
                        self.0 = State::ChunkEnd;
                    }
                    return Ok(Next::Data(piece));
                }
                State::Size => match line(buffer, SIZE_LINE_MAX)? {
                    None => return Ok(Next::More),
                    Some(line) => {
                        let size = chunk_size(&line)?;
                        self.0 = if size == 0 { State::Trailer(0) } else { State::Chunk(size) };
                    }
                },
                State::ChunkEnd => match line(buffer, 2)? {
                    None => return Ok(Next::More),
                    Some(line) if line.is_empty() => self.0 = State::Size,
                    Some(_) => return Err(BadBody("a chunk is longer than it says")),
                },
                State::Trailer(seen) => match line(buffer, TRAILER_MAX)? {
                    None => return Ok(Next::More),
                    Some(line) if line.is_empty() => self.0 = State::End,
                    Some(line) => {
                        *seen += line.len() + 2;
                        if *seen > TRAILER_MAX {
                            return Err(BadBody("its trailer is too long"));
                        }
                    }
                },
            }
        }
    }

    /// The connection ended: whether the body is whole.
    pub(in crate::gateway) fn ends(&self) -> bool {
        matches!(self.0, State::End | State::UntilClose)
    }

    /// Whether it is over.
    pub(in crate::gateway) fn is_over(&self) -> bool {
        matches!(self.0, State::End)
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= count as u64;
    buffer.split_to(count).freeze()
}

/// The next line without its end; none if it has not arrived.
fn line(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, BadBody> {
    let window = &buffer[..buffer.len().min(max)];
    let Some(at) = window.iter().position(|b| *b == b'\n') else {
        let whole = buffer.len() >= max;
        return if whole { Err(BadBody("a line of it is too long")) } else { Ok(None) };
    };
    if at == 0 || buffer[at - 1] != b'\r' {
        return Err(BadBody("a line feed without a carriage return"));
    }
    let line = buffer.split_to(at - 1).freeze();
    buffer.advance(2);
    if line.iter().any(|b| *b != b'\t' && b.is_ascii_control()) {
        return Err(BadBody("a control character in a line of it"));
    }
    Ok(Some(line))
}

/// Digits and nothing before or between them; what follows a semicolon is let go.
fn chunk_size(line: &[u8]) -> Result<u64, BadBody> {
    let bad = BadBody("a chunk without a size");
    let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let extended = rest.trim_ascii_start();
    // Sixteen digits are all that fit.
    if digits.is_empty() || digits.len() > 16 || !(rest.is_empty() || extended.starts_with(b";")) {
        return Err(bad);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| bad)?;
    u64::from_str_radix(digits, 16).map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything in pieces of `step` bytes: the content, and what is left behind.
    fn whole(framing: Framing, bytes: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), BadBody> {
        let mut decoder = Decoder::new(framing);
        let (mut buffer, mut content) = (BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(step);
        loop {
            match decoder.next(&mut buffer)? {
                Next::Data(data) => content.extend_from_slice(&data),
                Next::End => {
                    buffer.extend(pieces.flatten());
                    return Ok((content, buffer.to_vec()));
                }
                Next::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None if decoder.ends() => return Ok((content, Vec::new())),
                    None => return Err(BadBody("cut")),
                },
            }
        }
    }

    #[test]
    fn each_kind_ends_where_it_should() {
        let chunked = b"4\r\nWiki\r\n5;x=\"y\"\r\npedia\r\n0\r\nA: b\r\n\r\nGET /";
        for step in [1, 2, 3, 7, 100] {
            let (content, rest) = whole(Framing::Chunked, chunked, step).unwrap();
            assert_eq!((&*content, &*rest), (&b"Wikipedia"[..], &b"GET /"[..]));
            let (content, rest) = whole(Framing::Length(4), b"abcdef", step).unwrap();
            assert_eq!((&*content, &*rest), (&b"abcd"[..], &b"ef"[..]));
            assert_eq!(whole(Framing::UntilClose, b"all", step).unwrap().0, b"all");
            assert_eq!(whole(Framing::None, b"next", step).unwrap().1, b"next");
        }
        assert!(whole(Framing::Length(9), b"short", 2).is_err());
        assert!(whole(Framing::Chunked, b"3\r\nabc\r\n", 2).is_err());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "\r\nabc",
            " 3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "-1\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3 4\r\nabc\r\n0\r\n\r\n",
            "3\u{b}\r\nabc\r\n0\r\n\r\n",
            "3;\0\r\nabc\r\n0\r\n\r\n",
            "11111111111111111\r\n",
            "3\r\nabc\r\n0\r\nA\rB: c\r\n\r\n",
            "3\r\nabc\r\n0\r\n\n",
            &format!("3;{}\r\n", "x".repeat(300)),
            &format!("0\r\n{}", "A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(300)),
        ] {
            for step in [1, 5, 400] {
                let told = whole(Framing::Chunked, bad.as_bytes(), step);
                assert!(told.is_err(), "{bad:?} {told:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_never_a_panic(bytes: Vec<u8>, step in 1_usize..9) {
            let _ = whole(Framing::Chunked, &bytes, step);
        }

        #[test]
        fn what_is_written_is_read(pieces: Vec<Vec<u8>>, step in 1_usize..99) {
            let (mut text, mut all) = (Vec::new(), Vec::new());
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                text.extend(format!("{:X}\r\n", piece.len()).into_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
                all.extend_from_slice(piece);
            }
            text.extend_from_slice(b"0\r\n\r\nnext");
            prop_assert_eq!(whole(Framing::Chunked, &text, step), Ok((all, b"next".to_vec())));
        }
    }
}
