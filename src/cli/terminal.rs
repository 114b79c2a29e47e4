//! Texts that others wrote, as a terminal may show them: nothing in them steers it, hides a part, or turns the order around.

/// Writes a line for people to stderr, with the texts of others in it as a terminal may show them.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::cli::terminal::error_line(&$crate::cli::terminal::shown(&format!($($text)*)))
    };
}

/// Writes a line to stderr. The outcome stands also where nobody reads it any more, or its disk is full.
pub fn error_line(text: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{text}").ok();
}

/// True for letters that a terminal does not print as themselves: control characters, line separators, marks of direction.
pub fn is_deceptive(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// The text with such letters escaped, as in `\u{202e}`; its own lines and tabs stay.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => out.push(letter),
            _ if is_deceptive(letter) => out.extend(letter.escape_unicode()),
            _ => out.push(letter),
        }
    }
    out
}

/// JSON with such letters escaped, which changes no value: outside of strings it has none but its own lines.
pub fn escaped_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push(letter),
            _ if is_deceptive(letter) => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_escaped_and_all_else_stays() {
        assert_eq!(shown("ä ❤\n\tx"), "ä ❤\n\tx");
        assert_eq!(
            shown("a\u{202e}b\u{1b}[31m\u{2028}\r"),
            "a\\u{202e}b\\u{1b}[31m\\u{2028}\\u{d}"
        );
        assert_eq!(shown("\u{9b}\u{7f}\u{2066}"), "\\u{9b}\\u{7f}\\u{2066}");
    }

    #[test]
    fn json_keeps_its_values() {
        let value = serde_json::json!({ "name": "a\u{202e}b\u{7f}\u{1b}\u{2029}ä\n" });
        let text = escaped_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            !text.contains(|letter| letter != '\n' && is_deceptive(letter)),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
