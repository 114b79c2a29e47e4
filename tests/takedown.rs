//! Takedown: a deploy that nobody may see any more goes at once, and leaves the disk.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};

use crate::support::*;

const GOOD: (&str, &str) = ("index.html", "good");
const BAD: (&str, &str) = ("secret.txt", "the password");

/// A site that has rolled forward: what is to be taken down is `previous`.
fn rolled_forward(site: &Site) -> String {
    let bad = site.seal(&[BAD]);
    site.activate(&bad);
    let good = site.seal(&[GOOD]);
    site.activate(&good);
    bad
}

#[test]
fn p4_rm_now_takes_down_what_was_live_a_moment_ago_with_and_without_a_daemon() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            site.mount(&[]);
        }
        let bad = rolled_forward(&site);
        let said = site.refused_whole(1, ["rm", &bad]);
        mentions(&said, &["rm --now"]);
        assert_eq!(site.ok(["rm", "--now", "previous", "-m", "leaked"]), bad);
        if !mounted {
            site.mount(&[]);
        }
        assert!(!site.path(&format!("deploys/{bad}/secret.txt")).exists());
        for target in ["previous", &bad] {
            site.refused(1, ["activate", target]);
            site.refused(1, ["rollback", "--to", target]);
        }
        site.refused(1, ["channel", "set", "preview", &bad]);
        site.refused(1, ["export", &bad]);
        let log = site.json(["log"]);
        let last = log.as_array().unwrap().last().unwrap();
        assert_eq!(last["verb"], "remove");
        assert_eq!(last["message"], "leaked");
        site.ok(["gc"]);
        for pack in packs(&site) {
            let bytes = fs::read(pack).unwrap();
            assert!(!bytes.windows(12).any(|part| part == b"the password"));
        }
        site.ok(["fsck", "--read-data"]);
    }
}

#[test]
fn rm_now_still_refuses_what_is_live_pinned_or_shown_and_an_odd_retention_file_is_no_obstacle() {
    let site = Site::new();
    let bad = rolled_forward(&site);
    fs::write(site.store.join("retention.toml"), "keep = nonsense").unwrap();
    let live = site.ok(["list", "--json"]);
    assert!(live.contains("\"live\""));
    mentions(
        &site.refused(1, ["rm", "--now", "live"]),
        &["it is live", "activate another"],
    );
    site.ok(["pin", &bad]);
    mentions(&site.refused(1, ["rm", "--now", &bad]), &["pinned"]);
    site.ok(["unpin", &bad]);
    site.ok(["channel", "set", "preview", &bad]);
    mentions(
        &site.refused(1, ["rm", "--now", &bad]),
        &["channel 'preview' shows it"],
    );
    site.ok(["channel", "rm", "preview"]);
    site.ok(["rm", "--now", &bad]);
}

#[test]
fn rm_names_who_has_files_of_it_open_and_once_they_are_closed_gc_gives_their_space_back() {
    let site = Site::new();
    let bad = rolled_forward(&site);
    // Opened by its own address, and by that of the site while it was live.
    site.activate(&bad);
    let mut readers = [
        site.live("secret.txt"),
        site.path(&format!("deploys/{bad}/secret.txt")),
    ]
    .map(|path| {
        let file = File::open(path).unwrap();
        let mut reader = Command::new("sleep");
        reader.arg("60").stdin(Stdio::from(file)).spawn().unwrap()
    });
    site.ok(["rollback"]);
    let out = site.run(["rm", "--now", &bad]);
    assert!(out.status.success(), "{}", stderr(&out));
    for reader in &readers {
        mentions(
            &stderr(&out),
            &[&format!("process {} (sleep, of root)", reader.id())],
        );
    }
    let path = format!("/proc/{}/fd/0", readers[0].id());
    let mut text = String::new();
    File::open(path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, BAD.1);
    assert_eq!(site.json(["gc"])["freed_bytes"], 0);
    for reader in &mut readers {
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
    wait_for("its space, once nobody has it open", || {
        site.json(["gc"])["freed_bytes"] != 0
    });
}
