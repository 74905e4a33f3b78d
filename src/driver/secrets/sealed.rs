//! The document that travels with a version: names and members in the clear,
//! everything else sealed.
//!
//! ```toml
//! version = 1
//! names = ["db-password"]
//! members = [
//!     "0123…",
//! ]
//! sealed = """
//! -----BEGIN AGE ENCRYPTED FILE-----
//! …
//! """
//! ```
//!
//! A document comes from others, so everything about it is bounded before any
//! work is done for it: its size, the members, the keys that are tried. Nothing
//! in it is compressed, and passphrases, which can be made to cost any amount
//! of work, are not known here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, BufRead, Read, Write},
    iter,
};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    SECRETS_MAX, Secrets, SecretsError, keys,
    packed::{PACKED_MAX, pack, unpack},
};
use crate::{
    base::{MemberId, PublicKey, SecretKey, SecretName},
    driver::Definition,
};

/// The largest document, bytes.
pub const DOCUMENT_MAX: usize = 4 << 20;
/// Members that one document can be sealed for.
pub const RECIPIENTS_MAX: usize = 10_000;

const VERSION: u64 = 1;
const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----\n";
const END: &str = "\n-----END AGE ENCRYPTED FILE-----\n";

/// Secrets that only the members named in it can open.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    names: BTreeSet<SecretName>,
    members: BTreeSet<MemberId>,
    /// An armored age file.
    sealed: String,
}

/// [`Sealed`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    names: Vec<SecretName>,
    members: Vec<MemberId>,
    sealed: String,
}

impl Definition for Sealed {
    const NAME: &'static str = "secrets.toml";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.to_string())
    }

    fn text(&self) -> Option<String> {
        (!self.names.is_empty()).then(|| self.to_toml())
    }

    fn check(&self) -> Result<(), Vec<String>> {
        Ok(()) // it is checked while it is read
    }
}

impl Sealed {
    /// Seals `secrets` so that each of `recipients` can open them, and nobody
    /// else. Sealing the same twice gives different documents. Takes about a
    /// third of a millisecond for each member.
    pub fn seal(
        secrets: &Secrets,
        recipients: &BTreeMap<MemberId, PublicKey>,
    ) -> Result<Self, SecretsError> {
        if recipients.is_empty() {
            return Err(SecretsError::Nobody);
        }
        if recipients.len() > RECIPIENTS_MAX {
            return Err(SecretsError::TooManyMembers);
        }
        let mut to = Vec::with_capacity(recipients.len());
        for (member, key) in recipients {
            // Its id is the hash of its key, so nobody can be slipped in under another's.
            let own = MemberId::of(key) == *member;
            let recipient = own.then(|| keys::recipient(key)).flatten();
            to.push(recipient.ok_or(SecretsError::Key(*member))?);
        }
        let members = recipients.keys().copied().collect();
        let sealed = encrypt(&pack(secrets, &members), &to)
            .map_err(|_| SecretsError::Damaged("it could not be written"))?;
        let document = Self { names: secrets.names().cloned().collect(), members, sealed };
        if document.to_toml().len() > DOCUMENT_MAX {
            return Err(SecretsError::TooLarge);
        }
        Ok(document)
    }

    /// Reads a document. What is sealed in it is looked at by [`Sealed::open`].
    pub fn parse(text: &str) -> Result<Self, SecretsError> {
        if text.len() > DOCUMENT_MAX {
            return Err(SecretsError::TooLarge);
        }
        // The parser would quote the line, and somebody may have written a
        // value there by hand.
        let document: Document = toml::from_str(text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
            SecretsError::Document { line: before.matches('\n').count() + 1 }
        })?;
        if document.version != VERSION {
            return Err(SecretsError::Damaged("it is of a version that is not known here"));
        }
        if document.names.len() > SECRETS_MAX || document.members.len() > RECIPIENTS_MAX {
            return Err(SecretsError::Damaged("it names too many secrets or members"));
        }
        if !document.names.is_sorted_by(|a, b| a < b)
            || !document.members.is_sorted_by(|a, b| a < b)
        {
            return Err(SecretsError::Damaged("its names or members are not in order"));
        }
        if !is_armored(&document.sealed) {
            return Err(SecretsError::Damaged("what is sealed has another form"));
        }
        Ok(Self {
            names: document.names.into_iter().collect(),
            members: document.members.into_iter().collect(),
            sealed: document.sealed,
        })
    }

    /// The canonical text.
    pub fn to_toml(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
        let members: String =
            self.members.iter().map(|member| format!("    \"{}\",\n", member.0)).collect();
        // Nothing in these needs a quote or a backslash before it.
        format!(
            "version = {VERSION}\nnames = [{}]\nmembers = [\n{members}]\nsealed = \"\"\"\n{}\"\"\"\n",
            names.join(", "),
            self.sealed
        )
    }

    /// Opens it with a member's key. [`SecretsError::NotFor`] where it is not
    /// sealed for that member; any other error means that it is damaged.
    pub fn open(&self, key: &SecretKey) -> Result<Secrets, SecretsError> {
        let me = key.member();
        if !self.members.contains(&me) {
            return Err(SecretsError::NotFor(me));
        }
        let secrets = unpack(&self.decrypt(key)?, &self.members)?;
        if !secrets.names().eq(&self.names) {
            return Err(SecretsError::Damaged("it holds other secrets than it names"));
        }
        Ok(secrets)
    }

    /// The names of the secrets, which anybody may see.
    pub fn names(&self) -> &BTreeSet<SecretName> {
        &self.names
    }

    /// The members that can open it.
    pub fn members(&self) -> &BTreeSet<MemberId> {
        &self.members
    }

    fn decrypt(&self, key: &SecretKey) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
        let damaged = |why| move |_| SecretsError::Damaged(why);
        let mut file = Vec::with_capacity(self.sealed.len());
        ArmoredReader::new(self.sealed.as_bytes())
            .read_to_end(&mut file)
            .map_err(|_| SecretsError::Damaged("what is sealed is no text of age"))?;
        let file = Bounded::new(&file, self.members.len())?;
        let decryptor = age::Decryptor::new_buffered(file)
            .map_err(damaged("what is sealed has no head that age knows"))?;
        let identity = keys::identity(key);
        let reader = decryptor
            .decrypt(iter::once(&identity as &dyn age::Identity))
            .map_err(damaged("it names this member, whose key does not open it"))?;
        let mut plain = Zeroizing::new(Vec::with_capacity(self.sealed.len().min(PACKED_MAX) + 1));
        reader
            .take(PACKED_MAX as u64 + 1)
            .read_to_end(&mut plain)
            .map_err(|_| SecretsError::Damaged("what is sealed was changed or cut short"))?;
        Ok(plain)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({:?} for {} members)", self.names, self.members.len())
    }
}

/// Whether `text` is of an armored file's letters only, so that it can stand in
/// a document as it is.
fn is_armored(text: &str) -> bool {
    let body = text.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'\n');
    body.is_some_and(|body| body.bytes().all(letter))
}

fn encrypt(plain: &[u8], to: &[age::x25519::Recipient]) -> io::Result<String> {
    let to = to.iter().map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(to).map_err(io::Error::other)?;
    let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = encryptor.wrap_output(armor)?;
    writer.write_all(plain)?;
    let bytes = writer.finish()?.finish()?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// An age file whose head is bounded and handed over in one piece: age looks
/// through all that it has after each line that it asks for, which for ten
/// thousand members would be minutes.
struct Bounded<'a> {
    rest: &'a [u8],
    /// What of `rest` is still of the head, bytes.
    head: usize,
}

impl<'a> Bounded<'a> {
    /// The head may have one entry for each of `members`, and nothing else that
    /// would be tried.
    fn new(file: &'a [u8], members: usize) -> Result<Self, SecretsError> {
        let no_head = SecretsError::Damaged("what is sealed has no head");
        let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
        let last = find(file, b"\n--- ").ok_or_else(|| no_head.clone())? + 1;
        let head = last + find(&file[last..], b"\n").ok_or(no_head)? + 1;
        let mut tried = 0;
        for line in file[..head].split(|byte| *byte == b'\n') {
            let Some(entry) = line.strip_prefix(b"-> ") else { continue };
            let kind = entry.split(|byte| *byte == b' ').next().unwrap_or_default();
            if kind == b"X25519" {
                tried += 1;
            } else if !kind.ends_with(b"-grease") {
                // age itself adds one of these, so that readers stay tolerant.
                return Err(SecretsError::Damaged("it is sealed in a way that is not used here"));
            }
        }
        if tried != members {
            return Err(SecretsError::Damaged("it is not sealed for as many as it names"));
        }
        Ok(Self { rest: file, head })
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.rest.read(into)?;
        self.head = self.head.saturating_sub(n);
        Ok(n)
    }
}

impl BufRead for Bounded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.rest)
    }

    fn consume(&mut self, n: usize) {
        self.rest = &self.rest[n..];
        self.head = self.head.saturating_sub(n);
    }

    /// Asked for a line of the head, it gives the whole head; after that, nothing.
    fn read_until(&mut self, _: u8, into: &mut Vec<u8>) -> io::Result<usize> {
        let n = self.head;
        into.extend_from_slice(&self.rest[..n]);
        self.consume(n);
        Ok(n)
    }
}
