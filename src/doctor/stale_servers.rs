//! Servers that answer with an older page for a while, or to a browser that asks by date.

use std::fs;
use std::path::{Path, PathBuf};

use super::host::Process;
use super::mounts::Mounts;
use super::servers::hidden;
use super::{Check, Finding, Host};

/// lighttpd's file, unless it is started with another.
const LIGHTTPD_FILE: &str = "/etc/lighttpd/lighttpd.conf";

/// lighttpd that keeps stat, and Python's `http.server`.
pub fn stale_servers(host: &Host, mounts: &Mounts) -> Check {
    let mut findings = Vec::new();
    let mut unchecked = hidden(host, mounts);
    let mut seen = 0;
    for process in host.processes() {
        let serves = |path: &Path| {
            mounts
                .alive()
                .any(|ours| path.starts_with(&ours.mountpoint))
        };
        if process.name == "lighttpd" {
            if !host.is_of_system(&process) {
                continue;
            }
            let file = word_after(&process, &["-f"]).unwrap_or(LIGHTTPD_FILE);
            let path = format!("/proc/{}/root{file}", process.pid);
            let text = host.read_or_note(&path, &mut unchecked);
            let lines = statements(text.as_deref().unwrap_or_default());
            if !lines.iter().any(|line| quoted_paths(line).any(serves)) {
                continue;
            }
            seen += 1;
            findings.extend(keeps_stat(file, &lines));
        } else if process.words.iter().any(|word| word == "http.server") {
            let given = word_after(&process, &["--directory", "-d"]).map(PathBuf::from);
            if given.is_none() && process.is_closed {
                unchecked.add(format!(
                    "the folder of process {}, Python's http.server",
                    process.pid
                ));
            }
            let cwd = || fs::read_link(host.path(&format!("/proc/{}/cwd", process.pid))).ok();
            if !given.or_else(cwd).is_some_and(|folder| serves(&folder)) {
                continue;
            }
            seen += 1;
            findings.push(Finding::new(
                format!("process {}, Python's http.server, serves a mount", process.pid),
                "it sends no ETag and compares dates with 'not newer than': after a rollback it answers 304 to a browser that has the newer page, \
                 and it stays with the deploy that was live where it was started in 'live'",
                "serve the mount with nginx, Apache, Caddy or another server that sends ETags",
            ));
        }
    }
    let seen = match seen {
        0 if unchecked.is_empty() => "none serves a mount".to_owned(),
        0 => "not known whether one serves a mount".to_owned(),
        _ => format!("{seen} that serve a mount"),
    };
    Check::new("stale-servers", seen, findings).lacking(&unchecked)
}

fn word_after<'a>(process: &'a Process, flags: &[&str]) -> Option<&'a str> {
    let mut pairs = process.words.windows(2);
    let pair = pairs.find(|pair| flags.contains(&pair[0].as_str()))?;
    Some(&pair[1])
}

/// The lines without comments and empty ones.
fn statements(text: &str) -> Vec<&str> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).collect()
}

fn quoted_paths(line: &str) -> impl Iterator<Item = &Path> {
    line.split('"').skip(1).step_by(2).map(Path::new)
}

fn keeps_stat(file: &str, lines: &[&str]) -> Option<Finding> {
    let engine = lines
        .iter()
        .rev()
        .find(|line| line.starts_with("server.stat-cache-engine"));
    if engine.is_some_and(|line| line.contains("\"disable\"")) {
        return None;
    }
    Some(Finding::new(
        format!("lighttpd ({file}) keeps the outcome of stat(2)"),
        "for a second or two after an activation it answers with the deploy before, also to a browser that asks whether its page is current",
        "write 'server.stat-cache-engine = \"disable\"' there, and start lighttpd again",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lighttpd_keeps_stat_unless_the_last_word_on_it_is_disable() {
        let keeps = |text: &str| keeps_stat("f", &statements(text)).is_some();
        assert!(keeps(""));
        assert!(keeps("server.stat-cache-engine = \"simple\""));
        assert!(keeps("# server.stat-cache-engine = \"disable\""));
        assert!(!keeps("server.stat-cache-engine=\"disable\" # at once"));
    }
}
