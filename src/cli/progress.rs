//! How far a long command has come: a bar on a terminal, else a plain line now and then. On stderr, always.

use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::size;
use super::terminal::error_line;
use crate::model::report::Progress;

/// Where there is no terminal: when the first line is written, so that short work stays quiet, and how often then.
const FIRST_LINE: Duration = Duration::from_secs(2);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One command's progress.
pub struct Bar {
    what: &'static str,
    /// What is counted besides bytes.
    items: &'static str,
    bar: Option<ProgressBar>,
    next_line: Mutex<Cell<Instant>>,
}

impl Bar {
    /// Progress of this work ("sealing") on these ("files").
    pub fn new(what: &'static str, items: &'static str) -> Self {
        Bar {
            what,
            items,
            bar: std::io::stderr().is_terminal().then(|| bar(what)),
            next_line: Mutex::new(Cell::new(Instant::now() + FIRST_LINE)),
        }
    }

    /// Shows how far it has come.
    pub fn show(&self, state: Progress) {
        let Some(bar) = &self.bar else {
            return self.line(state);
        };
        if state.bytes_total > 0 && bar.length() != Some(state.bytes_total) {
            bar.set_style(style(WHOLE));
            bar.set_length(state.bytes_total);
        }
        bar.set_position(state.bytes);
        bar.set_message(self.counts(&state));
    }

    fn line(&self, state: Progress) {
        let next = self
            .next_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < next.get() {
            return;
        }
        next.set(Instant::now() + LINE_EVERY);
        let of = match state.bytes_total {
            0 => String::new(),
            total => format!(" of {}", size(total)),
        };
        error_line(&format!(
            "{}: {}{of}, {}",
            self.what,
            size(state.bytes),
            self.counts(&state)
        ));
    }

    fn counts(&self, state: &Progress) -> String {
        if state.waits_for_backup {
            return "waiting for a backup of the store to end".into();
        }
        let mut text = state.files.to_string();
        if state.files_total > 0 {
            text.push_str(&format!("/{}", state.files_total));
        }
        text.push_str(&format!(" {}", self.items));
        if state.new_bytes > 0 {
            text.push_str(&format!(", {} new", size(state.new_bytes)));
        }
        text
    }

    /// Takes the bar away.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waiting for somebody else, whose progress nobody knows.
pub struct Wait {
    what: &'static str,
    bar: Option<ProgressBar>,
    /// When a line is written where there is no terminal; none: it has been.
    line_at: Option<Instant>,
}

impl Wait {
    /// Nothing is shown before the first tick.
    pub fn new(what: &'static str) -> Self {
        Wait {
            what,
            bar: None,
            line_at: Some(Instant::now() + FIRST_LINE),
        }
    }

    /// It goes on.
    pub fn tick(&mut self) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}"))
            });
            bar.set_message(self.what);
            bar.tick();
        } else if self.line_at.is_some_and(|at| Instant::now() >= at) {
            self.line_at = None;
            error_line(&format!("{} …", self.what));
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How the bar looks while nobody knows how much there is to do, and once that is known.
const OPEN: &str = "{prefix} {spinner} {bytes} {bytes_per_sec} {msg}";
const WHOLE: &str = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";

fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0)
        .with_style(style(OPEN))
        .with_prefix(what);
    bar.tick();
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid")
}
