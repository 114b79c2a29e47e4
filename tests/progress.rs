//! Long commands show how far they have come: a bar on a terminal, else plain lines, and none for short work.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deployfs::deploy::Deployfs;
use deployfs::model::report::{Progress, Request};
use deployfs::users::this_process;

use crate::support::*;

/// Runs the program on a terminal of its own; what that showed.
fn on_terminal(site: &Site, words: &str) -> String {
    let out = Command::new("script")
        .args(["-qec", &format!("{DEPLOYFS} {words}"), "/dev/null"])
        .env("DEPLOYFS_STORE", &site.store)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = stdout(&out);
    assert!(out.status.success(), "{words}: {shown}{}", stderr(&out));
    shown
}

fn archive(site: &Site) -> String {
    let dir = site.beside("build");
    write_files(&dir, &[("index.html", "a page")]);
    let path = site.beside("site.tar");
    sh(&format!(
        "tar -C {} -cf {} .",
        dir.display(),
        path.display()
    ));
    text(&path).to_owned()
}

#[test]
fn every_long_command_has_a_bar_on_a_terminal_and_none_elsewhere() {
    let site = Site::new();
    let tar = archive(&site);
    let build = site.beside("build");
    let build = text(&build);
    let export = site.beside("site.dpl");
    let export = text(&export);
    let (name, mnt) = ("a", text(&site.mnt).to_owned());
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (line, shown) in [
        (format!("seal {name} --activate"), "sealing"),
        (format!("deploy {build}"), "sealing"),
        (format!("deploy --tar {tar}"), "unpacking"),
        ("verify".into(), "verifying"),
        ("fsck --read-data".into(), "checking"),
        ("fsck".into(), "checking"),
        (format!("import {export}"), "importing"),
        ("gc".into(), "looking for space"),
        ("gc --dry-run".into(), "looking for space"),
        ("prune --keep 10".into(), "looking for space"),
        (format!("umount {mnt}"), "waiting for the daemon's end"),
    ] {
        if line.starts_with("seal") {
            site.stage(name, &[("index.html", "x")]);
        }
        if line.starts_with("import") {
            let shown = on_terminal(&site, &format!("export live > {export}"));
            mentions(&shown, &["exporting", "\x1b["]);
        }
        let terminal = on_terminal(&site, &line);
        mentions(&terminal, &[shown, "\x1b["]);
        if line.starts_with("seal") {
            site.stage(name, &[("index.html", "x")]);
        }
        if line.starts_with("umount") {
            site.mount(&[]);
        }
        let args = words(&line);
        let out = site.run(args.iter().map(String::as_str));
        let said = stderr(&out);
        assert!(out.status.success(), "{line}: {said}");
        let is_plain = !said.contains(['\r', '\x1b']) && !said.contains(&format!("{shown}:"));
        assert!(is_plain, "{line}: {said:?}");
    }
}

#[test]
fn work_that_takes_long_without_a_terminal_says_so_in_plain_lines() {
    let site = Site::unmounted();
    let dir = site.beside("build");
    for number in 0..700 {
        write_files(&dir, &[(&format!("{number}.html"), "x")]);
    }
    let archive = site.beside("site.tar");
    sh(&format!(
        "tar -C {} -cf {} .",
        dir.display(),
        archive.display()
    ));
    let bytes = std::fs::read(archive).unwrap();
    let mut push = site
        .command(["deploy", "--tar", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = push.stdin.take().unwrap();
    let (first, rest) = bytes.split_at(bytes.len() / 10);
    stdin.write_all(first).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    stdin.write_all(rest).unwrap();
    drop(stdin);
    let out = push.wait_with_output().unwrap();
    let said = stderr(&out);
    assert!(out.status.success(), "{said}");
    mentions(&said, &["unpacking: ", " entries\n"]);
    assert!(!said.contains(['\r', '\x1b']), "{said:?}");
}

#[test]
fn a_verify_ends_in_the_middle_of_a_deploy_when_it_is_interrupted() {
    let site = Site::unmounted();
    let dir = site.beside("build");
    for number in 0..40 {
        write_noise(&dir.join(number.to_string()), number, 1 << 20);
    }
    site.deploy(&dir);
    let flow = Deployfs::open_read_only(&site.store).unwrap();
    let cancel = AtomicBool::new(false);
    let told = Mutex::new(Vec::new());
    let progress = |state: Progress| {
        told.lock().unwrap().push(state);
        cancel.store(true, Ordering::SeqCst);
    };
    let verify = Request::Verify { target: None };
    let failure = flow
        .run(&verify, &this_process(), &progress, &cancel)
        .unwrap_err();
    mentions(&failure.message, &["interrupted"]);
    let told = told.into_inner().unwrap();
    assert_eq!((told.len(), told[0].bytes), (1, 0));
    assert_eq!(told[0].bytes_total, 40 << 20);
}

/// Between the program and its start: a daemon in the background waits this long first, as one with much to recover does.
const SLOW_DAEMON: &str = r#"
    #define _GNU_SOURCE
    #include <fcntl.h>
    #include <string.h>
    #include <unistd.h>
    __attribute__((constructor)) static void wait_first(void) {
        char words[4096];
        int file = open("/proc/self/cmdline", O_RDONLY);
        ssize_t len = read(file, words, sizeof words);
        close(file);
        if (len > 0 && memmem(words, len, "--background", 12)) sleep(3);
    }
"#;

#[test]
fn mount_says_what_it_waits_for_and_nothing_when_it_is_short() {
    need_fuse();
    let site = Site::unmounted();
    let library = library(&site.beside(""), SLOW_DAEMON);
    let mount = || {
        let mut command = Command::new(DEPLOYFS);
        command.arg("mount").args([&site.store, &site.mnt]);
        command.stdin(Stdio::null());
        command
    };
    let out = mount().output().unwrap();
    assert_eq!((out.status.success(), stderr(&out)), (true, String::new()));
    site.umount();
    let out = mount().env("LD_PRELOAD", &library).output().unwrap();
    let said = "waiting for the daemon to open the store …\n".to_owned();
    assert_eq!((out.status.success(), stderr(&out)), (true, said));
}
