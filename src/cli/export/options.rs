//! The words of `althing export` on the command line.

use std::{fmt, net::IpAddr, path::PathBuf};

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Export {
    /// For HAProxy.
    #[command(after_help = "Examples:
  althing export haproxy                                 see it
  althing export haproxy --out /etc/haproxy/althing.cfg --follow \\
    --check 'haproxy -c -f {}' --reload 'systemctl reload haproxy'")]
    Haproxy {
        #[command(flatten)]
        options: Options,
    },
    /// For nginx.
    #[command(after_help = "Examples:
  althing export nginx                                   see it
  althing export nginx --fragment --out /etc/nginx/conf.d/althing.conf --follow \\
    --reload 'nginx -t && systemctl reload nginx'")]
    Nginx {
        #[command(flatten)]
        options: Options,
        /// Only what stands inside of http { }, for a directory that your own configuration
        /// includes.
        #[arg(long)]
        fragment: bool,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub(in crate::cli) struct Options {
    /// Write it there, as a whole and only if it changed; the file before is kept as
    /// FILE.before [default: print it].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Run in a shell when the file has changed.
    #[arg(long, value_name = "COMMAND", requires = "out")]
    pub reload: Option<String>,
    /// Run in a shell before the new file replaces the old; {} is its path. If it fails, the
    /// old one stays, and the new one can be looked at as FILE.refused.
    #[arg(long, value_name = "COMMAND", requires = "out")]
    pub check: Option<String>,
    /// Go on until Ctrl-C, and write it again whenever something changed.
    #[arg(long, short)]
    pub follow: bool,
    /// Where the balancer is to listen: :80, 10.0.0.9:80, [::]:80.
    #[arg(long, value_name = "ADDR", default_value = ":80")]
    pub listen: At,
    /// Where members serve sites (their --listen) [default: as the member that is asked]. A
    /// member that serves elsewhere says so in its tag `http`: PORT, ADDRESS or ADDRESS:PORT.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: Option<u16>,
}

/// Where to listen: an address, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct At {
    pub ip: Option<IpAddr>,
    /// Never 0.
    pub port: u16,
}

impl std::str::FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || "give an address and a port, as :80, 10.0.0.9:80 or [::]:80".to_owned();
        let (ip, port) = text.rsplit_once(':').ok_or_else(usage)?;
        let bracketed = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        let ip = match (ip, bracketed) {
            ("" | "*", _) => None,
            (_, Some(ip)) => Some(IpAddr::V6(ip.parse().map_err(|_| usage())?)),
            (ip, None) => Some(IpAddr::V4(ip.parse().map_err(|_| usage())?)),
        };
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self { ip, port }),
            _ => Err(usage()),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            None => write!(f, ":{}", self.port),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl serde::Serialize for At {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_is_read_and_written_in_the_same_words() {
        for text in [":80", "10.0.0.9:8080", "[::]:80", "[fd00::1]:443"] {
            assert_eq!(text.parse::<At>().unwrap().to_string(), text);
        }
        assert_eq!("*:80".parse(), Ok(At { ip: None, port: 80 }));
        for text in ["", "80", ":0", ":", "a:80", "::1:80", "[10.0.0.1]:80", ":80;", ":80 ssl"] {
            assert!(text.parse::<At>().is_err(), "{text:?}");
        }
    }
}
