//! Several people and one site: locks, conditions of an activation, checks before it, the hook after it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::*;

/// A site whose second deploy is live.
fn two_deploys(mounted: bool) -> (Site, String, String) {
    let site = match mounted {
        true => Site::new(),
        false => Site::unmounted(),
    };
    let one = site.seal(&[("index.html", "one"), ("old.html", "old")]);
    let two = site.seal(&[("index.html", "two"), ("new.html", "new")]);
    site.activate(&one);
    site.activate(&two);
    (site, one, two)
}

fn live(site: &Site) -> Value {
    site.json(["status"])["live"].clone()
}

fn last(site: &Site) -> Value {
    site.json(["log"])
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone()
}

/// Writes the hook; `mode` is the file's.
fn hook(site: &Site, script: &str, mode: u32) -> PathBuf {
    let folder = site.store.join("hooks");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("post-activate");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_lock_says_who_why_since_when_and_until_and_holds_activate_and_rollback() {
    for mounted in [true, false] {
        let (site, one, two) = two_deploys(mounted);
        site.refused(1, ["unlock"]);
        site.refused(1, ["lock", "-m", " "]);
        let lock = site.json(["lock", "-m", "measuring", "--until", "2h"]);
        let until = lock["until"].as_u64().unwrap();
        assert_eq!(until, lock["since"].as_u64().unwrap() + 7200);
        let words = [
            "root",
            "measuring",
            "since 20",
            "until 20",
            "unlock",
            "--override-lock",
        ];
        for args in [
            ["activate", &one],
            ["activate", &two],
            ["rollback", "--json"],
        ] {
            mentions(&site.refused_whole(3, args), &words);
        }
        // Nobody's reason is lost to another's.
        mentions(&site.refused(3, ["lock", "-m", "mine"]), &words[..2]);
        mentions(&site.ok(["status"]), &["locked    by root", "measuring"]);
        assert_eq!(site.json(["status"])["lock"], lock);
        // Everything else goes on.
        site.seal(&[("index.html", "three")]);

        site.ok(["activate", &one, "--override-lock"]);
        assert_eq!(
            (live(&site), last(&site)["overrides"].clone()),
            (json!(one), lock["seq"].clone())
        );
        assert!(
            site.ok(["log"])
                .contains(&format!("[over lock {}]", lock["seq"]))
        );
        site.ok(["unlock", "-m", "done"]);
        assert_eq!(last(&site)["message"], "done");
        assert_eq!(site.json(["status"])["lock"], Value::Null);
        site.ok(["activate", &two, "--override-lock"]);
        assert_eq!(
            last(&site)["overrides"],
            Value::Null,
            "there was no lock to pass over"
        );
        site.ok(["rollback"]);
    }
}

#[test]
fn a_lock_whose_time_is_over_holds_nothing() {
    let (site, one, _) = two_deploys(true);
    refusal(
        &site.run(["lock", "-m", "x", "--until", "2020-01-01T00:00:00Z"]),
        2,
    );
    refusal(&site.run(["lock", "-m", "x", "--until", "soon"]), 2);
    site.ok(["lock", "-m", "for a moment", "--until", "1s"]);
    wait_for("the lock's end", || site.json(["status"])["lock"].is_null());
    site.activate(&one);
    site.refused(1, ["unlock"]);
    site.ok(["lock", "-m", "the next one"]);
}

#[test]
fn a_check_sees_the_sealed_tree_before_anybody_else_does() {
    let (site, one, two) = two_deploys(true);
    let out = site.run([
        "activate",
        "previous",
        "--check",
        "cat \"$DEPLOYFS_ROOT/index.html\"; echo \" of $DEPLOYFS_ID\"; test \"$(cat live/index.html)\" = two",
    ]);
    assert!(
        !out.status.success(),
        "its working directory is the caller's"
    );
    let check = format!(
        "cat \"$DEPLOYFS_ROOT/index.html\"; echo \" of $DEPLOYFS_ID\"; test \"$(cat {}/live/index.html)\" = two",
        text(&site.mnt)
    );
    let out = site.run(["activate", "previous", "--check", &check]);
    assert!(out.status.success(), "{}", stderr(&out));
    // What it prints is no answer of the command.
    assert_eq!(stdout(&out), format!("{one}\n"));
    mentions(&stderr(&out), &[&format!("one of {one}")]);
    assert_eq!(live(&site), json!(one));

    for check in ["exit 7", "kill -9 $$", "no-such-command-here"] {
        let said = site.refused_whole(3, ["activate", &two, "--check", check]);
        mentions(&said, &["the check of", &two, "nothing was changed"]);
    }
    site.umount();
    mentions(
        &site.refused(1, ["activate", &two, "--check", "true"]),
        &["deployfs mount"],
    );
}

#[test]
fn a_command_that_is_killed_during_its_check_changes_nothing() {
    let (site, one, two) = two_deploys(true);
    let began = site.beside("began");
    let check = format!("touch {}; exec sleep 3", text(&began));
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let mut command = site.command(["activate", &one, "--check", &check]);
        let mut child = command.spawn().unwrap();
        wait_for("the check", || began.exists());
        kill(child.id() as i32, signal);
        assert!(!child.wait().unwrap().success());
        fs::remove_file(&began).unwrap();
    }
    // The orphaned checks have ended by then, and nobody has acted on them.
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(live(&site), json!(two));
}

#[test]
fn what_became_live_during_a_check_is_not_overwritten() {
    let (site, one, two) = two_deploys(true);
    let three = site.seal(&[("index.html", "three")]);
    let faster = format!("{DEPLOYFS} activate {three}");
    let said = site.refused(3, ["activate", &one, "--check", &faster]);
    mentions(&said, &[&three, &two]);
    assert_eq!(live(&site), json!(three));
    // A wrong expectation is told before the check is run at all.
    let ran = site.beside("ran");
    let check = format!("touch {}", text(&ran));
    site.refused(3, ["activate", &one, "--if-live", &two, "--check", &check]);
    site.ok(["lock", "-m", "x"]);
    site.refused(3, ["activate", &one, "--check", &check]);
    assert!(!ran.exists());
    // What was named by a moving word is what was checked.
    site.ok(["unlock"]);
    let moving = format!("test $DEPLOYFS_ID = {two}");
    assert_eq!(site.ok(["activate", "previous", "--check", &moving]), two);
}

#[test]
fn seal_and_deploy_go_live_at_once_under_the_same_conditions() {
    let (site, _, two) = two_deploys(true);
    let build = site.beside("build");
    write_files(
        &build,
        &[
            ("index.html", "three!"),
            ("new.html", "new"),
            ("more.html", "12"),
        ],
    );
    site.refused(2, ["deploy", text(&build), "--check", "true"]);
    refusal(
        &site.run(["deploy", text(&build), "--dry-run", "--activate"]),
        2,
    );

    // Refused to go live, it is sealed all the same, and its id is told.
    let out = site.run([
        "deploy",
        text(&build),
        "--activate",
        "--check",
        "false",
        "--json",
    ]);
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let three = report["deploy_id"].as_str().unwrap();
    assert_eq!((&report["live"], live(&site)), (&json!(false), json!(two)));
    let path = report["deploy_path"].as_str().unwrap();
    assert_eq!(path, text(&site.path("deploys").join(three)));
    assert_eq!(
        fs::read_to_string(format!("{path}/more.html")).unwrap(),
        "12"
    );
    assert_eq!(
        report["changes"],
        json!({
            "against": two,
            "added": { "files": 1, "bytes": 2 },
            "changed": { "files": 1, "bytes": 6 },
            "removed": { "files": 0, "bytes": 0 },
            "permissions": { "files": 0, "bytes": 0 },
        })
    );

    site.stage("next", &[("index.html", "four")]);
    let check = "grep -q four \"$DEPLOYFS_ROOT/index.html\"";
    let report = site.json([
        "seal",
        "next",
        "--activate",
        "--if-live",
        &two,
        "--check",
        check,
    ]);
    assert_eq!(
        (&report["live"], &report["deploy_id"]),
        (&json!(true), &live(&site))
    );
    assert_eq!(
        report["changes"]["removed"],
        json!({ "files": 1, "bytes": 3 })
    );
    let empty = Site::unmounted();
    empty.stage("first", &[("a/b", "12"), ("c", "3")]);
    let report = empty.json(["seal", "first"]);
    assert_eq!(
        (&report["deploy_path"], &report["live"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(report["changes"]["against"], Value::Null);
    assert_eq!(
        report["changes"]["added"],
        json!({ "files": 2, "bytes": 3 })
    );
}

#[test]
fn the_hook_is_told_what_changed_after_the_flip() {
    for mounted in [true, false] {
        let (site, one, two) = two_deploys(mounted);
        let told = site.beside("told");
        // A hook that comes late still hears of the activations before.
        let told_of = |id: &str| fs::read_to_string(&told).is_ok_and(|text| text.starts_with(id));
        let script = format!(
            "{{ echo $DEPLOYFS_ID $DEPLOYFS_BEFORE_ID $DEPLOYFS_CHANNEL $DEPLOYFS_VERB $DEPLOYFS_ACTOR $DEPLOYFS_MESSAGE; \
             {DEPLOYFS} status --json | grep '\"live\"'; tr '\\0' '\\n'; }} > {0}.part; mv {0}.part {0}",
            text(&told)
        );
        hook(&site, &script, 0o755);
        let odd = site.beside("odd");
        write_files(
            &odd,
            &[
                ("new.html", "new"),
                ("a b\n.html", "x"),
                ("dir/index.html", "y"),
            ],
        );
        let three = site.deploy(&odd);
        site.ok(["activate", &three, "-m", "purge it"]);
        wait_for("the hook", || told_of(&three));
        assert_eq!(
            fs::read_to_string(&told).unwrap(),
            format!(
                "{three} {two} live activate root purge it\n  \"live\": \"{three}\",\n\
                 a b\n.html\ndir/index.html\nindex.html\n"
            )
        );
        // Where nothing was flipped there is nothing to tell.
        site.activate(&three);
        site.ok(["rollback", "--to", &one]);
        wait_for("the hook", || told_of(&one));
        assert!(
            fs::read_to_string(&told)
                .unwrap()
                .starts_with(&format!("{one} {three} live rollback"))
        );
        if mounted {
            wait_for("its end is noted", || {
                site.json(["status"])["hook"]["deploy_id"] == json!(one)
            });
            assert_eq!(site.json(["status"])["hook"]["problem"], Value::Null);
        }
    }
}

#[test]
fn a_hook_that_fails_hangs_or_is_not_to_be_trusted_never_undoes_the_flip() {
    let (site, one, two) = two_deploys(false);
    let out = site
        .command(["mount", text(&site.store), text(&site.mnt)])
        .env("DEPLOYFS_HOOK_SECONDS", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let problem = || {
        site.json(["status"])["hook"]["problem"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let try_it = |words: &[&str]| {
        let target = if live(&site) == json!(one) {
            &two
        } else {
            &one
        };
        site.activate(target);
        assert_eq!(live(&site), json!(target));
        wait_for("the hook's failure", || {
            words.iter().all(|word| problem().contains(word))
        });
        mentions(&site.ok(["status"]), &["hook      failed", target]);
        let log = fs::read_to_string(site.store.join("daemon.log")).unwrap();
        mentions(&log, words);
    };
    hook(&site, "exit 3", 0o755);
    try_it(&["exit status: 3"]);
    // It has a grandchild, which goes with it; activating does not wait for it.
    let path = hook(
        &site,
        "sleep 1000 & echo $! > \"$DEPLOYFS_STORE/../pid\"; wait",
        0o755,
    );
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    try_it(&["after 1 seconds"]);
    assert!(
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - started
            < std::time::Duration::from_secs(20)
    );
    let pid = fs::read_to_string(site.beside("pid")).unwrap();
    wait_for("its grandchild's end", || !is_running(pid.trim()));

    hook(&site, "touch \"$DEPLOYFS_STORE/../ran\"", 0o777);
    try_it(&["post-activate", "written by others"]);
    hook(&site, "touch \"$DEPLOYFS_STORE/../ran\"", 0o644);
    try_it(&["not an executable file"]);
    hook(&site, "touch \"$DEPLOYFS_STORE/../ran\"", 0o755);
    chown(&path, Some(65534), None).unwrap();
    try_it(&["post-activate", "belongs to user 65534"]);
    chown(&path, Some(0), None).unwrap();
    let folder = site.store.join("hooks");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o775)).unwrap();
    try_it(&["hooks", "chmod go-w"]);
    assert!(!site.beside("ran").exists());
    // No child is left behind as a zombie.
    let pid = site.daemon_pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children, "");
}

/// True where the process exists and is no zombie that its adoptive parent has not reaped yet.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
