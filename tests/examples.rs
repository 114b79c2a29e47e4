//! The shell examples of the README, run as they stand there, on names that frameworks and people make.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::readme::block;
use crate::support::*;

/// Names that a shell, a URL, curl or xargs could take for something else.
const NAMES: [&[u8]; 12] = [
    b"[slug].html",
    b"[...all]/{id}.html",
    b"a page with  spaces.html",
    b"c#.html",
    b"what?.html",
    b"100%25.html",
    b"%",
    b"-X DELETE",
    b"it's \"quoted\" $HOME `id` \\.html",
    "ünïcode & more=1+2;3,4@5.html".as_bytes(),
    b"not \xff utf-8",
    b"new\nline",
];

fn build(site: &Site, name: &str, content: &str) -> PathBuf {
    let folder = site.beside(name);
    write_files(
        &folder,
        &[("index.html", content), ("docs/index.html", content)],
    );
    for name in NAMES {
        let path = folder.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// A server that answers everything; the methods and targets that it was asked for.
fn recorder() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    (port, asked)
}

fn encoded(name: &[u8]) -> String {
    let letter = |&byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'~' | b'-' => {
            (byte as char).to_string()
        }
        other => format!("%{other:02X}"),
    };
    name.iter().map(letter).collect()
}

#[test]
fn the_purge_hook_purges_each_changed_name_once_and_nothing_else() {
    let site = Site::new();
    let (port, asked) = recorder();
    let hook = block("Working together", "sh\n#!/bin/sh").replace(
        "https://cdn.example.com",
        &format!("http://127.0.0.1:{port}"),
    );
    assert!(hook.contains("127.0.0.1"));
    let hooks = site.store.join("hooks");
    fs::create_dir_all(&hooks).unwrap();
    let path = hooks.join("post-activate");
    fs::write(&path, format!("#!/bin/sh\n{hook}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    for content in ["one", "two"] {
        let id = site.deploy(&build(&site, content, content));
        site.activate(&id);
        let mut expected: Vec<String> = NAMES
            .iter()
            .map(|name| encoded(name))
            .chain(["", "index.html", "docs/", "docs/index.html"].map(str::to_owned))
            .map(|name| format!("PURGE /{name} HTTP/1.1"))
            .collect();
        let mut seen: Vec<String> = (0..expected.len())
            .map(|_| asked.recv_timeout(Duration::from_secs(20)).unwrap())
            .collect();
        expected.sort();
        seen.sort();
        assert_eq!(seen, expected);
    }
    assert!(asked.try_recv().is_err(), "nothing is purged twice");
}

/// Runs an example with `ssh` short and this `tar`, in a folder that has the build as `public`.
fn run(site: &Site, example: &str, tar: &str) -> Output {
    let bin = site.beside("bin");
    fs::create_dir_all(&bin).unwrap();
    for (name, script) in [("ssh", "shift; exec sh -c \"$*\""), ("tar", tar)] {
        fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    if !bin.join("deployfs").exists() {
        std::os::unix::fs::symlink(DEPLOYFS, bin.join("deployfs")).unwrap();
    }
    let script = example.replace("/srv/store", text(&site.store));
    assert_ne!(script, example);
    let path = format!("{}:{}", text(&bin), std::env::var("PATH").unwrap());
    Command::new("bash")
        .args(["-c", &script])
        .env("PATH", path)
        .current_dir(site.beside(""))
        .output()
        .unwrap()
}

const TAR: &str = "exec /usr/bin/tar \"$@\"";
/// The archive is complete, but lacks what could not be read.
const HALF_A_TAR: &str = "/usr/bin/tar \"$@\"; exit 2";

#[test]
fn the_examples_that_copy_over_ssh_put_a_whole_build_live_and_no_half_one() {
    for heading in ["Moving", "CI"] {
        let site = Site::new();
        build(&site, "public", "one");
        let out = run(&site, block(heading, "sh"), TAR);
        assert!(out.status.success(), "{heading}: {}", stderr(&out));
        assert_eq!(
            contents(&site.path("live")),
            contents(&site.beside("public"))
        );
        let live = site.json(["status"])["live"].clone();
        fs::write(site.beside("public/index.html"), "two").unwrap();
        let out = run(&site, block(heading, "sh"), HALF_A_TAR);
        assert!(!out.status.success(), "{heading}: the step must be red");
        assert_eq!(site.json(["status"])["live"], live, "{heading}");
    }
}

#[test]
fn no_example_hides_the_exit_code_of_a_tar_that_goes_live() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = sh(&format!(
        "cd {}; find README.md docs examples packaging scripts src/cli -type f",
        text(root)
    ));
    for file in files.lines() {
        let content = fs::read_to_string(root.join(file)).unwrap_or_default();
        for line in content.lines() {
            let is_pipe =
                line.contains("tar ") && line.contains("deploy --tar -") && line.contains('|');
            assert!(!(is_pipe && line.contains("--activate")), "{file}: {line}");
        }
    }
}
