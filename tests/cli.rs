//! The contract of each command: what it answers with a daemon and without, the fields of its JSON, what it records.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::*;

/// A store with three deploys, sealed and made live one after the other; a mounted one, or one without a daemon.
fn three_deploys(mounted: bool) -> (Site, [String; 3]) {
    let site = Site::unmounted();
    if mounted {
        need_fuse();
        site.mount(&[]);
    }
    let ids = ["one", "two", "three"].map(|word| {
        let id = site.seal(&[("index.html", word), ("css/site.css", "body {}")]);
        site.activate(&id);
        id
    });
    (site, ids)
}

/// The outcome of an activation without its duration, which differs from run to run: none without a daemon.
fn timed(mut report: Value) -> Value {
    let micros = report.as_object_mut().unwrap().remove("flip_micros");
    assert!(micros.is_some_and(|micros| micros.is_u64() || micros.is_null()));
    report
}

/// Does the same with a daemon and without.
fn with_and_without_a_daemon(story: impl Fn(&Site, &[String; 3])) {
    for mounted in [true, false] {
        let (site, ids) = three_deploys(mounted);
        story(&site, &ids);
        site.ok(["fsck", "--read-data"]);
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    let fields = value
        .as_object()
        .unwrap_or_else(|| panic!("no object: {value}"));
    fields.keys().map(String::as_str).collect()
}

/// The README's table of JSON has the fields that a command prints, in the line that begins so.
fn documented(line: &str, document: &Value) {
    let readme = include_str!("../README.md");
    let (_, table) = readme.split_once("\n## JSON\n").unwrap();
    let line = table.lines().find(|row| row.starts_with(line)).expect(line);
    for field in keys(document) {
        assert!(
            line.contains(&format!("`{field}`")),
            "{field} is not in: {line}"
        );
    }
}

fn set<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

/// The history as verbs and deploys, oldest first.
fn story_of(site: &Site) -> Vec<(String, String)> {
    let log = site.json(["log"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = log.as_array().unwrap().iter();
    entries
        .map(|entry| (text(&entry["verb"]), text(&entry["deploy_id"])))
        .collect()
}

fn live(site: &Site) -> String {
    site.json(["status"])["live"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn what_only_looks_answers_the_same_with_a_daemon_and_without() {
    let (site, ids) = three_deploys(true);
    site.stage("next", &[("x", "x")]);
    let commands = [
        vec!["list"],
        vec!["list", "--json"],
        vec!["show", "live"],
        vec!["show", &ids[0], "--json"],
        vec!["diff"],
        vec!["diff", &ids[0], "previous", "--json"],
        vec!["diff", "--stat"],
        vec!["log"],
        vec!["log", "--json"],
        vec!["verify"],
        vec!["verify", "live", "--json"],
        vec!["fsck", "--json"],
        vec!["fsck", "--read-data", "--json"],
    ];
    let answers = || commands.clone().map(|args| site.ok(args));
    let with = answers();
    let mut status = site.json(["status"]);
    site.umount();
    assert_eq!(answers(), with);
    let without = site.json(["status"]);
    assert_eq!(keys(&status), keys(&without));
    for of_the_mount in [
        "mountpoint",
        "daemon_pid",
        "daemon_version",
        "mount_read_only",
        "mount_visible",
        "upcalls",
        "index",
        "mounted_since",
        "caches",
        "disk_free_bytes",
    ] {
        assert_ne!(status[of_the_mount], Value::Null);
        status[of_the_mount] = without[of_the_mount].clone();
    }
    assert_eq!(status, without);
}

#[test]
fn what_changes_answers_and_records_the_same_with_a_daemon_and_without() {
    let tell = |mounted| {
        let (site, ids) = three_deploys(mounted);
        let build = site.beside("build");
        write_files(&build, &[("index.html", "four")]);
        let path = site.ok(["create", "next"]);
        assert_eq!(path, text(&site.staging("next")));
        write_files(Path::new(&path), &[("index.html", "next")]);
        site.ok(["create", "thrown-away"]);
        let answers = [
            site.ok(["seal", "next", "-m", "a message", "--meta", "k=v"]),
            site.ok(["abort", "thrown-away"]),
            site.ok(["deploy", text(&build), "--activate"]),
            site.ok(["deploy", text(&build), "--dry-run"]),
            site.ok(["rollback", "-m", "wrong"]),
            site.ok(["rollback", "--to", &ids[0]]),
            site.ok(["promote", &ids[1][..8]]),
            site.ok(["publish", &ids[2]]),
        ];
        (answers, story_of(&site), live(&site))
    };
    assert_eq!(tell(true), tell(false));
}

#[test]
fn stdout_carries_the_answer_and_nothing_else() {
    let site = Site::without_a_store();
    let silent = |out: &std::process::Output| {
        assert!(out.status.success(), "{}", stderr(out));
        assert_eq!(stdout(out), "");
    };
    silent(&deployfs(["init", text(&site.store)]));
    silent(&site.try_mount(&[]));
    let path = site.ok(["create"]);
    let (folder, name) = path.rsplit_once('/').unwrap();
    assert_eq!(folder, text(&site.store.join("staging")));
    write_files(Path::new(&path), &[("index.html", "x")]);
    let out = site.run(["seal", name]);
    let id = stdout(&out);
    assert!(id.len() == 17 && id.ends_with('\n'), "{id:?}");
    assert!(
        id.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id:?}"
    );
    assert!(
        stderr(&out).starts_with("sealed 1 file (1 B); the store grew by "),
        "{}",
        stderr(&out)
    );
    let out = site.run(["activate", id.trim_end()]);
    assert_eq!(
        (stdout(&out), stderr(&out)),
        (
            id.clone(),
            format!("{} is live (before: nothing)\n", id.trim_end())
        )
    );
    site.ok(["create", "unwanted"]);
    silent(&site.run(["abort", "unwanted"]));
    silent(&site.run(["verify"]));
    silent(&site.run(["fsck"]));
    silent(&deployfs(["umount", text(&site.mnt)]));
}

#[test]
fn json_has_the_fields_that_scripts_read() {
    with_and_without_a_daemon(|site, ids| {
        let dir = site.stage("next", &[("index.html", "next"), ("new.html", "new")]);
        assert_eq!(
            site.json(["create", "other"]),
            json!({ "path": site.staging("other") })
        );
        let sealed = [
            "deploy_id",
            "content_id",
            "existed",
            "dry_run",
            "files",
            "directories",
            "symlinks",
            "bytes",
            "new_chunks",
            "new_bytes",
            "stored_bytes",
            "changes",
            "deploy_path",
            "live",
            "warnings",
        ];
        let report = site.json(["deploy", text(&dir), "--dry-run"]);
        assert_eq!(keys(&report), set(&sealed));
        assert_eq!(
            (&report["dry_run"], &report["existed"]),
            (&json!(true), &json!(false))
        );
        let report = site.json([
            "seal",
            "next",
            "-m",
            "why",
            "--meta",
            "git_sha=1a2b",
            "--meta",
            "ci=7",
        ]);
        assert_eq!(keys(&report), set(&sealed));
        assert_eq!(
            (&report["files"], &report["directories"], &report["bytes"]),
            (&json!(2), &json!(1), &json!(7))
        );
        documented("| `deploy`, `seal`", &report);
        documented("| `changes`", &report["changes"]);
        let next = report["deploy_id"].as_str().unwrap();

        let deploy = [
            "deploy_id",
            "content_id",
            "live",
            "channels",
            "sealed_at",
            "sealed_by",
            "message",
            "meta",
            "files",
            "directories",
            "symlinks",
            "bytes",
            "problem",
            "seals",
            "activated_at",
            "changes",
            "pinned",
        ];
        let list = site.json(["list"]);
        assert_eq!(keys(&list[0]), set(&deploy));
        assert_eq!(list[0]["deploy_id"], next, "the newest comes first");
        assert_eq!(list[3]["deploy_id"], ids[0].as_str());
        let mut show = site.json(["show", next]);
        assert_ne!(
            show["changes"],
            json!(null),
            "only 'show' tells what changed"
        );
        show["changes"] = json!(null);
        assert_eq!(show, list[0]);
        assert_eq!(show["meta"], json!({ "git_sha": "1a2b", "ci": "7" }));
        assert_eq!(show["message"], "why");
        assert_eq!(
            keys(&show["seals"][0]),
            set(&["time", "actor", "message", "meta"])
        );
        assert!(show["content_id"].as_str().unwrap().starts_with(next));
        documented("| `list`", &show);
        documented("| `list`", &show["seals"][0]);

        let activated = timed(site.json(["activate", next]));
        assert_eq!(
            activated,
            json!({ "deploy_id": next, "before": ids[2], "unchanged": false, "warnings": [] })
        );
        documented("| `activate`", &activated);
        let back = timed(site.json(["rollback"]));
        assert_eq!(
            back,
            json!({ "deploy_id": ids[2], "before": next, "unchanged": false, "warnings": [] })
        );

        let mut diff = site.json(["diff", "live", next]);
        let entries = diff.as_array_mut().unwrap();
        entries.sort_by_key(|entry| entry["path"].as_str().unwrap().to_owned());
        assert_eq!(
            diff,
            json!([
                { "path": "css", "path_hex": null, "change": "removed", "old_size": null, "new_size": null },
                { "path": "css/site.css", "path_hex": null, "change": "removed", "old_size": 7, "new_size": null },
                { "path": "index.html", "path_hex": null, "change": "modified", "old_size": 5, "new_size": 4 },
                { "path": "new.html", "path_hex": null, "change": "added", "old_size": null, "new_size": 3 },
            ])
        );
        documented("| `diff`", &diff[0]);
        let log = site.json(["log"]);
        documented("| `log`", &log[0]);
        let channel = site.json(["channel", "set", "preview", next]);
        documented("| `channel set`", &channel);
        documented("| `lock`", &site.json(["lock", "-m", "why"]));
        assert_eq!(
            keys(&log[0]),
            set(&[
                "seq",
                "time",
                "actor",
                "verb",
                "channel",
                "deploy_id",
                "until",
                "overrides",
                "message",
                "meta"
            ])
        );
        assert_eq!(
            (&log[0]["seq"], &log[0]["verb"]),
            (&json!(1), &json!("init"))
        );
        let check = [
            "deploys",
            "objects",
            "chunks",
            "bytes_read",
            "problems",
            "notes",
        ];
        for args in [["verify", "live"], ["fsck", "--read-data"]] {
            let report = site.json(args);
            assert_eq!(keys(&report), set(&check));
            assert_eq!(report["problems"], json!([]));
        }
        let status = [
            "store",
            "uuid",
            "mountpoint",
            "daemon_pid",
            "daemon_version",
            "mounted_since",
            "mount_read_only",
            "mount_visible",
            "stuck",
            "live",
            "live_since",
            "live_by",
            "previous",
            "channels",
            "lock",
            "hook",
            "live_files",
            "live_bytes",
            "deploys",
            "files",
            "logical_bytes",
            "chunks",
            "unique_bytes",
            "pinned",
            "staging",
            "pack_bytes",
            "disk_free_bytes",
            "records",
            "index",
            "last_mtime",
            "upcalls",
            "caches",
            "errors_total",
            "errors",
            "suspects",
            "unreadable",
            "scrub",
        ];
        let report = site.json(["status"]);
        assert_eq!(keys(&report), set(&status));
        assert_eq!(
            (&report["staging"], &report["deploys"]),
            (&json!(["other"]), &json!(4))
        );
        assert_eq!(report["store"], json!(site.store));
    });
}

#[test]
fn a_deploy_is_named_by_its_id_a_unique_prefix_live_or_previous() {
    with_and_without_a_daemon(|site, [_, two, three]| {
        let id = |target: &str| site.json(["show", target])["deploy_id"].clone();
        assert_eq!((id("live"), id("previous")), (json!(three), json!(two)));
        assert_eq!((id(two), id(&two[..12])), (json!(two), json!(two)));
        assert_eq!(site.ok(["activate", "previous"]), *two);
        assert_eq!((id("live"), id("previous")), (json!(two), json!(three)));
        assert_eq!(site.ok(["activate", "live"]), *two);
        assert_eq!(site.ok(["verify", "previous"]), "");
    });
}

#[test]
fn a_second_rollback_goes_further_back_as_in_a_browser() {
    with_and_without_a_daemon(|site, [one, two, three]| {
        assert_eq!(site.ok(["rollback"]), *two);
        assert_eq!(site.ok(["rollback"]), *one);
        site.refused(1, ["rollback"]);
        assert_eq!(live(site), *one);
        assert_eq!(site.ok(["activate", three]), *three);
        assert_eq!(site.ok(["rollback"]), *one);
        // Nothing has gone, and every step is in the history.
        let verbs: Vec<_> = story_of(site).into_iter().skip(7).collect();
        let step = |verb: &str, id: &String| (verb.to_owned(), id.clone());
        let expected = [
            step("rollback", two),
            step("rollback", one),
            step("activate", three),
            step("rollback", one),
        ];
        assert_eq!(verbs, expected);
        assert_eq!(site.json(["list"]).as_array().unwrap().len(), 3);
    });
}

#[test]
fn a_rollback_can_name_where_to_go() {
    with_and_without_a_daemon(|site, [one, two, three]| {
        assert_eq!(
            site.ok(["rollback", "--to", &one[..10], "-m", "prices"]),
            *one
        );
        assert_eq!(live(site), *one);
        let log = site.json(["log"]);
        let last = log.as_array().unwrap().last().unwrap();
        assert_eq!(
            (&last["verb"], &last["message"]),
            (&json!("rollback"), &json!("prices"))
        );
        site.refused(1, ["rollback"]);
        site.activate(two);
        assert_eq!(site.ok(["rollback", "--to", three]), *three);
    });
}

#[test]
fn activating_what_is_live_is_recorded_and_flips_nothing() {
    let (site, [_, two, three]) = three_deploys(true);
    let flips = || site.json(["status"])["upcalls"]["flips"].clone();
    let open = fs::File::open(site.live("")).unwrap();
    let before = (
        story_of(&site).len(),
        flips(),
        open.metadata().unwrap().ino(),
    );
    let report = timed(site.json(["activate", &three, "-m", "once more"]));
    assert_eq!(
        report,
        json!({ "deploy_id": three, "before": three, "unchanged": true, "warnings": [] })
    );
    let inode = fs::metadata(site.live("")).unwrap().ino();
    assert_eq!(
        (story_of(&site).len(), flips(), inode),
        (before.0 + 1, before.1, before.2)
    );
    let show = site.json(["show", "live"]);
    assert_eq!(show["activated_at"].as_array().unwrap().len(), 2);
    // It is no step of the way back either.
    assert_eq!(site.ok(["rollback"]), two);
}

#[test]
fn sealing_the_same_content_again_says_so_and_records_why() {
    with_and_without_a_daemon(|site, [one, ..]| {
        let before = site.json(["status"])["pack_bytes"].clone();
        site.stage(
            "again",
            &[("index.html", "one"), ("css/site.css", "body {}")],
        );
        let out = site.run([
            "seal",
            "again",
            "-m",
            "for the second time",
            "--meta",
            "run=2",
        ]);
        assert_eq!(stdout(&out).trim_end(), one);
        mentions(&stderr(&out), &[&format!("identical to deploy {one}")]);
        assert!(!site.staging("again").exists());
        let show = site.json(["show", one]);
        assert_eq!(show["seals"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&show["seals"][0]["message"], &show["message"]),
            (&json!(""), &json!("for the second time"))
        );
        assert_eq!(show["meta"], json!({ "run": "2" }));
        mentions(&site.ok(["show", one]), &["for the second time", "run=2"]);
        assert_eq!(site.json(["list"]).as_array().unwrap().len(), 3);
        assert_eq!(site.json(["status"])["pack_bytes"], before);
        // A seal without a word takes no word back.
        site.stage(
            "once-more",
            &[("index.html", "one"), ("css/site.css", "body {}")],
        );
        site.ok(["seal", "once-more"]);
        let show = site.json(["show", one]);
        assert_eq!(show["seals"].as_array().unwrap().len(), 3);
        assert_eq!(show["message"], json!("for the second time"));
        assert_eq!(show["meta"], json!({ "run": "2" }));
        mentions(&site.ok(["list"]), &["for the second time"]);
    });
}

#[test]
fn a_folder_is_laid_over_a_deploy() {
    let site = Site::live_with(&[
        ("index.html", "old"),
        ("css/site.css", "body {}"),
        ("css/old.css", "p {}"),
        ("pages/a.html", "a"),
        ("pages/b.html", "b"),
        ("home@", "index.html"),
    ]);
    let fix = site.beside("fix");
    write_files(
        &fix,
        &[
            ("index.html", "new"),
            ("pages/c.html", "c"),
            ("img/x.svg", "<svg/>"),
        ],
    );
    let args = [
        "deploy",
        text(&fix),
        "--from",
        "live",
        "--delete",
        "css/old.css",
        "--delete",
        "/pages/a.html",
    ];
    let id = site.ok(args);
    let wanted = site.beside("wanted");
    write_files(
        &wanted,
        &[
            ("index.html", "new"),
            ("css/site.css", "body {}"),
            ("pages/b.html", "b"),
            ("pages/c.html", "c"),
            ("img/x.svg", "<svg/>"),
            ("home@", "index.html"),
        ],
    );
    assert_eq!(
        contents(&site.path(&format!("deploys/{id}"))),
        contents(&wanted)
    );
    assert_eq!(
        site.deploy(&wanted),
        id,
        "it is the deploy that the whole folder would be"
    );
    assert_eq!(
        site.read("index.html"),
        "old",
        "nothing is live that was not activated"
    );
    assert_eq!(contents(&fix).len(), 5, "the folder is left as it is");
    // A folder goes whole; a file can take its place.
    write_files(&fix, &[("css", "no folder any more")]);
    let id = site.ok([
        "deploy",
        text(&fix),
        "--from",
        &id,
        "--delete",
        "pages",
        "--activate",
    ]);
    assert_eq!(live(&site), id);
    assert_eq!(site.read("css"), "no folder any more");
    assert_eq!(
        names(&site.live("pages")),
        ["c.html"],
        "what the folder has there stays"
    );
}

#[test]
fn a_dry_run_tells_the_id_and_changes_nothing() {
    with_and_without_a_daemon(|site, _| {
        let build = site.beside("build");
        write_files(
            &build,
            &[("index.html", "new"), ("css/site.css", "body {}")],
        );
        let packs = || facts(&site.store.join("packs"));
        let before = (site.state(), packs());
        let report = site.json(["deploy", text(&build), "--dry-run"]);
        assert_eq!(
            (&report["existed"], &report["dry_run"]),
            (&json!(false), &json!(true))
        );
        assert!(report["new_bytes"].as_u64().unwrap() > 0);
        let out = site.run(["deploy", text(&build), "--dry-run"]);
        mentions(&stderr(&out), &["dry run: would seal 2 files"]);
        assert_eq!((site.state(), packs()), before);
        let id = site.deploy(&build);
        assert_eq!(report["deploy_id"], id.as_str());
        assert_eq!(stdout(&out).trim_end(), id);
        mentions(
            &stderr(&site.run(["deploy", text(&build), "--dry-run"])),
            &["dry run: identical to deploy"],
        );
    });
}

#[test]
fn a_diff_has_a_letter_and_a_path_a_line() {
    let site = Site::unmounted();
    let build = site.beside("build");
    write_files(
        &build,
        &[
            ("same.html", "x"),
            ("gone.html", "x"),
            ("changed.html", "x"),
            ("tool", "x"),
        ],
    );
    let one = site.deploy(&build);
    write_files(&build, &[("changed.html", "xyz"), ("new/page.html", "x")]);
    sh(&format!(
        "cd {}; rm gone.html; chmod +x tool",
        build.display()
    ));
    let two = site.deploy(&build);
    let diff = site.ok(["diff", &one, &two]);
    let lines: BTreeSet<&str> = diff.lines().collect();
    let expected = [
        "M changed.html  (1 B → 3 B)",
        "D gone.html",
        "A new",
        "A new/page.html  (1 B)",
        "P tool",
    ];
    assert_eq!(lines, set(&expected));
    mentions(
        &site.ok(["diff", &one, &two, "--stat"]),
        &["1 file added (1 B), 1 changed (3 B), 1 removed (1 B), 1 with other permissions"],
    );
    assert_eq!(site.ok(["diff", &one, &one]), "");
}

#[test]
fn list_marks_the_live_one_and_log_begins_with_the_newest() {
    let (site, [one, two, three]) = three_deploys(false);
    site.activate(&two);
    let list = site.ok(["list"]);
    let marked: Vec<&str> = list.lines().filter(|line| line.starts_with('*')).collect();
    assert!(marked.len() == 1 && marked[0].contains(&two), "{list}");
    let order: Vec<&str> = list
        .lines()
        .skip(1)
        .map(|line| line.trim_start_matches('*').trim_start())
        .collect();
    for (line, id) in order.iter().zip([&three, &two, &one]) {
        assert!(line.starts_with(id.as_str()), "{list}");
    }
    let log = site.ok(["log"]);
    mentions(log.lines().next().unwrap(), &["8", "activate", &two]);
    mentions(log.lines().last().unwrap(), &["1", "init"]);
}

#[test]
fn abort_throws_a_staging_folder_away_and_nothing_else() {
    with_and_without_a_daemon(|site, _| {
        site.stage("a", &[("x/y/z", "z")]);
        site.stage("b", &[("x", "x")]);
        let before = story_of(site);
        site.ok(["abort", "a"]);
        assert_eq!(site.json(["status"])["staging"], json!(["b"]));
        assert!(!site.staging("a").exists());
        // What an earlier seal used up is removed in the background.
        wait_for("nothing but the other folder", || {
            names(&site.staging("")) == [".sealing", "b"]
        });
        assert_eq!(fs::read_dir(site.staging(".sealing")).unwrap().count(), 0);
        assert_eq!(story_of(site), before);
    });
}

#[test]
fn a_staging_folder_belongs_to_who_asked_for_it() {
    let site = Site::unmounted();
    site.mount(&["--control-group", &NOBODY.to_string()]);
    let out = nobody(&mut site.command(["create", "theirs"]))
        .output()
        .unwrap();
    let path = stdout(&out).trim_end().to_owned();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY));
    as_nobody(|| fs::write(Path::new(&path).join("index.html"), "theirs")).unwrap();
    let out = nobody(&mut site.command(["seal", "theirs"]))
        .output()
        .unwrap();
    let id = stdout(&out).trim_end().to_owned();
    assert_eq!(site.json(["show", &id])["sealed_by"], "nobody");
    let out = nobody(&mut site.command(["activate", &id]))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(site.json(["status"])["live_by"], "nobody");
}

#[test]
fn the_store_is_that_of_the_mount_one_stands_in() {
    let (site, [one, ..]) = three_deploys(true);
    let in_a_deploy = site.path(&format!("deploys/{one}/css"));
    for place in [&site.mnt, &site.live(""), &site.live("css"), &in_a_deploy] {
        let mut command = Command::new(DEPLOYFS);
        command
            .args(["status", "--json"])
            .env_remove("DEPLOYFS_STORE")
            .current_dir(place);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        let status: Value = serde_json::from_str(&stdout(&out)).unwrap();
        assert_eq!(status["store"], json!(site.store));
    }
}

#[test]
fn the_store_given_by_hand_is_taken_before_the_environment_and_that_before_the_mount() {
    let (here, _) = three_deploys(true);
    let (by_environment, by_hand) = (Site::unmounted(), Site::unmounted());
    let ask = |args: &[&str]| {
        let mut command = by_environment.command(args.iter().copied());
        let out = command.current_dir(&here.mnt).output().unwrap();
        let status: Value = serde_json::from_str(&stdout(&out)).unwrap();
        status["store"].as_str().unwrap().to_owned()
    };
    assert_eq!(ask(&["status", "--json"]), text(&by_environment.store));
    let hand = text(&by_hand.store);
    assert_eq!(ask(&["--store", hand, "status", "--json"]), hand);
    assert_eq!(ask(&["status", "--json", "--store", hand]), hand);
}

#[test]
fn every_command_helps_with_an_example() {
    let help = stdout(&deployfs(["--help"]));
    let commands = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        let out = deployfs([name, "--help"]);
        assert!(out.status.success(), "{name}");
        mentions(
            &stdout(&out),
            &["Usage: deployfs", "Example", &format!("deployfs {name}")],
        );
    }
    mentions(&help, &["Example:", "Exit codes:"]);
    assert!(stdout(&deployfs(["--version"])).starts_with("deployfs 0."));
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let out = deployfs(["completions", shell]);
        assert!(out.status.success());
        mentions(&stdout(&out), &["deployfs", "rollback"]);
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let site = Site::unmounted();
    let build = site.beside("build");
    // More than a pipe holds.
    let files = (0..2000).map(|number| format!("{}-{number}", "a-long-name".repeat(8)));
    let files: Vec<String> = files.collect();
    write_files(
        &build,
        &files
            .iter()
            .map(|name| (name.as_str(), "x"))
            .collect::<Vec<_>>(),
    );
    let id = site.deploy(&build);
    let empty = site.beside("empty");
    fs::create_dir(&empty).unwrap();
    let nothing = site.ok(["deploy", text(&empty), "--allow-empty"]);
    let mut diff = site.command(["diff", &nothing, &id]);
    let mut diff = diff
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    diff.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let out = diff.wait_with_output().unwrap();
    assert_eq!(stderr(&out), "");
}

#[test]
fn a_mount_with_a_name_of_its_own_is_found_and_ended_like_any_other() {
    let (site, ids) = three_deploys(false);
    site.mount(&["--fsname", "my site"]);
    assert_eq!(site.read("index.html"), "three");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(text(&site.mnt)));
    mentions(line.unwrap(), &["fuse.deployfs my\\040site"]);
    let mut status = Command::new(DEPLOYFS);
    status.arg("status").env_remove("DEPLOYFS_STORE");
    let status = status.current_dir(site.live("")).output().unwrap();
    mentions(&stdout(&status), &[text(&site.store), &ids[2]]);
    site.umount();
    assert!(!is_mounted(&site.mnt));
    assert!(
        !site.store.join("control.sock").exists(),
        "the daemon has ended"
    );
    site.ok(["list"]);
}

#[test]
fn an_outcome_stands_and_is_printed_also_where_stderr_cannot_be_written() {
    with_and_without_a_daemon(|site, _| {
        let build = site.beside("build");
        write_files(&build, &[("index.html", "page")]);
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        let mut deploy = site.command(["deploy", text(&build), "--activate"]);
        let out = deploy.stderr(full()).output().unwrap();
        let id = stdout(&out).trim_end().to_owned();
        assert_eq!((out.status.code(), id.len()), (Some(0), 16));
        assert_eq!(site.json(["status"])["live"], id.as_str());
        let refused = site.command(["show", "none-such"]).stderr(full()).status();
        assert_eq!(refused.unwrap().code(), Some(1));
    });
    let mut script = std::process::Command::new(DEPLOYFS);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let out = script.args(["completions", "bash"]).stdout(full).output();
    assert_eq!(out.unwrap().status.code(), Some(1));
}

#[test]
fn delete_leaves_out_what_the_deploy_has_and_keeps_what_the_folder_has() {
    with_and_without_a_daemon(|site, _| {
        let (old, new) = (site.beside("old"), site.beside("new"));
        write_files(
            &old,
            &[("index.html", "i"), ("assets/old.js", "old"), ("a", "old")],
        );
        write_files(&new, &[("assets/new.js", "new"), ("a", "new")]);
        let base = site.deploy(&old);
        let id = site.ok([
            "deploy",
            text(&new),
            "--from",
            &base,
            "--delete",
            "assets",
            "--delete",
            "a",
            "--delete",
            "assets",
            "--delete",
            "assets/old.js",
        ]);
        let diff = site.ok(["diff", &base, &id]);
        let lines: Vec<&str> = diff.lines().collect();
        assert_eq!(
            lines,
            ["M a", "A assets/new.js  (3 B)", "D assets/old.js"],
            "{diff}"
        );
        fs::remove_dir_all(&old).unwrap();
        fs::remove_dir_all(&new).unwrap();
    });
}
