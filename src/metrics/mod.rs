//! What a store and its mount are doing, for Prometheus: the text, and a small server that gives it to whoever asks nearby.

mod http;
mod text;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use http::Server;
pub use text::text;

/// Where metrics are given: never to another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket. Its folder decides who may reach it.
    Socket(PathBuf),
    /// A port of a loopback address.
    Port(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Place::Socket(PathBuf::from(text)));
        }
        let numbers = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        match numbers.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Place::Port(address)),
            Ok(address) => Err(format!(
                "{} can be reached from other machines, and metrics need no password: give 127.0.0.1:PORT, [::1]:PORT or the path of a socket, and let a web server in front of it decide who may see them",
                address.ip()
            )),
            Err(_) => Err("give the path of a socket (with a '/') or 127.0.0.1:PORT".into()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Socket(path) => write!(f, "{}", path.display()),
            Place::Port(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_on_this_machine_are_taken() {
        for text in [
            "127.0.0.1:9100",
            "[::1]:9100",
            "localhost:9100",
            "127.8.8.8:1",
        ] {
            assert!(matches!(text.parse(), Ok(Place::Port(_))), "{text}");
        }
        for text in ["/run/metrics.sock", "./metrics.sock"] {
            assert_eq!(text.parse(), Ok(Place::Socket(text.into())));
        }
        for text in [
            "0.0.0.0:9100",
            "192.168.0.1:9100",
            "[::]:9100",
            "9100",
            ":9100",
            "host:1",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
