//! Facts that a check could not have, most for lack of rights, and the command that has them.

use std::collections::{BTreeMap, BTreeSet};

use super::Host;
use super::host::Process;

/// Facts that are named; of more, the number is.
const NAMED_MAX: usize = 3;

/// Facts that a check could not have, by the remedy.
#[derive(Debug, Default)]
pub struct Unchecked(BTreeMap<String, BTreeSet<String>>);

impl Unchecked {
    /// Adds a fact that more rights would show.
    pub fn add(&mut self, what: impl Into<String>) {
        let remedy = match rustix::process::geteuid().is_root() {
            true => "root lacks capabilities here: run doctor outside of the container",
            false => "'sudo deployfs doctor' checks it",
        };
        self.add_with(what, remedy);
    }

    /// Adds a fact with the command that shows it.
    pub fn add_with(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        let facts = self.0.entry(remedy.into()).or_default();
        facts.insert(what.into());
    }

    /// Adds those of the processes whose namespaces and open files this user may not see.
    pub fn add_closed(&mut self, host: &Host, processes: &[Process]) {
        if host.hides_processes() {
            self.add("processes of others, which /proc hides");
        }
        match processes.iter().filter(|one| one.is_closed).count() {
            0 => {}
            closed => self.add(format!("{closed} processes of others")),
        }
    }

    /// True if the check had all facts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The facts and their remedies in a sentence; `None` if the check had all facts.
    pub fn note(&self) -> Option<String> {
        let notes: Vec<String> = self
            .0
            .iter()
            .map(|(remedy, facts)| {
                let named: Vec<&str> = facts.iter().take(NAMED_MAX).map(String::as_str).collect();
                let more = match facts.len().saturating_sub(NAMED_MAX) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("{}{more}: {remedy}", named.join(", "))
            })
            .collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_named_once_with_their_remedy_and_not_without_end() {
        let mut unchecked = Unchecked::default();
        assert_eq!(unchecked.note(), None);
        for fact in ["a", "b", "c", "d", "e", "a"] {
            unchecked.add_with(fact, "read it");
        }
        unchecked.add_with("z", "ask");
        let note = unchecked.note().unwrap();
        assert_eq!(note, "z: ask; a, b, c and 2 more: read it");
    }
}
