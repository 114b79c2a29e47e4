//! P10: ids, stores, mount points and words that cannot be meant. Each refusal names what it is about and the remedy.

use std::fs;

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "a page");

#[test]
fn p10_an_id_that_no_deploy_has_is_refused_by_every_command() {
    let site = Site::live_with(&[PAGE]);
    let build = site.beside("build");
    write_files(&build, &[("new.html", "new")]);
    let rubbish = [
        "ffffffffffffffff",
        "xyz",
        "",
        "-",
        "LIVE",
        "live ",
        "../live",
        "é",
        "0123456789abcdef0",
    ];
    for id in rubbish {
        let commands = [
            vec!["activate", "--", id],
            vec!["rollback", "--to", id],
            vec!["show", "--", id],
            vec!["diff", "--", "live", id],
            vec!["diff", "--", id, "live"],
            vec!["verify", "--", id],
            vec!["deploy", text(&build), "--from", id],
        ];
        for args in commands {
            let said = site.refused_whole(1, args);
            mentions(&said, &[&format!("'{id}'"), "deployfs list"]);
        }
    }
}

#[test]
fn p10_a_prefix_of_several_ids_is_refused_with_all_of_them() {
    let site = Site::new();
    // Of 17 ids, two start with the same digit.
    let mut ids: Vec<String> = (0..17)
        .map(|n| site.seal(&[("n", &n.to_string())]))
        .collect();
    ids.sort();
    let twice = ids
        .windows(2)
        .find(|pair| pair[0][..1] == pair[1][..1])
        .unwrap();
    let digit = &twice[0][..1];
    let all: Vec<&str> = ids
        .iter()
        .map(String::as_str)
        .filter(|id| id.starts_with(digit))
        .collect();
    for command in ["activate", "show", "verify"] {
        let said = site.refused_whole(1, [command, digit]);
        mentions(&said, &[&format!("'{digit}' is ambiguous"), "more digits"]);
        mentions(&said, &all);
    }
    // One more digit than they share is enough.
    let shared = twice[0]
        .bytes()
        .zip(twice[1].bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let unique = &twice[0][..=shared];
    if all.iter().filter(|id| id.starts_with(unique)).count() == 1 {
        assert_eq!(site.ok(["activate", unique]), twice[0]);
    }
}

#[test]
fn p10_live_and_previous_are_refused_while_there_are_none() {
    let site = Site::new();
    mentions(
        &site.refused_whole(1, ["show", "live"]),
        &["nothing is live yet"],
    );
    let id = site.seal(&[PAGE]);
    mentions(
        &site.refused_whole(1, ["activate", "live"]),
        &["activate a deploy first"],
    );
    mentions(
        &site.refused_whole(1, ["rollback"]),
        &["no previous deploy", "deployfs log"],
    );
    site.activate(&id);
    mentions(
        &site.refused_whole(1, ["rollback"]),
        &["no previous deploy", "deployfs log"],
    );
    mentions(&site.refused_whole(1, ["diff"]), &["no previous deploy"]);
}

#[test]
fn p10_a_store_of_a_newer_format_is_refused_by_every_command_and_left_as_it_is() {
    let site = Site::unmounted();
    let build = site.beside("build");
    write_files(&build, &[PAGE]);
    site.deploy(&build);
    let format = site.store.join("format");
    let uuid = fs::read_to_string(&format)
        .unwrap()
        .replacen("deployfs 1", "deployfs 2", 1);
    fs::write(&format, uuid).unwrap();
    let before = facts(&site.store);
    let commands = [
        vec!["list"],
        vec!["create"],
        vec!["deploy", text(&build)],
        vec!["activate", "live"],
        vec!["fsck"],
    ];
    for args in commands {
        let said = site.refused(1, args);
        mentions(
            &said,
            &[text(&site.store), "'deployfs 2'", "use a newer deployfs"],
        );
    }
    assert_eq!(facts(&site.store), before);
    let said = refusal(&site.try_mount(&[]), 1);
    mentions(&said, &[text(&site.store), "'deployfs 2'"]);
    assert!(!is_mounted(&site.mnt));
}

#[test]
fn p10_what_is_no_store_is_refused() {
    let site = Site::without_a_store();
    let folder = site.beside("folder");
    write_files(&folder, &[("x", "x")]);
    for args in [vec!["list"], vec!["create"], vec!["status"]] {
        let args: Vec<&str> = ["--store", text(&folder)].into_iter().chain(args).collect();
        let said = site.refused(1, args);
        mentions(
            &said,
            &[text(&folder), "not a deployfs store", "deployfs init"],
        );
    }
    let said = site.refused(1, ["list"]);
    mentions(&said, &[text(&site.store)]);
    let file = folder.join("x");
    mentions(
        &site.refused(1, ["--store", text(&file), "list"]),
        &[text(&file)],
    );
    let mount = deployfs(["mount", text(&folder), text(&site.mnt)]);
    mentions(
        &refusal(&mount, 1),
        &[text(&folder), "not a deployfs store"],
    );
    assert!(!is_mounted(&site.mnt));
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        1,
        "nothing is left there"
    );
}

#[test]
fn p10_a_command_that_does_not_know_its_store_is_wrong_usage() {
    let mut command = std::process::Command::new(DEPLOYFS);
    command
        .arg("list")
        .env_remove("DEPLOYFS_STORE")
        .current_dir("/");
    let out = command.output().unwrap();
    mentions(
        &refusal(&out, 2),
        &[
            "--store",
            "DEPLOYFS_STORE",
            "Nothing is mounted at or above '/'",
        ],
    );
}

#[test]
fn p10_init_refuses_a_folder_with_something_in_it() {
    let site = Site::unmounted();
    let before = facts(&site.store);
    let out = deployfs(["init", text(&site.store)]);
    mentions(&refusal(&out, 1), &[text(&site.store), "not empty"]);
    assert_eq!(facts(&site.store), before);
}

#[test]
fn p10_a_store_that_a_daemon_has_is_not_mounted_a_second_time() {
    let site = Site::live_with(&[PAGE]);
    let second = site.beside("second");
    fs::create_dir(&second).unwrap();
    let before = site.state();
    let out = deployfs(["mount", text(&site.store), text(&second)]);
    let pid = format!("process {}", site.daemon_pid());
    mentions(&refusal(&out, 1), &[text(&site.store), "in use", &pid]);
    assert!(!is_mounted(&second));
    assert_eq!(site.state(), before);
    assert_eq!(site.read("index.html"), "a page");
}

#[test]
fn p10_a_store_that_is_locked_for_long_is_refused_with_its_holder() {
    use rustix::fs::{FlockOperation, flock};
    let site = Site::unmounted();
    let lock = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(site.store.join("lock"));
    let lock = lock.unwrap_or_else(|_| fs::File::create(site.store.join("lock")).unwrap());
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    fs::write(site.store.join("lock"), "4711").unwrap();
    mentions(
        &site.refused(1, ["create"]),
        &[text(&site.store), "in use by process 4711"],
    );
    // Who only looks needs no lock.
    site.ok(["list"]);
    drop(lock);
    site.ok(["create"]);
}

#[test]
fn p10_a_mountpoint_that_is_no_empty_folder_is_refused_and_the_store_stays_free() {
    let site = Site::unmounted();
    let refuse = |path: &std::path::Path, words: &[&str]| {
        let out = deployfs(["mount", text(&site.store), text(path)]);
        let said = refusal(&out, 1);
        mentions(&said, &[text(path)]);
        mentions(&said, words);
        site.ok(["abort", site.ok(["create"]).rsplit('/').next().unwrap()]);
    };
    let file = site.beside("file");
    fs::write(&file, "x").unwrap();
    refuse(
        &file,
        &["not a directory", "give an existing, empty directory"],
    );
    refuse(
        &site.beside("missing"),
        &["give an existing, empty directory"],
    );
    let full = site.beside("full");
    write_files(&full, &[("x", "x")]);
    refuse(&full, &["not empty", "give another directory"]);
    assert_eq!(fs::read_to_string(full.join("x")).unwrap(), "x");

    let other = Site::live_with(&[PAGE]);
    refuse(&other.mnt, &["mount point already", "unmount it first"]);
    assert_eq!(other.read("index.html"), "a page");
    let tmpfs = Mounted::tmpfs(&site.beside("tmpfs"));
    refuse(&tmpfs.0, &["(tmpfs)", "unmount it first"]);
}

#[test]
fn p10_unmounting_what_is_no_mount_of_ours_is_refused() {
    let site = Site::unmounted();
    for path in ["/", "/proc", text(&site.mnt), text(&site.beside("missing"))] {
        let out = deployfs(["umount", path]);
        mentions(&refusal(&out, 1), &[path, "not a deployfs mount"]);
    }
}

#[test]
fn p10_wrong_usage_is_exit_code_2_and_changes_nothing() {
    let site = Site::live_with(&[PAGE]);
    let before = site.state();
    let commands = [
        vec![],
        vec!["no-such-command"],
        vec!["seal"],
        vec!["seal", "../escape"],
        vec!["create", ".sealing"],
        vec!["create", "a/b"],
        vec!["seal", "v2", "--meta", "no-value"],
        vec!["activate"],
        vec!["activate", "live", "--no-such-option"],
        vec!["deploy", "/tmp", "--delete", "x"],
        vec!["deploy", "/tmp", "--activate", "--dry-run"],
        vec!["mount", text(&site.store)],
        vec!["mount", text(&site.store), text(&site.mnt), "--uid", "root"],
        vec!["completions", "no-such-shell"],
    ];
    for args in commands {
        let said = refusal(&site.run(args.iter().copied()), 2);
        assert!(said.contains("Usage:") || said.contains("--help"), "{said}");
    }
    let other = Site::unmounted();
    let out = other.try_mount(&["--control-group", "no-such-group"]);
    mentions(&stderr(&out), &["no group 'no-such-group'"]);
    assert_eq!(stdout(&out), "");
    assert_eq!(site.state(), before);
}

#[test]
fn p10_a_precondition_that_does_not_hold_is_exit_code_3_and_changes_nothing() {
    let site = Site::new();
    let one = site.seal(&[("index.html", "one")]);
    let two = site.seal(&[("index.html", "two")]);
    let said = site.refused_whole(3, ["activate", &one, "--if-live", &two]);
    mentions(&said, &["no deploy is live", &two, "nothing was changed"]);
    assert_eq!(site.ok(["activate", &one, "--if-live", "none"]), one);
    let said = site.refused_whole(3, ["activate", &two, "--if-live", "none"]);
    mentions(&said, &[&one, "not none"]);
    for wrong in [&two, "ffffffffffffffff", "previous"] {
        let said = site.refused_whole(3, ["activate", &two, "--if-live", wrong]);
        mentions(&said, &[&one, wrong]);
    }
    assert_eq!(site.ok(["activate", &two, "--if-live", &one[..8]]), two);
    mentions(
        &site.refused_whole(3, ["rollback", "--if-live", &one]),
        &[&two],
    );
    assert_eq!(site.ok(["rollback", "--if-live", "live"]), one);
    site.umount();
    mentions(
        &site.refused(3, ["activate", &two, "--if-live", "none"]),
        &[&one],
    );
}
