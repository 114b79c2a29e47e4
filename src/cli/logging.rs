//! The log on stderr: how much of it, and as text or as JSON.

use std::io::Write;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter};
use serde::{Deserialize, Serialize};

use super::terminal::{error_line, shown};
use crate::model::moment::time;

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// One line of the log as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    /// As `2026-11-23T17:03:52.120Z`.
    time: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    level: &'a str,
    /// The part of the program that speaks.
    target: &'a str,
    message: String,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// Starts logging. A daemon tells what it does; a command only what goes wrong.
pub fn start(format: Format, verbose: u8, is_daemon: bool) {
    FORMAT.get_or_init(|| format);
    let usual = if is_daemon {
        LevelFilter::Info
    } else {
        LevelFilter::Warn
    };
    let said = ["DEPLOYFS_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok());
    let mut builder = env_logger::Builder::new();
    match said {
        Some(filters) if verbose == 0 => builder.parse_filters(&filters),
        Some(_) | None => builder.filter_level(louder(usual, verbose)),
    };
    builder.filter_module("sled", LevelFilter::Error);
    if format == Format::Json {
        builder.format(|out, record| {
            let line = line(record.level(), record.target(), record.args().to_string());
            writeln!(out, "{line}")
        });
    }
    builder.init();
}

fn louder(level: LevelFilter, steps: u8) -> LevelFilter {
    (0..steps).fold(level, |level, _| level.increment_severity())
}

/// Says why the program ends. It is one line of JSON too where the log is.
pub fn last_words(text: &str) {
    match FORMAT.get() {
        Some(Format::Json) => error_line(&line(Level::Error, "deployfs", text.to_owned())),
        Some(Format::Text) | None => error_line(&format!("deployfs: {}", shown(text))),
    }
}

/// The last words in this output of a program, whatever its log looks like.
pub fn last_words_in(output: &str) -> Option<String> {
    if let Some((_, message)) = output.split_once("deployfs: ") {
        return Some(message.trim_end().to_owned());
    }
    let lines = output.lines().rev();
    lines
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .find(|line| line.level == "error" && line.target == "deployfs")
        .map(|line| line.message)
}

fn line(level: Level, target: &str, message: String) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = time(now.as_secs());
    let line = Line {
        time: format!(
            "{}.{:03}Z",
            seconds.trim_end_matches('Z'),
            now.subsec_millis()
        ),
        level: &level.as_str().to_ascii_lowercase(),
        target,
        message,
    };
    serde_json::to_string(&line).expect("texts only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_the_message_holds() {
        let text = line(Level::Warn, "part", "two\nlines \"and\" quotes".into());
        assert!(!text.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "warn");
        assert_eq!(value["message"], "two\nlines \"and\" quotes");
        assert_eq!(value["time"].as_str().unwrap().len(), 24);
    }

    #[test]
    fn last_words_are_found_in_both_forms() {
        let json = line(Level::Error, "deployfs", "cannot do it".into());
        for text in [
            "[info] x\ndeployfs: cannot do it\n",
            &format!("{{}}\n{json}\n"),
        ] {
            assert_eq!(last_words_in(text).as_deref(), Some("cannot do it"));
        }
        assert_eq!(last_words_in("nothing"), None);
    }
}
