//! Warnings about what is taken and may not be meant, messages that name the remedy, and texts of others on a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a command with `--json`; its warnings, which are on stderr too.
fn warnings(site: &Site, args: &[&str]) -> Vec<String> {
    let out = site.run(args.iter().copied().chain(["--json"]));
    assert!(out.status.success(), "{args:?}: {}", stderr(&out));
    let answer: serde_json::Value = serde_json::from_str(&stdout(&out)).unwrap();
    let all = answer["warnings"].as_array().unwrap().iter();
    let all: Vec<String> = all.map(|text| text.as_str().unwrap().to_owned()).collect();
    for warning in &all {
        mentions(&stderr(&out), &[warning]);
    }
    all
}

#[test]
fn a_build_that_the_web_server_cannot_read_is_warned_of_wherever_it_comes_from() {
    let site = Site::new();
    let dir = site.beside("build");
    write_files(
        &dir,
        &[
            ("index.html", "a page"),
            ("css/a b.css", "a{}"),
            ("shut/x", "x"),
        ],
    );
    assert_eq!(warnings(&site, &["deploy", text(&dir)]), [""; 0]);
    chmod(&dir.join("index.html"), 0o600);
    chmod(&dir.join("css/a b.css"), 0o640);
    chmod(&dir.join("shut"), 0o700);
    let words = [
        "'index.html'",
        "'css/a b.css'",
        "'shut'",
        "403",
        "chmod -R o+rX",
    ];
    let [said] = &warnings(&site, &["deploy", text(&dir)])[..] else {
        panic!("one warning")
    };
    mentions(said, &words);
    let [said] = &warnings(&site, &["deploy", "--dry-run", text(&dir)])[..] else {
        panic!("one warning")
    };
    mentions(said, &words);
    let archive = site.beside("site.tar");
    sh(&format!(
        "tar -C {} -cf {} .",
        dir.display(),
        archive.display()
    ));
    let [said] = &warnings(&site, &["deploy", "--tar", text(&archive)])[..] else {
        panic!("one warning")
    };
    mentions(said, &words);
    let staged = site.stage("v1", &[("page.html", "x")]);
    chmod(&staged.join("page.html"), 0o400);
    let [said] = &warnings(&site, &["seal", "v1"])[..] else {
        panic!("one warning")
    };
    mentions(said, &["'page.html'"]);
    let export = site.beside("site.dpl");
    let id = site.deploy(&dir);
    sh(&format!(
        "{DEPLOYFS} --store {} export {id} > {}",
        site.store.display(),
        export.display()
    ));
    let other = Site::new();
    let [said] = &warnings(&other, &["import", text(&export)])[..] else {
        panic!("one warning")
    };
    mentions(said, &words);
}

#[test]
fn repositories_and_passwords_in_a_build_are_warned_of() {
    let site = Site::unmounted();
    let dir = site.beside("build");
    write_files(
        &dir,
        &[
            (".well-known/x", "x"),
            (".git/config", "x"),
            (".git/HEAD", "x"),
            ("app/.env.local", "x"),
            (".htpasswd", "x"),
            (".env", "x"),
        ],
    );
    let [said] = &warnings(&site, &["deploy", text(&dir)])[..] else {
        panic!("one warning")
    };
    mentions(
        said,
        &["'.env'", "'.git'", "'.htpasswd'", "and 1 more", "leave out"],
    );
}

#[test]
fn a_channel_that_no_host_name_can_show_is_warned_of_with_the_name_to_use() {
    let site = Site::live_with(&[("index.html", "home")]);
    for (name, free) in [
        ("PR-17", "pr-17"),
        ("v1.2", "v1-2"),
        ("my_branch", "my-branch"),
    ] {
        let [said] = &warnings(&site, &["channel", "set", name, "live"])[..] else {
            panic!("one warning")
        };
        mentions(
            said,
            &[name, "host name", &format!("'deployfs channel set {free}'")],
        );
        assert_eq!(warnings(&site, &["channel", "set", free, "live"]), [""; 0]);
    }
    let out = site.run(["channel", "set", "PR-18", "live"]);
    mentions(
        &stderr(&out),
        &["deployfs: 'PR-18' is no label of a host name"],
    );
    assert!(out.status.success());
}

#[test]
fn a_staging_folder_names_its_store_and_a_folder_with_the_store_in_it_is_not_deployed() {
    let site = Site::unmounted();
    let staged = site.stage("v1", &[("sub/index.html", "home")]);
    for here in [staged.clone(), staged.join("sub")] {
        let out = std::process::Command::new(DEPLOYFS)
            .args(["status", "--json"])
            .env_remove("DEPLOYFS_STORE")
            .current_dir(here)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        mentions(&stdout(&out), &[text(&site.store)]);
    }
    let out = std::process::Command::new(DEPLOYFS)
        .args(["seal", "v1"])
        .env_remove("DEPLOYFS_STORE")
        .current_dir(&staged)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    // The store lies beside the mount point, in a folder that somebody takes for the build.
    let around = site.store.parent().unwrap().to_owned();
    let said = site.refused_whole(1, ["deploy", text(&around)]);
    mentions(&said, &["holds the store", text(&site.store), "alone"]);
}

#[test]
fn texts_of_others_cannot_steer_a_terminal_or_turn_its_lines_around() {
    let site = Site::live_with(&[("index.html", "home")]);
    let evil = "evil\u{202e}\u{2066}\u{1b}[31mtxt\u{2028}\u{200f}\u{9b}2J\u{7f}";
    let dir = site.beside("build");
    write_files(
        &dir,
        &[("index.html", "two"), (&format!("{evil}.html"), "x")],
    );
    let id = site.ok([
        "deploy",
        text(&dir),
        "-m",
        evil,
        "--meta",
        &format!("key={evil}"),
    ]);
    site.ok(["channel", "set", "pr-1", &id, "-m", evil]);
    site.ok(["pin", &id, "-m", evil]);
    site.ok(["lock", "-m", evil]);
    let deceptive = |text: &str| {
        text.contains(|letter: char| {
            letter != '\n'
                && letter != '\t'
                && (letter.is_control() || "\u{202e}\u{2066}\u{2028}\u{200f}".contains(letter))
        })
    };
    for args in [
        &["list"][..],
        &["log"],
        &["show", &id],
        &["status"],
        &["channel", "list"],
        &["diff", "live", &id],
        &["activate", &id],
        &["activate", evil],
        &["rm", &id],
        &["du"],
        &["prune", "--keep", "1", "--dry-run"],
        &["channel", "set", "a\u{202e}b", &id],
        &["list", "--json"],
        &["log", "--json"],
        &["show", &id, "--json"],
        &["status", "--json"],
        &["channel", "list", "--json"],
        &["diff", "live", &id, "--json"],
    ] {
        let out = site.run(args.iter().copied());
        for said in [stdout(&out), stderr(&out)] {
            assert!(!deceptive(&said), "{args:?}: {said:?}");
        }
    }
    assert_eq!(site.json(["show", &id])["message"], evil);
}
