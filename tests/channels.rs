//! Channels: what each command answers and records, names, ends, and what the mount shows of them. That they flip as `live`
//! does is shown where that is shown of `live`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn log(site: &Site, args: &[&str]) -> Vec<(String, String, String)> {
    let entries = site.json(["log"].into_iter().chain(args.iter().copied()));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = entries.as_array().unwrap().iter();
    entries
        .map(|entry| {
            (
                text(&entry["verb"]),
                text(&entry["channel"]),
                text(&entry["message"]),
            )
        })
        .collect()
}

fn mounted_or_not(mounted: bool) -> Site {
    match mounted {
        true => Site::new(),
        false => Site::unmounted(),
    }
}

#[test]
fn a_channel_is_set_shown_promoted_and_taken_away() {
    for mounted in [true, false] {
        let site = mounted_or_not(mounted);
        let one = site.seal(&[("index.html", "one")]);
        let two = site.seal(&[("index.html", "two")]);
        site.activate(&one);
        assert_eq!(site.json(["channel", "list"]), json!([]));
        let set = site.json(["channel", "set", "preview", &two[..8], "-m", "look"]);
        let folder = site.path("channels/preview");
        let path = mounted.then_some(&folder);
        let expected = json!({
            "name": "preview",
            "deploy_id": two,
            "since": set["since"],
            "by": "root",
            "message": "look",
            "until": null,
            "path": path,
            "warnings": [],
        });
        assert_eq!(set, expected);
        assert_eq!(site.json(["channel", "list"]), json!([expected]));
        assert_eq!(site.json(["status"])["channels"], json!([expected]));
        assert_eq!(
            site.json(["show", "@preview"])["channels"],
            json!(["preview"])
        );
        mentions(&site.ok(["channel", "list"]), &["preview", &two, "look"]);
        mentions(
            &site.ok(["status"]),
            &[&format!("channel   preview: {two}")],
        );
        mentions(&site.ok(["log"]), &["channel set preview"]);
        assert_eq!(site.json(["status"])["live"], json!(one), "live stays");
        if mounted {
            assert_eq!(
                fs::read_to_string(folder.join("index.html")).unwrap(),
                "two"
            );
            assert_eq!(site.read("index.html"), "one");
        }
        // Setting it anew, from what is live; then promoting what another channel shows.
        assert_eq!(site.ok(["channel", "set", "preview", "live"]), one);
        assert_eq!(site.ok(["channel", "set", "next", &two]), two);
        assert_eq!(site.ok(["channel", "set", "preview", "@next"]), two);
        assert_eq!(site.ok(["activate", "@next", "-m", "promoted"]), two);
        assert_eq!(site.ok(["diff", "@live", "@preview"]), "");
        let preview = |verb: &str, message: &str| (verb.into(), "preview".into(), message.into());
        assert_eq!(site.ok(["channel", "rm", "preview", "-m", "seen"]), "");
        assert_eq!(
            log(&site, &["--channel", "preview"]),
            [
                preview("activate", "look"),
                preview("activate", ""),
                preview("activate", ""),
                preview("close", "seen")
            ]
        );
        assert_eq!(log(&site, &["--channel", "live"]).len(), 2);
        assert_eq!(
            site.json(["rollback"])["deploy_id"],
            json!(one),
            "channels are not on the way back"
        );
        assert!(!folder.exists());
        if mounted {
            assert_eq!(names(&site.path("channels")), ["next"]);
        }
        mentions(
            &site.refused(1, ["channel", "rm", "preview"]),
            &["preview", "channel list"],
        );
        mentions(&site.refused(1, ["activate", "@preview"]), &["preview"]);
        mentions(
            &site.refused_whole(1, ["channel", "set", "live", &two]),
            &["deployfs activate"],
        );
        site.refused_whole(1, ["channel", "rm", "live"]);
        site.refused_whole(1, ["channel", "set", "preview", "0123456789abcdef"]);
        site.ok(["fsck"]);
    }
}

#[test]
fn a_lock_on_what_is_live_leaves_channels_alone() {
    let site = Site::live_with(&[("index.html", "one")]);
    site.ok(["lock", "-m", "hands off"]);
    site.ok(["channel", "set", "preview", "live"]);
    site.ok(["channel", "rm", "preview"]);
}

#[test]
fn names_follow_the_rules_of_files_and_nothing_can_be_taken_for_something_else() {
    let site = Site::new();
    let id = site.seal(&[("index.html", "x")]);
    let long = "x".repeat(256);
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a\nb",
        "previous",
        "none",
        ".retired-1",
        &id,
        &long,
    ] {
        let said = refusal(&site.run(["channel", "set", name, &id]), 2);
        mentions(&said, &["a channel is named like a file"]);
    }
    let longest = "y".repeat(255);
    let mut good = [
        "PR 17",
        "änderung",
        ".hidden",
        "cafe",
        "a\\b\"c",
        "@",
        &longest,
    ];
    for name in good {
        site.ok(["channel", "set", "--", name, &id]);
        assert_eq!(
            fs::read_to_string(site.path("channels").join(name).join("index.html")).unwrap(),
            "x"
        );
        assert_eq!(site.ok(["verify", &format!("@{name}")]), "");
    }
    good.sort_unstable();
    assert_eq!(names(&site.path("channels")), good);
}

#[test]
fn a_channel_whose_time_is_over_goes_by_itself_and_the_history_says_so() {
    let site = Site::new();
    let id = site.seal(&[("index.html", "x")]);
    refusal(
        &site.run([
            "channel",
            "set",
            "preview",
            &id,
            "--expires",
            "1999-01-01T00:00:00Z",
        ]),
        2,
    );
    site.ok(["channel", "set", "stays", &id, "--expires", "7d"]);
    site.ok([
        "channel",
        "set",
        "preview",
        &id,
        "--expires",
        "1s",
        "-m",
        "short",
    ]);
    let file = fs::File::open(site.path("channels/preview/index.html")).unwrap();
    wait_for("its end", || !site.path("channels/preview").exists());
    wait_for("its record", || {
        log(&site, &["--channel", "preview"]).len() == 2
    });
    let last = site.json(["log", "--channel", "preview"])[1].clone();
    assert_eq!(
        (&last["verb"], &last["actor"]),
        (&json!("close"), &json!("deployfs"))
    );
    assert_eq!(names(&site.path("channels")), ["stays"]);
    assert_eq!(file.metadata().unwrap().len(), 1);
    // A longer end, set meanwhile, counts.
    site.ok(["channel", "set", "stays", &id, "--expires", "1s"]);
    site.ok(["channel", "set", "stays", &id]);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(names(&site.path("channels")), ["stays"]);

    // Without a daemon the next command that writes records it; until then nobody is shown it.
    site.umount();
    site.ok(["channel", "set", "preview", &id, "--expires", "1s"]);
    wait_for("its end", || {
        site.json(["channel", "list"]).as_array().unwrap().len() == 1
    });
    site.ok(["create"]);
    assert_eq!(
        log(&site, &["--channel", "preview"]).last().unwrap().2,
        "its time is over"
    );
    site.mount(&[]);
    assert_eq!(names(&site.path("channels")), ["stays"]);
}

#[test]
fn channels_come_back_after_a_remount_with_the_same_inode_numbers() {
    let site = Site::live_with(&[("index.html", "one"), ("css/site.css", "x")]);
    site.ok(["channel", "set", "preview", "live"]);
    site.ok(["channel", "set", "other", "live"]);
    let numbers = || {
        let paths = [
            "live/css",
            "channels",
            "channels/preview",
            "channels/preview/css",
            "channels/other/css",
            "channels/preview/css/site.css",
            "live/css/site.css",
        ];
        paths.map(|path| fs::metadata(site.path(path)).unwrap().ino())
    };
    let before = numbers();
    assert_eq!(before[5], before[6], "a file is one inode in every view");
    let mut dirs = before[..5].to_vec();
    dirs.sort_unstable();
    dirs.dedup();
    assert_eq!(dirs.len(), 5, "a directory is one in each");
    site.umount();
    site.mount(&[]);
    assert_eq!(numbers(), before);
    site.signal_daemon(libc::SIGKILL);
    site.mount(&[]);
    assert_eq!(numbers(), before);
}

#[test]
fn p2_nothing_in_channels_can_be_changed_through_the_mount() {
    let site = Site::live_with(&[("index.html", "one")]);
    site.ok(["channel", "set", "preview", "live"]);
    let channels = site.path("channels");
    let error = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    let erofs = Some(libc::EROFS);
    assert_eq!(error(fs::create_dir(channels.join("new"))), erofs);
    assert_eq!(error(fs::remove_dir(channels.join("preview"))), erofs);
    assert_eq!(
        error(fs::rename(channels.join("preview"), channels.join("x"))),
        erofs
    );
    assert_eq!(
        error(fs::write(channels.join("preview/index.html"), "x")),
        erofs
    );
    assert_eq!(
        error(fs::remove_file(channels.join("preview/index.html"))),
        erofs
    );
}

#[test]
fn a_web_server_gives_each_channel_its_own_host_name() {
    let site = Site::live_with(&[("index.html", "one")]);
    let two = site.seal(&[("index.html", "two")]);
    site.ok(["channel", "set", "preview", &two]);
    let nginx = Nginx::serve(&site.path("channels"));
    let mut http = nginx.connect();
    assert_eq!(http.get("/preview/").text(), "two");
    site.ok(["channel", "set", "preview", "live"]);
    assert_eq!(http.get("/preview/").text(), "one");
    site.ok(["channel", "rm", "preview"]);
    assert_eq!(http.get("/preview/").status, 404);
}

#[test]
fn the_hook_hears_of_channels_too() {
    let site = Site::new();
    let id = site.seal(&[("index.html", "x")]);
    let told = site.beside("told");
    let hooks = site.store.join("hooks");
    fs::create_dir(&hooks).unwrap();
    let script = format!(
        "echo $DEPLOYFS_CHANNEL $DEPLOYFS_ID > {0}.part; mv {0}.part {0}",
        text(&told)
    );
    fs::write(
        hooks.join("post-activate"),
        format!("#!/bin/sh\n{script}\n"),
    )
    .unwrap();
    sh(&format!("chmod 755 {}", text(&hooks.join("post-activate"))));
    site.ok(["channel", "set", "preview", &id]);
    wait_for("the hook", || told.exists());
    assert_eq!(
        fs::read_to_string(&told).unwrap(),
        format!("preview {id}\n")
    );
}
