//! `deployfs scrub`

use std::path::Path;

use super::call::{call, unexpected};
use super::output::{json, line, size};
use super::{Error, Outcome};
use crate::model::report::{Answer, Request, ScrubReport};

/// Read every chunk of the store, slowly, and say what is damaged.
///
/// The daemon does it behind everything else, so that damage is found while the content can still be sealed again. Ctrl-C ends
/// it. 'deployfs status' shows how far it has come and what it found; 'deployfs mount --scrub-every' does it regularly.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  deployfs scrub --rate 20M")]
pub struct Args {
    /// Bytes to read a second, as 500K, 20M or 1G [default: as fast as it goes]
    #[arg(long, value_parser = bytes)]
    rate: Option<u64>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let report = match call(store, &Request::Scrub { rate: args.rate })? {
        Answer::Scrubbed(report) => report,
        other => return Err(unexpected(&other)),
    };
    if args.json {
        json(&report)?;
    } else {
        print(&report)?;
    }
    match report.problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Told),
    }
}

fn print(report: &ScrubReport) -> Outcome {
    report.problems.iter().try_for_each(line)?;
    note!(
        "{} chunks, {} read: {}",
        report.chunks,
        size(report.bytes),
        match report.problems.len() {
            0 => "all is well".to_owned(),
            count => format!("{count} problems"),
        }
    );
    Ok(())
}

/// A number of bytes with K, M or G behind it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("'{text}' is no number of bytes such as 500K, 20M or 1G"))?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        Some(_) | None => Err(format!("'{text}' is out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(bytes("20M"), Ok(20 << 20));
        assert_eq!(bytes("500k"), Ok(500 << 10));
        assert_eq!(bytes("7"), Ok(7));
        for wrong in ["", "0", "M", "-1", "99999999999G", "1T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
