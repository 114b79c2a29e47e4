//! Imports run one way: what each room may know, read from its `use` lines and paths.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may know, besides itself. Rooms are the folders and files of src/.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("campaign", &[]),
    ("model", &[]),
    ("sync", &[]),
    ("process", &[]),
    ("store", &["model", "sync", "campaign", "process"]),
    ("users", &["model"]),
    ("archive", &["model"]),
    ("metrics", &["model"]),
    ("deploy", &["store", "model", "sync", "users", "campaign"]),
    ("view", &["deploy", "store", "model", "users"]),
    ("control", &["model", "users", "process"]),
    ("doctor", &["view", "model", "users"]),
    (
        "daemon",
        &["deploy", "view", "control", "model", "users", "metrics"],
    ),
    (
        "cli",
        &[
            "daemon", "doctor", "deploy", "view", "control", "model", "users", "archive", "metrics",
        ],
    ),
    (
        "fuzzing",
        &["store", "deploy", "archive", "control", "model", "campaign"],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The rooms that a source names as `crate::ROOM` or, from outside the library, `deployfs::ROOM`.
fn named(source: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for prefix in ["crate::", "deployfs::"] {
        for (at, _) in source.match_indices(prefix) {
            let rest = &source[at + prefix.len()..];
            let end = rest
                .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .unwrap_or(rest.len());
            rooms.push(rest[..end].to_owned());
        }
    }
    rooms
}

fn breaches(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, source) in sources {
        let room = path.split(['/', '.']).next().unwrap();
        let Some((_, may_know)) = MAY_KNOW.iter().find(|(name, _)| *name == room) else {
            found.push(format!("{path}: the room '{room}' has no line in MAY_KNOW"));
            continue;
        };
        for other in named(source) {
            if other != room && !may_know.contains(&other.as_str()) {
                found.push(format!("{path}: {room} may not know {other}"));
            }
        }
    }
    found
}

fn all() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            (name.to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect()
}

#[test]
fn imports_run_one_way() {
    assert_eq!(breaches(&all()), Vec::<String>::new());
}

#[test]
fn an_import_in_the_wrong_direction_would_be_found() {
    let planted = BTreeMap::from([
        ("model/tree.rs".into(), "use crate::store::Store;".into()),
        (
            "store/mod.rs".into(),
            "let x = crate::deploy::now();".into(),
        ),
        ("deploy/mod.rs".into(), "use crate::model::Name;".into()),
        ("attic/mod.rs".into(), String::new()),
    ]);
    assert_eq!(breaches(&planted).len(), 3);
}

#[test]
fn one_room_alone_names_each_of_the_large_libraries() {
    for (library, room) in [
        ("sled", "store/index.rs"),
        ("fuser", "view/"),
        ("clap", "cli/"),
    ] {
        let names = |source: &str| {
            let path = format!("{library}::");
            source
                .lines()
                .any(|line| line.contains(&path) && !line.trim_start().starts_with("//"))
        };
        let elsewhere: Vec<String> = all()
            .into_iter()
            .filter(|(path, source)| !path.starts_with(room) && names(source))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(elsewhere, Vec::<String>::new(), "{library}");
    }
}

#[test]
fn every_source_file_says_first_what_lives_there() {
    for (path, source) in all() {
        assert!(source.starts_with("//! "), "{path}");
    }
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let code: String = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let is_test = |word: &&str| word.len() > 20 && word.matches('_').count() > 2;
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 20, "{named:?}");
    for test in named {
        assert!(code.contains(&format!("fn {test}()")), "{test}");
    }
}
