//! The forced command of a restricted SSH key, packaging/ssh-command.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::*;

const FORCED: &str = include_str!("../../packaging/ssh-command");

/// Writes it, with the program under test in its path.
pub fn write_forced_command(to: &Path, bin: &Path) {
    let path = "PATH=/usr/local/bin:";
    assert!(FORCED.contains(path));
    fs::write(to, FORCED.replace(path, &format!("PATH={}:", text(bin)))).unwrap();
}

/// A site, and the forced command of a key for it.
struct Server(Site);

impl Server {
    fn new() -> Self {
        let site = Site::new();
        fs::create_dir(site.beside("bin")).unwrap();
        std::os::unix::fs::symlink(DEPLOYFS, site.beside("bin/deployfs")).unwrap();
        write_forced_command(&site.beside("ssh-command"), &site.beside("bin"));
        Server(site)
    }

    /// What sshd does for a key that may so much: the client's words are in a variable.
    fn ask(&self, may: &[&str], words: &str, input: &[u8]) -> Output {
        let mut child = Command::new("bash")
            .arg(self.0.beside("ssh-command"))
            .args(["--store", text(&self.0.store)])
            .args(may)
            .env("SSH_ORIGINAL_COMMAND", words)
            .env("DEPLOYFS_STORE", "/nowhere")
            .current_dir(self.0.beside(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What refuses reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    fn ok(&self, may: &[&str], words: &str, input: &[u8]) -> String {
        let out = self.ask(may, words, input);
        assert!(out.status.success(), "{words}: {}", stderr(&out));
        stdout(&out).trim_end().to_owned()
    }
}

#[test]
fn a_restricted_key_deploys_names_and_words_of_all_kinds() {
    let server = Server::new();
    let site = &server.0;
    let build = site.beside("a build");
    write_files(
        &build,
        &[
            ("[slug]/a page #1 100%?.html", "page"),
            ("index.html", "home"),
        ],
    );
    sh(&format!(
        "tar -C '{}' -cf {} .",
        build.display(),
        site.beside("site.tar").display()
    ));
    let archive = fs::read(site.beside("site.tar")).unwrap();
    let id = server.ok(
        &["preview"],
        "deployfs deploy --tar - --meta 'a key=a $(value)'",
        &archive,
    );
    assert_eq!(id, site.deploy(&build));
    assert_eq!(
        site.json(["show", &id])["seals"][0]["meta"]["a key"],
        "a $(value)"
    );
    let with_store = format!(
        "deployfs --store {} channel set 'PR 17' {id} -m \"it's; `id` -x\" --expires 2d",
        text(&site.store)
    );
    server.ok(&["preview"], &with_store, b"");
    let channel = &site.json(["channel", "list"])[0];
    assert_eq!(
        (channel["name"].as_str(), channel["message"].as_str()),
        (Some("PR 17"), Some("it's; `id` -x"))
    );
    server.ok(
        &["live"],
        "deployfs activate '@PR 17' --if-live none -m --activate",
        b"",
    );
    assert_eq!(site.read("[slug]/a page #1 100%?.html"), "page");
    let log = site.json(["log"]);
    let records = log.as_array().unwrap();
    assert!(
        records
            .iter()
            .any(|record| record["message"] == "--activate"),
        "{log}"
    );
    server.ok(&["preview"], "deployfs channel rm 'PR 17'", b"");
    assert!(
        server
            .ok(&["preview"], "deployfs status --json", b"")
            .contains(&id)
    );
    // Exit codes are the program's.
    let out = server.ask(
        &["live"],
        &format!("deployfs activate {id} --if-live none"),
        b"",
    );
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
    // What goes live passes the server's check.
    let out = server.ask(
        &["--check", "false", "live"],
        "deployfs deploy --tar - --activate --allow-empty",
        &archive,
    );
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
}

#[test]
fn p10_a_restricted_key_is_for_nothing_else() {
    let server = Server::new();
    let site = &server.0;
    let id = site.seal(&[("index.html", "home")]);
    let before = site.state();
    for words in [
        "",
        "id",
        "sh -c id",
        "deployfs",
        "deployfs --version",
        "deployfs --store",
        "deployfs --store /etc status",
        "deployfs status --store /etc",
        "deployfs status; touch planted",
        "deployfs status\ntouch planted",
        "deployfs status && touch planted",
        "deployfs show $(touch planted)",
        "deployfs show `touch planted`",
        "deployfs show 'unmatched",
        "deployfs deploy /etc",
        "deployfs deploy --tar /etc/hostname",
        "deployfs deploy --tar=/etc/hostname",
        "deployfs deploy --tar - /etc",
        "deployfs deploy --tar-from 'touch planted'",
        "deployfs deploy --tar - --check 'touch planted' --activate",
        "deployfs deploy --tar - --allow-external-symlinks",
        "deployfs activate live --check 'touch planted'",
        "deployfs activate live --override-lock",
        "deployfs -v status",
        "deployfs rm live",
        "deployfs umount /srv/site",
        "deployfs lock -m mine",
        "deployfs export live",
        "deployfs channel",
        "deployfs channel set preview live --store /etc",
        "deployfs rollback --if-live",
        "DEPLOYFS_STORE=/etc deployfs status",
    ] {
        let out = server.ask(&["live"], words, b"");
        let said = stderr(&out);
        assert!(
            [1, 2].contains(&out.status.code().unwrap()),
            "{words}: {said}"
        );
        assert_eq!(stdout(&out), "", "{words}");
        assert!(!site.beside("planted").exists(), "{words}");
    }
    for words in [
        format!("deployfs activate {id}"),
        "deployfs rollback".into(),
        "deployfs deploy --tar - --activate".into(),
    ] {
        let said = refusal(&server.ask(&["preview"], &words, b""), 1);
        mentions(&said, &["this key may not do that"]);
    }
    assert_eq!(site.state(), before);
}
