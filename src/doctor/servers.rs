//! Settings of nginx and Apache that hurt, read from their files.
//!
//! Anybody can give a process a server's name and any words: only processes of root, or of the user who asks, say which files to read.

use std::collections::BTreeSet;
use std::path::Path;

use super::host::Process;
use super::mounts::{Mounts, Ours};
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::view::mounts::parse as parse_mounts;

/// How deep includes are followed.
const INCLUDES_MAX: usize = 8;
/// Files of one nginx that are read.
const FILES_MAX: usize = 2000;

/// nginx's file, unless it is started with another.
const USUAL: &str = "/etc/nginx/nginx.conf";

/// A running nginx: the file it was started with, below its root, which is a container's own.
struct Started {
    pid: String,
    root: String,
    file: String,
}

impl Started {
    fn of(host: &Host, process: &Process) -> Option<Self> {
        // The master writes its words anew, as one.
        let title = process.words.join(" ");
        let words: Vec<&str> = title.split_whitespace().collect();
        let is_master = process.name == "nginx" && words.starts_with(&["nginx:", "master"]);
        if !is_master || !host.is_trusted(process) {
            return None;
        }
        let file = words.windows(2).find(|pair| pair[0] == "-c");
        Some(Started {
            pid: process.pid.to_string(),
            root: format!("/proc/{}/root", process.pid),
            file: file.map_or(USUAL, |pair| pair[1]).to_owned(),
        })
    }
}

/// A directive: where it stands, and its words.
struct Directive {
    place: String,
    words: Vec<String>,
}

/// nginx: of each running one the file that it was started with, else the usual one.
pub fn nginx(host: &Host, mounts: &Mounts) -> Check {
    let processes = host.processes();
    let mut started: Vec<Started> = processes
        .iter()
        .filter_map(|process| Started::of(host, process))
        .collect();
    if started.is_empty() {
        started.push(Started {
            pid: "self".into(),
            root: String::new(),
            file: USUAL.into(),
        });
    }
    let mut findings = Vec::new();
    let mut unchecked = hidden(host, mounts);
    let mut looked_at = 0;
    for Started { pid, root, file } in started {
        let mut found = Found::default();
        let place = Place {
            host,
            root: &root,
            main: &file,
        };
        place.collect(&file, 0, &mut found, &mut unchecked);
        let directives = found.directives;
        let table = parse_mounts(&host.mount_table(&pid));
        let place = |ours: &Ours| ours.place_in(&table).unwrap_or(&ours.mountpoint).to_owned();
        if !mounts.alive().any(|ours| names(&directives, &place(ours))) {
            continue;
        }
        looked_at += 1;
        findings.extend(directives.iter().filter_map(hurts));
    }
    findings.dedup();
    let seen = match looked_at {
        0 if unchecked.is_empty() => "none serves a mount".to_owned(),
        0 => "not known whether one serves a mount".to_owned(),
        _ => format!("{looked_at} that serve a mount"),
    };
    Check::new("nginx", seen, findings).lacking(&unchecked)
}

/// Servers of others that /proc hides; none if no mount is there to be served.
pub fn hidden(host: &Host, mounts: &Mounts) -> Unchecked {
    let mut unchecked = Unchecked::default();
    if mounts.alive().next().is_some() && host.hides_processes() {
        unchecked.add("processes of others, which /proc hides");
    }
    unchecked
}

fn names(directives: &[Directive], mountpoint: &Path) -> bool {
    let path = mountpoint.to_string_lossy();
    let mut words = directives.iter().flat_map(|directive| &directive.words);
    words.any(|word| word.contains(&*path))
}

fn hurts(directive: &Directive) -> Option<Finding> {
    let words: Vec<&str> = directive.words.iter().map(String::as_str).collect();
    let why = match words.as_slice() {
        [_, "off", ..] => return None,
        ["open_file_cache", ..] => {
            "after an activation nginx goes on answering with the deploy before, for up to open_file_cache_valid (60 s by default)"
        }
        ["disable_symlinks", ..] => {
            "nginx opens every folder of every path by itself, and refuses the symlinks that a deploy has"
        }
        ["directio", ..] => {
            "large files pass by the kernel's cache: each request reads them from the daemon again"
        }
        _ => return None,
    };
    Some(Finding::new(
        format!("{}: {}", directive.place, words.join(" ")),
        why,
        format!("write '{} off;' there, then: nginx -s reload", words[0]),
    ))
}

/// Where the files of one nginx are.
struct Place<'a> {
    host: &'a Host,
    /// The root that its paths are below.
    root: &'a str,
    /// The file that it was started with.
    main: &'a str,
}

/// The directives of one nginx.
#[derive(Default)]
struct Found {
    /// The files that were read, or tried.
    files: BTreeSet<String>,
    directives: Vec<Directive>,
}

impl Place<'_> {
    /// Reads a file and what it includes, each once.
    fn collect(&self, file: &str, depth: usize, found: &mut Found, unchecked: &mut Unchecked) {
        if found.files.len() >= FILES_MAX || !found.files.insert(file.to_owned()) {
            return;
        }
        let root = self.root;
        let path = format!("{root}{file}");
        let Some(text) = self.host.read_or_note(&path, unchecked) else {
            return;
        };
        for directive in parse(file, &text) {
            if let [word, pattern] = directive.words.as_slice()
                && word == "include"
                && depth < INCLUDES_MAX
            {
                let pattern = match (pattern.starts_with('/'), self.main.rsplit_once('/')) {
                    (false, Some((dir, _))) => format!("{root}{dir}/{pattern}"),
                    _ => format!("{root}{pattern}"),
                };
                for path in self.host.glob(&pattern, unchecked) {
                    self.collect(&path[root.len()..], depth + 1, found, unchecked);
                }
            }
            found.directives.push(directive);
        }
    }
}

/// The directives of a file of nginx, blocks opened or not.
fn parse(file: &str, text: &str) -> Vec<Directive> {
    let mut found = Vec::new();
    let mut words = Vec::new();
    let mut word = String::new();
    let mut begun = 0;
    let mut quote = None;
    for (number, line) in text.lines().enumerate() {
        let mut letters = line.chars();
        while let Some(letter) = letters.next() {
            match (quote, letter) {
                (_, '\\') => word.extend(letters.next()),
                (Some(open), _) if open == letter => quote = None,
                (Some(_), _) => word.push(letter),
                (None, '"' | '\'') if word.is_empty() => quote = Some(letter),
                (None, '#') if word.is_empty() => break,
                (None, ';' | '{' | '}') => {
                    end_word(&mut word, &mut words);
                    if !words.is_empty() {
                        let place = format!("{file}:{begun}");
                        found.push(Directive {
                            place,
                            words: std::mem::take(&mut words),
                        });
                    }
                }
                (None, letter) if letter.is_whitespace() => end_word(&mut word, &mut words),
                (None, letter) => word.push(letter),
            }
            if words.is_empty() {
                begun = number + 1;
            }
        }
        if quote.is_none() {
            end_word(&mut word, &mut words);
        }
    }
    found
}

fn end_word(word: &mut String, words: &mut Vec<String>) {
    if !word.is_empty() {
        words.push(std::mem::take(word));
    }
}

/// Apache: mod_file_cache keeps files open, or mapped, from its start on.
pub fn apache(host: &Host, mounts: &Mounts) -> Check {
    let mut unchecked = hidden(host, mounts);
    let mut files: Vec<String> = [
        "/etc/apache2/apache2.conf",
        "/etc/apache2/mods-enabled/*.conf",
        "/etc/apache2/conf-enabled/*.conf",
        "/etc/apache2/sites-enabled/*.conf",
        "/etc/httpd/conf/httpd.conf",
        "/etc/httpd/conf.d/*.conf",
    ]
    .iter()
    .flat_map(|pattern| host.glob(pattern, &mut unchecked))
    .collect();
    for process in host.processes() {
        let is_apache = matches!(process.name.as_str(), "apache2" | "httpd");
        if is_apache && host.is_trusted(&process) {
            let file = process.words.windows(2).find(|pair| pair[0] == "-f");
            files.extend(file.map(|pair| pair[1].clone()));
        }
    }
    files.sort();
    files.dedup();
    let mut findings = Vec::new();
    for file in &files {
        let text = host.read_or_note(file, &mut unchecked).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let keeps = words.next().is_some_and(|word| {
                word.eq_ignore_ascii_case("CacheFile") || word.eq_ignore_ascii_case("MMapFile")
            });
            let of_ours = mounts
                .alive()
                .any(|ours| line.contains(&*ours.mountpoint.to_string_lossy()));
            if keeps && of_ours {
                findings.push(Finding::new(
                    format!("{file}:{}: {}", number + 1, line.trim()),
                    "Apache keeps the files it opened at its start: activations are not seen",
                    "take the line out, then: apachectl graceful",
                ));
            }
        }
    }
    Check::new("apache", format!("{} files", files.len()), findings).lacking(&unchecked)
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::planted;
    use super::*;

    const MAIN: &str = "user www-data;\nhttp {\n  # open_file_cache max=1;\n  include conf.d/*.conf;\n  include /etc/nginx/more;\n}\n";

    #[test]
    fn settings_of_nginx_that_hurt_are_told_with_their_place() {
        let site = "server {\n  root \"/srv/site/live\"; disable_symlinks\n   if_not_owner;\n  directio 4m;\n}\n";
        let (_root, host) = planted(&[
            ("etc/nginx/nginx.conf", MAIN),
            ("etc/nginx/conf.d/site.conf", site),
            ("etc/nginx/more", "open_file_cache max=1000 inactive=20s;"),
        ]);
        let check = nginx(&host, &Mounts::planted_at("/srv/site"));
        let what: Vec<&str> = check
            .findings
            .iter()
            .map(|finding| finding.what.as_str())
            .collect();
        assert_eq!(
            what,
            [
                "/etc/nginx/conf.d/site.conf:2: disable_symlinks if_not_owner",
                "/etc/nginx/conf.d/site.conf:4: directio 4m",
                "/etc/nginx/more:1: open_file_cache max=1000 inactive=20s",
            ]
        );
        assert!(check.findings[2].mend.contains("open_file_cache off;"));
        let elsewhere = nginx(&host, &Mounts::planted_at("/srv/other"));
        assert_eq!(elsewhere.findings, [], "it serves another folder");
    }

    #[test]
    fn a_file_that_includes_itself_many_times_is_read_once() {
        let site = format!(
            "server {{ root /srv/site/live; }}\ndirectio 4m;\n{}",
            "include /etc/nginx/*.conf;\n".repeat(100)
        );
        let (_root, host) = planted(&[("etc/nginx/nginx.conf", &site)]);
        let check = nginx(&host, &Mounts::planted_at("/srv/site"));
        assert_eq!(check.findings.len(), 1, "{check:?}");
    }

    #[test]
    fn settings_that_are_off_are_fine() {
        let site = "server { root /srv/site/live; open_file_cache off; directio off; disable_symlinks off; }";
        let (_root, host) = planted(&[("etc/nginx/nginx.conf", site)]);
        let check = nginx(&host, &Mounts::planted_at("/srv/site"));
        assert_eq!(check.findings, []);
        assert_eq!(check.seen, "1 that serve a mount");
    }

    #[test]
    fn files_that_apache_keeps_open_are_told() {
        let site = "DocumentRoot /srv/site/live\n  CacheFile /srv/site/live/index.html\nMMapFile /srv/other/x\n";
        let (_root, host) = planted(&[("etc/apache2/sites-enabled/a.conf", site)]);
        let check = apache(&host, &Mounts::planted_at("/srv/site"));
        assert_eq!(check.findings.len(), 1, "{check:?}");
        assert!(
            check.findings[0]
                .what
                .starts_with("/etc/apache2/sites-enabled/a.conf:2: CacheFile")
        );
    }
}
