//! How answers look: lines and tables for people, JSON for scripts.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::terminal::{escaped_json, is_deceptive, shown};
use super::{Error, Outcome};
pub use crate::model::moment::time;
use crate::model::report::ChangeCounts;

/// Prints one line of the answer. A reader that has gone away ends the command quietly, as with other tools.
pub fn line(text: impl AsRef<str>) -> Outcome {
    write(|out| writeln!(out, "{}", shown(text.as_ref())))
}

/// Prints a path for a program to use, as it is.
pub fn path(path: &Path) -> Outcome {
    write(|out| {
        out.write_all(path.as_os_str().as_bytes())?;
        out.write_all(b"\n")
    })
}

/// Prints a part of a line, or of several.
pub fn part(text: impl AsRef<str>) -> Outcome {
    write(|out| write!(out, "{}", text.as_ref()))
}

fn write(what: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Outcome {
    let mut out = std::io::stdout().lock();
    match what(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::Told),
        Err(error) => Err(Error::failed(format!(
            "the answer cannot be written: {error}"
        ))),
    }
}

/// Prints these names, each with a NUL after it: safe for names of all bytes.
pub fn names(names: impl IntoIterator<Item = Vec<u8>>) -> Outcome {
    let bytes: Vec<u8> = names
        .into_iter()
        .flat_map(|name| [name, vec![0]].concat())
        .collect();
    write(|out| out.write_all(&bytes))
}

/// A name in one line: as it is, or in quotes and with escapes as in C, where it has a quote, a backslash, control characters or
/// bytes that are no text.
pub fn quoted(name: &[u8]) -> String {
    let is_plain =
        |text: &str| !text.contains(|letter: char| is_deceptive(letter) || "\"\\".contains(letter));
    if let Some(text) = std::str::from_utf8(name).ok().filter(|text| is_plain(text)) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => out.extend(['\\', letter]),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                _ if is_deceptive(letter) => out.push_str(&octal(letter.to_string().as_bytes())),
                _ => out.push(letter),
            }
        }
        out.push_str(&octal(chunk.invalid()));
    }
    out.push('"');
    out
}

fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
}

/// Letters of a message's first line that are shown; JSON has all of them.
const FIRST_LINE_MAX: usize = 500;

/// The first line of a message, without what would steer a terminal.
pub fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(FIRST_LINE_MAX).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown.replace(is_deceptive, "\u{fffd}")
}

/// Prints the answer as one JSON document.
pub fn json<T: Serialize>(value: &T) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::failed(format!("the answer cannot be written as JSON: {error}")))?;
    line(escaped_json(&text))
}

/// Prints rows in columns, the first row being their titles.
pub fn table(rows: &[Vec<String>]) -> Outcome {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| padded(cell, *width))
            .collect();
        line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The cell with spaces after it. A format string's width ends, in a panic, at 65,535.
fn padded(cell: &str, width: usize) -> String {
    let missing = width.saturating_sub(cell.chars().count());
    format!("{cell}{}", " ".repeat(missing))
}

/// So many of something: `1 file`, `2 files`.
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// What changed, in one line: only the kinds of change that occur.
pub fn changes(counts: &ChangeCounts) -> String {
    let kinds = [
        ("added", counts.added),
        ("changed", counts.changed),
        ("removed", counts.removed),
    ];
    let kinds = kinds
        .iter()
        .filter(|(_, count)| count.files > 0)
        .map(|(what, count)| (count.files, format!("{what} ({})", size(count.bytes))));
    let modes = counts.permissions.files;
    let modes = (modes > 0).then(|| (modes, "with other permissions".to_owned()));
    let mut parts = Vec::new();
    for (files, what) in kinds.chain(modes) {
        parts.push(match parts.is_empty() {
            true => format!("{} {what}", count(files, "file")),
            false => format!("{files} {what}"),
        });
    }
    match parts.is_empty() {
        true => "no file changed".to_owned(),
        false => parts.join(", "),
    }
}

/// A moment to come, as an option's value: `2h` from now on, or a date.
pub fn moment(text: &str) -> Result<u64, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    crate::model::moment::moment(text, since.map_or(0, |since| since.as_secs()))
}

/// Bytes as people read them, in powers of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A size as people write it, in powers of 1024: `512`, `64K`, `500M`, `16G`, `2T`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let power = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 1,
        "M" | "MIB" => 2,
        "G" | "GIB" => 3,
        "T" | "TIB" => 4,
        _ => return Err("give a size such as 512, 64K, 500M or 16G".into()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << (10 * power)))
        .ok_or_else(|| "give a size such as 512, 64K, 500M or 16G".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::FileCount;

    #[test]
    fn names_of_all_bytes_stay_in_their_line() {
        assert_eq!(quoted("a b/ä.html".as_bytes()), "a b/ä.html");
        assert_eq!(quoted(b"a\n\"b\\\x1b\xff"), "\"a\\n\\\"b\\\\\\033\\377\"");
        assert_eq!(first_line("red \x1b[31m\nmore"), "red \u{fffd}[31m");
        let cut = first_line(&"ä".repeat(70_000));
        assert_eq!((cut.chars().count(), cut.ends_with('…')), (501, true));
    }

    #[test]
    fn columns_of_any_width_are_padded() {
        assert_eq!(padded("ä", 3), "ä  ");
        assert_eq!(padded("long", 3), "long");
        assert_eq!(padded("a", 70_000).len(), 70_000);
    }

    #[test]
    fn changes_name_only_what_occurs() {
        let files = |files, bytes| FileCount { files, bytes };
        let mut counts = ChangeCounts::default();
        assert_eq!(changes(&counts), "no file changed");
        counts.changed = files(1, 13);
        assert_eq!(changes(&counts), "1 file changed (13 B)");
        counts.added = files(2, 5);
        counts.permissions = files(1, 3);
        assert_eq!(
            changes(&counts),
            "2 files added (5 B), 1 changed (13 B), 1 with other permissions"
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1 << 50), "1024.0 TiB");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("16G"), Ok(16 << 30));
        assert_eq!(parse_size("3kib"), Ok(3 << 10));
        for text in ["", "G", "1.5G", "-1", "12Q", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
