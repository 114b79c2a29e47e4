//! `deploy --tar-from`: the archive of a program that fails is refused whole, also where the archive itself is complete.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::*;

fn build(site: &Site) -> PathBuf {
    let dir = site.beside("a build");
    write_files(
        &dir,
        &[("index.html", "a page"), ("sub/[slug] #1?.html", "a route")],
    );
    dir
}

fn tar(dir: &Path) -> String {
    format!("tar -C '{}' -cf - .", dir.display())
}

#[test]
fn the_archive_of_a_program_that_ends_well_has_the_id_of_its_folder() {
    let site = Site::new();
    let dir = build(&site);
    let id = site.deploy(&dir);
    let plain = tar(&dir);
    for command in [
        plain.clone(),
        format!("{plain} | gzip"),
        format!("sleep 0.2; {plain}; sleep 0.2"),
        format!("exec {plain}"),
        format!("sh -c \"{plain}\""),
    ] {
        assert_eq!(site.ok(["deploy", "--tar-from", &command]), id, "{command}");
    }
    site.ok(["deploy", "--tar-from", &plain, "--activate", "-m", "pulled"]);
    assert_eq!(site.read("sub/[slug] #1?.html"), "a route");
    assert_eq!(site.json(["status"])["staging"], serde_json::json!([]));
}

#[test]
fn p10_the_complete_archive_of_a_program_that_fails_is_refused_whole() {
    for site in [Site::live_with(&[("index.html", "old")]), Site::unmounted()] {
        let dir = build(&site);
        let plain = tar(&dir);
        for (command, how) in [
            (format!("{plain}; exit 2"), "exit code 2"),
            (format!("{plain}; sleep 0.3; exit 7"), "exit code 7"),
            (format!("({plain}; exit 2) | gzip"), "exit code 2"),
            (format!("{plain}; kill -9 $$"), "signal 9"),
            ("exit 3".into(), "exit code 3"),
            ("no-such-program-here".into(), "exit code 127"),
            (format!("{plain} | head -c 700; exit 5"), "exit code 5"),
        ] {
            let said = site.refused_whole(1, ["deploy", "--tar-from", &command, "--activate"]);
            mentions(&said, &["nothing was deployed", how, &command]);
        }
        for (command, what) in [
            (format!("{plain} > /dev/null"), "empty"),
            (format!("{plain} | head -c 700 || :; true"), "too early"),
            ("echo no archive; sleep 0.1".into(), "too early"),
        ] {
            let said = site.refused_whole(1, ["deploy", "--tar-from", &command]);
            mentions(
                &said,
                &["the archive is refused and nothing was deployed", what],
            );
        }
    }
}

#[test]
fn p10_a_file_that_tar_cannot_read_is_in_no_deploy_and_what_tar_says_is_shown() {
    let site = Site::unmounted();
    site.mount(&["--control-group", "nogroup"]);
    let dir = build(&site);
    write_files(&dir, &[("secret.html", "unreadable")]);
    fs::set_permissions(dir.join("secret.html"), fs::Permissions::from_mode(0o600)).unwrap();
    let command = tar(&dir);
    let mut run = site.command(["deploy", "--tar-from", &command, "--activate"]);
    let out = nobody(&mut run).output().unwrap();
    let said = refusal(&out, 1);
    mentions(
        &said,
        &[
            "secret.html: Cannot open",
            "exit code 2",
            "nothing was deployed",
        ],
    );
    assert_eq!(site.json(["list"]), serde_json::json!([]));
    assert_eq!(site.json(["status"])["staging"], serde_json::json!([]));
}

#[test]
fn p10_an_interrupted_command_ends_its_program_and_all_that_the_program_started() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let site = Site::new();
        let before = site.state();
        let pids = site.beside("pids");
        let command = format!(
            "sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait",
            pids.display()
        );
        let child = site
            .command(["deploy", "--tar-from", &command])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = || {
            fs::read_to_string(&pids)
                .unwrap_or_default()
                .lines()
                .count()
                == 2
        };
        wait_for("the program", started);
        let asked = Instant::now();
        kill(child.id() as i32, signal);
        let out = child.wait_with_output().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10));
        mentions(&refusal(&out, 1), &["interrupted", "nothing was deployed"]);
        for pid in fs::read_to_string(&pids).unwrap().lines() {
            let stat = format!("/proc/{pid}/stat");
            wait_for("the program's end", || {
                fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z"))
            });
        }
        assert_eq!(site.state(), before);
    }
}

#[test]
fn a_refused_archive_ends_a_program_that_goes_on_writing() {
    let site = Site::new();
    let started = Instant::now();
    let said = site.refused(1, ["deploy", "--tar-from", "yes"]);
    mentions(&said, &["no tar archive"]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_origin_is_named_and_an_archive_in_the_place_of_a_folder_gets_a_remedy() {
    let site = Site::new();
    let dir = build(&site);
    let archive = site.beside("site.tgz");
    sh(&format!(
        "tar -C '{}' -czf {} .",
        dir.display(),
        archive.display()
    ));
    for args in [
        ["deploy", "--tar", "x", "--tar-from", "y"].as_slice(),
        &["deploy", text(&dir), "--tar-from", "y"],
        &["deploy", "--max-bytes", "5G", text(&dir)],
        &["deploy"],
    ] {
        let out = site.run(args.iter().copied());
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", stderr(&out));
    }
    let said = site.refused_whole(1, ["deploy", text(&archive)]);
    mentions(
        &said,
        &[
            "is a file",
            &format!("deployfs deploy --tar {}", text(&archive)),
        ],
    );
    assert_eq!(
        site.ok(["deploy", "--tar", text(&archive)]),
        site.deploy(&dir)
    );
}
