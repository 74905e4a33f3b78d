//! The way to a member of another machine: its status port, with an operator's token for what is
//! more than a look. Which commands go that way is decided here, each of them.
//!
//! **Invariant:** a token goes over TLS to who was proven to be meant, or over the loopback
//! interface; nowhere else, whatever is asked for.

use std::{
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use http::uri::Authority;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::args::{Action, After, OperatorAction, PolicyAction, RulesAction};
use crate::base::{Reason, Refusal, operator::OperatorToken};

/// Where status pages are served if nothing else is said.
const PORT: u16 = 7780;
/// A file with a token is not longer, bytes.
const TOKEN_FILE_MAX: u64 = 4 << 10;
/// A file with certificates of authorities is not longer, bytes: those of whole systems are a
/// quarter of a megabyte.
const CA_FILE_MAX: u64 = 4 << 20;
/// What an address begins with that is reached by TLS.
const SCHEME: &str = "https://";
/// The token itself, for who keeps it in no file.
const TOKEN_VARIABLE: &str = "ALTHING_OPERATOR_TOKEN";

/// A status port, and what is shown there.
#[derive(Clone, Debug)]
pub(super) struct Via {
    pub address: SocketAddr,
    token: Option<OperatorToken>,
    /// None where it speaks plain HTTP.
    secure: Option<Secure>,
}

/// How a status port is reached by TLS.
#[derive(Clone, Debug)]
pub(super) struct Secure {
    /// As it was given, for the header of a request.
    host: String,
    /// Whom its certificate has to name.
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Via {
    /// The one at `HOST[:PORT]`, or `https://HOST[:PORT]`, with the token in `file`, or in the
    /// environment, if there is one. Certificates are signed by one in `ca`, or by one that this
    /// machine trusts.
    pub async fn new(text: &str, file: Option<&Path>, ca: Option<&Path>) -> Result<Self, Refusal> {
        let token = match file {
            Some(path) => Some(read_token(path)?),
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) if !text.trim().is_empty() => {
                    Some(parse_token(&text, &format!("The variable {TOKEN_VARIABLE}"))?)
                }
                _ => None,
            },
        };
        let secure = match authority(text)? {
            Some(authority) => Some(Secure::new(&authority, ca)?),
            None if ca.is_some() => return Err(needs_tls(text)),
            None => None,
        };
        let address = look_up(secure.as_ref().map_or(text, |secure| &secure.host)).await?;
        Ok(Self { address, token, secure })
    }

    /// How it is reached by TLS; none where it is by plain HTTP.
    pub fn secure(&self) -> Option<&Secure> {
        self.secure.as_ref()
    }

    /// What requests name as the host.
    pub fn host(&self) -> String {
        self.secure.as_ref().map_or_else(|| self.address.to_string(), |secure| secure.host.clone())
    }

    /// What is shown there by whoever wants more than a look. No token goes where others could
    /// see it on the way.
    pub fn token(&self) -> Result<&OperatorToken, Refusal> {
        if self.secure.is_none() && !self.address.ip().to_canonical().is_loopback() {
            return Err(Refusal::new(
                Reason::Forbidden,
                "Nothing was done.",
                format!(
                    "An operator's token is needed for this, and it would go to {} in plain text.",
                    self.address
                ),
                format!(
                    "Run `ssh -N -L 7780:127.0.0.1:{} {}`, and then this with --via \
                     127.0.0.1:7780. Where the member has a certificate (`althing up \
                     --status-cert`), --via https://HOST:PORT will do.",
                    self.address.port(),
                    self.address.ip()
                ),
            ));
        }
        self.token.as_ref().ok_or_else(|| {
            Refusal::new(
                Reason::Forbidden,
                "Nothing was done.",
                "An operator's token is needed for this over the network.",
                format!(
                    "Run `althing operator add NAME` on a member, put what it prints into a file, \
                     and name that with --operator-token-file (or set {TOKEN_VARIABLE})."
                ),
            )
        })
    }

    #[cfg(test)]
    pub fn with(address: SocketAddr, token: Option<OperatorToken>) -> Self {
        Self { address, token, secure: None }
    }
}

impl Secure {
    /// Reaches `authority`, which names a port, by certificates of `ca`.
    fn new(authority: &Authority, ca: Option<&Path>) -> Result<Self, Refusal> {
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| no_address(authority.as_str(), "no certificate can name it"))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| untrusting(format!("TLS can't be used here: {error}.")))?;
        let mut config = builder.with_root_certificates(roots(ca)?).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { host: authority.to_string(), name, config: Arc::new(config) })
    }

    /// Shakes hands over `stream`: who answers is who was meant.
    pub async fn greet(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }

    /// Why a handshake came to nothing. Nothing was sent then.
    pub fn refused(&self, error: &io::Error) -> Refusal {
        let host = &self.host;
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (reason, (why, todo)) = match inner {
            Some(rustls::Error::InvalidCertificate(bad)) => {
                (Reason::Forbidden, self.mistrusted(bad))
            }
            Some(rustls::Error::InvalidMessage(_)) => (
                Reason::Invalid,
                (
                    "What answers there speaks no TLS".to_owned(),
                    "Start the member with --status-cert and --status-key, or name the right port.",
                ),
            ),
            _ => (
                Reason::Failed,
                (
                    format!("No TLS connection to it comes about: {error}"),
                    "See that the status port of a member with --status-cert is there.",
                ),
            ),
        };
        Refusal::new(reason, format!("Nothing was sent to {host}."), format!("{why}."), todo)
    }

    /// Why its certificate is not taken, and what to do.
    fn mistrusted(&self, bad: &CertificateError) -> (String, &'static str) {
        use CertificateError as Bad;
        let host = &self.host;
        match bad {
            Bad::UnknownIssuer => (
                format!("The certificate of {host} is signed by nobody who is trusted here"),
                "Name a file with the certificate of who signed it: --ca FILE.",
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => (
                format!("The certificate that is shown is not made out for {host}"),
                "Use a name that it is made out for, or make one out for this name.",
            ),
            Bad::Expired | Bad::ExpiredContext { .. } => (
                format!("The certificate of {host} has expired"),
                "Put another one where --status-cert of the member says, and send it SIGHUP.",
            ),
            // What `openssl req -x509` makes, unless it is told otherwise.
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => (
                format!("The certificate of {host} is one of an authority, and no server's"),
                "Sign one for the server with it; or make one that signs itself with CA:FALSE \
                 (`openssl req -x509 -addext basicConstraints=critical,CA:FALSE`).",
            ),
            other => (
                format!("The certificate of {host} can't be trusted: {other}"),
                "See what is wrong with it by `openssl s_client -connect HOST:PORT`.",
            ),
        }
    }
}

/// What `https://HOST[:PORT]` leads to, with a port; none for what does not begin like that.
fn authority(text: &str) -> Result<Option<Authority>, Refusal> {
    let is_secure =
        text.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME));
    if !is_secure {
        return Ok(None);
    }
    let rest = &text[SCHEME.len()..];
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let parsed = |text: &str| {
        let found = text.parse::<Authority>().map_err(|error| no_address(rest, error))?;
        if found.host().is_empty() || found.as_str().contains('@') {
            return Err(no_address(rest, "it is no host"));
        }
        Ok(found)
    };
    let found = parsed(rest)?;
    match found.port_u16() {
        Some(_) => Ok(Some(found)),
        None if found.as_str() == found.host() => {
            parsed(&format!("{}:{PORT}", found.host())).map(Some)
        }
        None => Err(no_address(rest, "its port is none")),
    }
}

/// Whose signatures are believed.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, Refusal> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs().certs;
        return match roots.add_parsable_certificates(found) {
            (0, _) => Err(untrusting("This machine has no certificates that it trusts.")),
            _ => Ok(roots),
        };
    };
    let shown = path.display();
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(CA_FILE_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read()
        .map_err(|error: io::Error| untrusting(format!("{shown} can't be read: {error}.")))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| untrusting(format!("{shown} is no PEM: {error}.")))?;
    match roots.add_parsable_certificates(found) {
        (0, _) => Err(untrusting(format!("{shown} holds no certificate that can be used."))),
        _ => Ok(roots),
    }
}

fn untrusting(why: impl Into<String>) -> Refusal {
    Refusal::new(
        Reason::Invalid,
        "Nothing was done.",
        why,
        "Name a file with the certificates, as PEM, that sign those of members: --ca FILE.",
    )
}

fn needs_tls(text: &str) -> Refusal {
    Refusal::new(
        Reason::Invalid,
        "Nothing was done.",
        format!("--ca says whom to trust over TLS, and {text:?} is reached by plain HTTP."),
        "Give --via https://HOST:PORT, or leave --ca (and ALTHING_CA) away.",
    )
}

fn no_address(text: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        Reason::Invalid,
        "Nothing was done.",
        format!("{text:?} can't be used as the address of a status port: {why}."),
        "Give HOST:PORT with --via, as 127.0.0.1:7780, or https://server1:7780.",
    )
}

/// Whether `action` asks a member that may be elsewhere: it is false for what asks none.
///
/// # Errors
/// It is only done on the member's own machine.
pub(super) fn asks(action: &Action) -> Result<bool, Refusal> {
    let here = |why: &str| {
        Err(Refusal::new(
            Reason::Invalid,
            "Nothing was done.",
            format!("This is not done over the network: {why}."),
            "Run it on the member's machine, as the user that the member runs as, without --via \
             and ALTHING_VIA.",
        ))
    };
    match action {
        Action::Up(_)
        | Action::Init { .. }
        | Action::Config { .. }
        | Action::GuardAddresses
        | Action::Demo(_)
        | Action::Sim(_)
        | Action::Completions { .. }
        | Action::Man { .. }
        | Action::Rules { action: RulesAction::Check { .. } } => Ok(false),
        Action::Invite { .. } => here("an invitation lets others in"),
        Action::Adopt { .. } => here("it reads what stands elsewhere on the machine"),
        Action::Restore { number: Some(_), .. } => here("it writes elsewhere on the machine"),
        Action::Measure(_) => here("programs tell the member beside them what they measure"),
        Action::RotateKey | Action::Leave | Action::Recover { .. } => {
            here("it is about the member itself")
        }
        Action::Remove { .. } => here("who belongs to the cluster is decided on a member"),
        Action::Secret { .. } => here("it is about secrets"),
        Action::Doctor => here("it looks at the machine as well"),
        Action::Export { .. } => here("it writes files for what runs beside the member"),
        Action::Policy { action: Some(PolicyAction::RemoveAfter { time: After(Some(_)) }) } => {
            here("who belongs to the cluster is decided on a member")
        }
        Action::Operator { action: OperatorAction::Add { .. } | OperatorAction::Remove { .. } } => {
            here("a token makes no tokens, and takes none away")
        }
        Action::Publish(publish) => match &publish.source {
            None => here("a list of changes is read beside the member"),
            Some(source) if publish.there && !source.is_absolute() => Err(Refusal::new(
                Reason::Invalid,
                "Nothing was published.",
                format!(
                    "{} is not an absolute path, and with --there the directory is one of the \
                     member's machine.",
                    source.display()
                ),
                "Give its whole path there; or leave --there away, and the directory is one of \
                 this machine.",
            )),
            Some(_) => Ok(true),
        },
        Action::Restore { number: None, .. }
        | Action::Operator { action: OperatorAction::List }
        | Action::Rules { action: RulesAction::Test { .. } }
        | Action::Members { .. }
        | Action::Invites { .. }
        | Action::Rtt { .. }
        | Action::Apps
        | Action::Status { .. }
        | Action::Votes { .. }
        | Action::Window { .. }
        | Action::Failover { .. }
        | Action::History { .. }
        | Action::Rollback { .. }
        | Action::Verify { .. }
        | Action::Sync { .. }
        | Action::Diff { .. }
        | Action::Resolve { .. }
        | Action::Tags { .. }
        | Action::Drain { .. }
        | Action::Resume { .. }
        | Action::Silence(_)
        | Action::Event { .. }
        | Action::Query { .. }
        | Action::Events(_)
        | Action::Why { .. }
        | Action::Top { .. }
        | Action::Services { .. }
        | Action::Logs { .. }
        | Action::Restart { .. }
        | Action::Levels { .. }
        | Action::Settings { .. }
        | Action::Metrics(_)
        | Action::Policy { .. } => Ok(true),
    }
}

/// `HOST`, `HOST:PORT`, `ADDR` or `ADDR:PORT`.
async fn look_up(text: &str) -> Result<SocketAddr, Refusal> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    let refuse = |why: String| no_address(text, why);
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{PORT}") };
    let found = tokio::net::lookup_host(&with_port).await.map_err(|e| refuse(e.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    // The port is on 127.0.0.1 if nothing else was said.
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| refuse("it has no address".to_owned()))
}

fn read_token(path: &Path) -> Result<OperatorToken, Refusal> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(TOKEN_FILE_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error: std::io::Error| {
        Refusal::new(
            Reason::Invalid,
            "Nothing was done.",
            format!("The operator's token can't be read from {}: {error}.", path.display()),
            "Put what `althing operator add` printed into that file.",
        )
    })?;
    parse_token(&text, &path.display().to_string())
}

fn parse_token(text: &str, whence: &str) -> Result<OperatorToken, Refusal> {
    OperatorToken::parse(text).ok_or_else(|| {
        Refusal::new(
            Reason::Invalid,
            "Nothing was done.",
            format!("{whence} holds no operator's token."),
            "It is the word that begins with althing-op-, as `althing operator add` printed it.",
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::args::Args, *};

    fn asked(words: &str) -> Result<bool, Reason> {
        let args = Args::try_parse_from(words.split(' ')).unwrap_or_else(|e| panic!("{e}"));
        asks(&args.action).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn each_command_goes_one_way() {
        for words in ["althing up", "althing init", "althing demo", "althing rules check f"] {
            assert_eq!(asked(words), Ok(false), "{words}");
        }
        for words in [
            "althing status",
            "althing drain web2",
            "althing publish ./www",
            "althing publish --there /srv/www",
            "althing restore web",
            "althing operator list",
        ] {
            assert_eq!(asked(words), Ok(true), "{words}");
        }
        for words in [
            "althing invite",
            "althing leave",
            "althing publish --there ./www",
            "althing publish --update f --app web",
            "althing restore web 3 --to /tmp/x",
            "althing operator add alice",
            "althing operator remove alice",
            "althing doctor",
        ] {
            assert_eq!(asked(words), Err(Reason::Invalid), "{words}");
        }
    }

    #[tokio::test]
    async fn addresses_are_found_with_and_without_a_port() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:7780"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("::1", "[::1]:7780"),
            ("[::1]", "[::1]:7780"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(look_up(text).await.unwrap(), expected.parse().unwrap(), "{text}");
        }
        assert_eq!(look_up("a:b:c").await.unwrap_err().reason, Reason::Invalid);
    }

    #[test]
    fn a_token_goes_to_this_machine_only() {
        let token = Some(OperatorToken::new([7; 32]));
        let via = |text: &str, token| Via::with(text.parse().unwrap(), token);
        assert!(via("127.0.0.1:7780", token.clone()).token().is_ok());
        let refusal = via("10.0.0.5:7790", token.clone()).token().unwrap_err().todo;
        assert!(refusal.contains("ssh -N -L 7780:127.0.0.1:7790 10.0.0.5"), "{refusal}");
        assert_eq!(via("127.0.0.1:7780", None).token().unwrap_err().reason, Reason::Forbidden);
        let shown = format!("{:?}", via("127.0.0.1:7780", token));
        assert!(!shown.contains("BwcH"), "{shown}");
    }

    fn self_signed(dir: &Path) -> std::path::PathBuf {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let text = STANDARD.encode(made.cert.der());
        let path = dir.join("ca.pem");
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(&path, pem).unwrap();
        path
    }

    #[test]
    fn a_token_goes_by_tls_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let ca = self_signed(dir.path());
        let secure = |text: &str| Secure::new(&authority(text).unwrap().unwrap(), Some(&ca));
        let secure = Some(secure("https://server1.example.org:7790").unwrap());
        let address = "192.0.2.1:7790".parse().unwrap();
        let via = Via { address, token: Some(OperatorToken::new([7; 32])), secure };
        assert!(via.token().is_ok());
        assert_eq!(via.host(), "server1.example.org:7790");
        let without = Via { token: None, ..via };
        assert_eq!(without.token().unwrap_err().reason, Reason::Forbidden);
    }

    #[tokio::test]
    async fn an_address_by_tls_is_a_host_and_a_port() {
        for (text, expected) in [
            ("https://server1", "server1:7780"),
            ("HTTPS://server1:443/", "server1:443"),
            ("https://[::1]", "[::1]:7780"),
            ("https://[::1]:80", "[::1]:80"),
            ("https://127.0.0.1:80", "127.0.0.1:80"),
        ] {
            let found = authority(text).unwrap().unwrap();
            assert_eq!(found.as_str(), expected);
        }
        assert_eq!(authority("server1:7780"), Ok(None));
        for bad in [
            "https://",
            "https://a/b",
            "https://alice@server1",
            "https://a:99999",
            "https://::1",
            "https://a b",
        ] {
            assert_eq!(authority(bad).unwrap_err().reason, Reason::Invalid, "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let ca = self_signed(dir.path());
        let fine = Via::new("https://127.0.0.1", None, Some(&ca)).await.unwrap();
        assert_eq!(fine.address, "127.0.0.1:7780".parse().unwrap());
        let plain = Via::new("127.0.0.1", None, Some(&ca)).await.unwrap_err();
        assert!(plain.why.contains("plain HTTP"), "{plain}");
        std::fs::write(&ca, "nothing").unwrap();
        let none = Via::new("https://127.0.0.1", None, Some(&ca)).await.unwrap_err();
        assert!(none.why.contains("no certificate"), "{none}");
        let gone = Via::new("https://127.0.0.1", None, Some(&dir.path().join("x"))).await;
        assert!(gone.unwrap_err().why.contains("can't be read"));
    }

    #[test]
    fn a_file_holds_a_token_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert_eq!(read_token(&path).unwrap_err().reason, Reason::Invalid);
        let token = OperatorToken::new([7; 32]);
        std::fs::write(&path, format!("{}\n", token.to_text())).unwrap();
        assert_eq!(read_token(&path), Ok(token));
        std::fs::write(&path, "althing-op-x").unwrap();
        let refusal = read_token(&path).unwrap_err();
        assert!(refusal.why.contains("holds no operator's token"), "{refusal:?}");
    }
}
