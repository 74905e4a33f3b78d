//! The way to a member of another machine: its status port, with an operator's token for what is
//! more than a look. Which commands go that way is decided here, each of them.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::args::{Action, After, OperatorAction, PolicyAction, RulesAction};
use crate::base::{Reason, Refusal, operator::OperatorToken};

/// Where status pages are served if nothing else is said.
const PORT: u16 = 7780;
/// A file with a token is not longer, bytes.
const TOKEN_FILE_MAX: u64 = 4 << 10;
/// The token itself, for who keeps it in no file.
const TOKEN_VARIABLE: &str = "ALTHING_OPERATOR_TOKEN";

/// A status port, and what is shown there.
#[derive(Clone, Debug)]
pub(super) struct Via {
    pub address: SocketAddr,
    token: Option<OperatorToken>,
}

impl Via {
    /// The one at `HOST[:PORT]`, with the token in `file`, or in the environment, if there is one.
    pub async fn new(text: &str, file: Option<&Path>) -> Result<Self, Refusal> {
        let token = match file {
            Some(path) => Some(read_token(path)?),
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) if !text.trim().is_empty() => {
                    Some(parse_token(&text, &format!("The variable {TOKEN_VARIABLE}"))?)
                }
                _ => None,
            },
        };
        Ok(Self { address: look_up(text).await?, token })
    }

    /// What is shown there by whoever wants more than a look. No token goes where others could
    /// see it on the way.
    pub fn token(&self) -> Result<&OperatorToken, Refusal> {
        if !self.address.ip().to_canonical().is_loopback() {
            return Err(Refusal::new(
                Reason::Forbidden,
                "Nothing was done.",
                format!(
                    "An operator's token is needed for this, and it would go to {} in plain text.",
                    self.address
                ),
                format!(
                    "Run `ssh -N -L 7780:127.0.0.1:{} {}`, and then this with --via \
                     127.0.0.1:7780.",
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
        Self { address, token }
    }
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
            Some(source) if source.is_absolute() => Ok(true),
            Some(source) => Err(Refusal::new(
                Reason::Invalid,
                "Nothing was published.",
                format!(
                    "{} is not an absolute path, and over the network the directory is one of the \
                     member's machine.",
                    source.display()
                ),
                "Bring it there (rsync), and give its whole path.",
            )),
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
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "Nothing was done.",
            format!("{text:?} can't be used as the address of a status port: {why}."),
            "Give HOST:PORT with --via, as 127.0.0.1:7780.",
        )
    };
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
            "althing publish /srv/www",
            "althing restore web",
            "althing operator list",
        ] {
            assert_eq!(asked(words), Ok(true), "{words}");
        }
        for words in [
            "althing invite",
            "althing leave",
            "althing publish ./www",
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
        let via = |text: &str, token| Via { address: text.parse().unwrap(), token };
        assert!(via("127.0.0.1:7780", token.clone()).token().is_ok());
        let refusal = via("10.0.0.5:7790", token.clone()).token().unwrap_err().todo;
        assert!(refusal.contains("ssh -N -L 7780:127.0.0.1:7790 10.0.0.5"), "{refusal}");
        assert_eq!(via("127.0.0.1:7780", None).token().unwrap_err().reason, Reason::Forbidden);
        let shown = format!("{:?}", via("127.0.0.1:7780", token));
        assert!(!shown.contains("BwcH"), "{shown}");
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
