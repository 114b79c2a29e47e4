//! Removing deploys: what is refused, what goes at once, what open files and the next seal still have.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use crate::support::*;

/// Deploys `0`, `1`, …, each sealed and made live; as many as make the first ones removable but for the day that must pass.
fn many_live(site: &Site, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| {
            let id = site.seal(&[
                ("index.html", &number.to_string()),
                ("css/site.css", "body {}"),
            ]);
            site.activate(&id);
            id
        })
        .collect()
}

/// A deploy that was never live.
fn never_live(site: &Site, text: &str) -> String {
    site.seal(&[("index.html", text), ("deep/er/page.html", text)])
}

fn listed(site: &Site) -> Vec<String> {
    let list = site.json(["list"]);
    let ids = list.as_array().unwrap().iter();
    ids.map(|deploy| deploy["deploy_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn p3_p8_a_removed_deploy_goes_from_list_and_mount_and_its_open_files_go_on_reading() {
    let site = Site::live_with(&[("index.html", "live")]);
    let id = never_live(&site, "old");
    let dir = site.path("deploys").join(&id);
    let page = dir.join("deep/er/page.html");
    let mut open = File::open(&page).unwrap();
    let deep = File::open(dir.join("deep")).unwrap();
    assert_eq!(fs::read_dir(site.path("deploys")).unwrap().count(), 2);

    assert_eq!(site.ok(["rm", &id, "-m", "leaked"]), id);
    assert!(!listed(&site).contains(&id));
    assert_eq!(fs::read_dir(site.path("deploys")).unwrap().count(), 1);
    for path in [&dir, &page] {
        assert_eq!(fs::metadata(path).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(!site.store.join("deploys").join(&id).exists());
    let mut read = String::new();
    open.read_to_string(&mut read).unwrap();
    assert_eq!(read, "old");
    let again = rustix::fs::openat(
        &deep,
        "er/page.html",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    );
    assert_eq!(
        std::io::read_to_string(File::from(again.unwrap())).unwrap(),
        "old"
    );
    let log = site.json(["log"]);
    let last = log.as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (last["verb"].as_str(), last["message"].as_str()),
        (Some("remove"), Some("leaked"))
    );
    assert!(site.refused(1, ["show", &id]).contains("no deploy"));
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p8_what_is_live_pinned_or_was_live_is_refused_with_the_reason_and_nothing_goes() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            need_fuse();
            site.mount(&[]);
        }
        let ids = many_live(&site, 7);
        let free = never_live(&site, "never live");
        let pinned = never_live(&site, "pinned");
        let report = site.json(["pin", &pinned, "-m", "before the relaunch"]);
        assert_eq!(report["pinned"]["message"], "before the relaunch");
        let reasons = [
            (&ids[6], vec!["it is live", "activate another one first"]),
            (
                &pinned,
                vec!["pinned by root: before the relaunch", "unpin"],
            ),
            (&ids[5], vec!["rollback"]),
            (
                &ids[3],
                vec!["the last 5 that were live", "keep-recently-live"],
            ),
            (&ids[0], vec!["was live within 1d", "keep-live-within"]),
        ];
        for (id, words) in reasons {
            let said = site.refused_whole(1, ["rm", &free, id]);
            mentions(&said, &words);
            mentions(&said, &[id, "nothing was removed"]);
        }
        let status = site.json(["status"]);
        assert_eq!(status["pinned"], serde_json::json!([pinned]));
        assert!(
            site.ok(["show", &pinned])
                .contains("by root  before the relaunch")
        );
        assert_eq!(site.ok(["unpin", &pinned]), pinned);
        assert_eq!(site.json(["unpin", &pinned])["unchanged"], true);
        let retention = site.store.join("retention.toml");
        fs::write(&retention, "keep-recently-life = 2").unwrap();
        let said = site.refused_whole(1, ["rm", &free]);
        mentions(
            &said,
            &[text(&retention), "keep-recently-life", "keep-recently-live"],
        );
        fs::write(
            &retention,
            "keep-recently-live = 2\nkeep-live-within = '0s'",
        )
        .unwrap();
        assert_eq!(site.ok(["rm", &ids[0]]), ids[0]);
        fs::remove_file(&retention).unwrap();
        let both = site.json(["rm", &pinned, &free, &free]);
        assert_eq!(both["removed"], serde_json::json!([pinned, free]));
        assert!(site.refused_whole(1, ["rm", &free]).contains("no deploy"));
        assert_eq!(listed(&site).len(), 6);
    }
}

#[test]
fn a_removed_deploy_that_reappears_is_removed_again() {
    let site = Site::unmounted();
    let id = never_live(&site, "gone");
    let file = site.store.join("deploys").join(&id);
    let bytes = fs::read(&file).unwrap();
    site.ok(["rm", &id]);
    assert!(!file.exists());
    fs::write(&file, bytes).unwrap();
    site.ok(["create", "x"]);
    assert!(!file.exists());
    assert_eq!(listed(&site), [""; 0]);
}

#[test]
fn sealing_the_same_content_brings_a_removed_deploy_back() {
    let site = Site::live_with(&[("index.html", "live")]);
    let id = never_live(&site, "again");
    site.ok(["pin", &id]);
    site.ok(["unpin", &id]);
    site.ok(["rm", &id]);
    assert_eq!(never_live(&site, "again"), id);
    let page = site.path("deploys").join(&id).join("index.html");
    assert_eq!(fs::read_to_string(page).unwrap(), "again");
    site.ok(["verify", &id]);
    assert_eq!(
        site.json(["show", &id])["seals"].as_array().unwrap().len(),
        1
    );
}
