//! The mount as other mount namespaces have it: containers, and a daemon in a namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::*;

/// A process in a mount namespace of its own, as in a container; ended when dropped.
struct Container(Child);

impl Container {
    /// With this script run in it first.
    fn start(site: &Site, script: &str) -> Self {
        let ready = site.beside("ready");
        let script = format!("{script}; touch {}; exec sleep 100", ready.display());
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "slave", "bash", "-euc", &script]);
        let container = Container(unshare.stdin(Stdio::null()).spawn().unwrap());
        wait_for("the container", || ready.exists());
        container
    }

    /// A path as the processes in it see it.
    fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.0.id()));
        root.join(path.strip_prefix("/").unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A folder that shares its mounts, as all do where systemd runs; taken off when dropped.
struct Shared(PathBuf);

impl Shared {
    fn folder(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let shared = Shared(path);
        shared.mount(&["--bind", text(&shared.0), text(&shared.0)]);
        shared.mount(&["--make-shared", text(&shared.0)]);
        shared
    }

    fn mount(&self, args: &[&str]) {
        assert!(Command::new("mount").args(args).status().unwrap().success());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

fn check<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = report["checks"].as_array().unwrap();
    &checks.iter().find(|check| check["name"] == name).unwrap()["findings"]
}

fn doctor(site: &Site) -> serde_json::Value {
    serde_json::from_slice(&site.run(["doctor", "--json"]).stdout).unwrap()
}

#[test]
fn a_container_with_the_parent_folder_sees_the_mount_of_a_daemon_that_was_started_again() {
    let mut site = Site::unmounted();
    let shared = Shared::folder(site.beside("srv"));
    site.mnt = shared.0.join("site");
    fs::create_dir(&site.mnt).unwrap();
    let inside = site.beside("inside");
    fs::create_dir(&inside).unwrap();
    let id = site.seal(&[("index.html", "a page")]);
    site.ok(["activate", &id]);
    site.mount(&[]);
    let container = Container::start(
        &site,
        // As docker does for '-v …/srv:…/inside:ro,rslave'.
        &format!(
            "mount --rbind {} {1}; mount --make-rslave {1}",
            shared.0.display(),
            inside.display()
        ),
    );
    let page = container.path(&inside.join("site/live/index.html"));
    assert_eq!(fs::read_to_string(&page).unwrap(), "a page");
    site.signal_daemon(libc::SIGKILL);
    site.mount(&[]);
    let next = site.seal(&[("index.html", "the next page")]);
    site.activate(&next);
    assert_eq!(fs::read_to_string(&page).unwrap(), "the next page");
    assert_eq!(check(&doctor(&site), "left-behind"), &serde_json::json!([]));
}

#[test]
fn a_container_that_keeps_the_mount_of_a_daemon_that_has_ended_is_named() {
    let site = Site::live_with(&[("index.html", "a page")]);
    let inside = site.beside("inside");
    fs::create_dir(&inside).unwrap();
    let bind = format!("mount --bind {} {}", site.mnt.display(), inside.display());
    let container = Container::start(&site, &bind);
    let page = container.path(&inside.join("live/index.html"));
    assert_eq!(fs::read_to_string(page).unwrap(), "a page");
    site.signal_daemon(libc::SIGKILL);
    site.mount(&[]);
    let report = doctor(&site);
    let findings = check(&report, "left-behind").as_array().unwrap();
    let what = |finding: &serde_json::Value| finding["what"].as_str().unwrap().to_owned();
    let found = findings
        .iter()
        .find(|one| what(one).contains(text(&inside)));
    let found = found.expect("the container's mount");
    mentions(
        &what(found),
        &[&format!("process {}", container.0.id()), "has ended"],
    );
    mentions(found["mend"].as_str().unwrap(), &["rslave"]);
}

#[test]
fn a_daemon_in_a_mount_namespace_of_its_own_is_told_by_status_and_doctor() {
    let site = Site::unmounted();
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "--propagation", "private", DEPLOYFS, "mount"]);
    let mounted = mount.args([&site.store, &site.mnt]).status().unwrap();
    assert!(mounted.success());
    let id = site.seal(&[("index.html", "a page")]);
    let out = site.run(["activate", &id]);
    mentions(&stderr(&out), &["warning", "web servers outside"]);
    assert!(!site.live("index.html").exists());
    assert_eq!(site.json(["status"])["mount_visible"], false);
    mentions(
        &site.ok(["status"]),
        &["WARNING", "mount namespace of its own"],
    );
    let report = doctor(&site);
    mentions(
        &check(&report, "visible")[0]["what"].to_string(),
        &[text(&site.mnt)],
    );
    site.signal_daemon(libc::SIGTERM);
}

#[test]
fn an_overlay_that_is_written_over_a_deploy_is_named() {
    let site = Site::live_with(&[("a", "equal"), ("b", "equal")]);
    let folders = ["upper", "work", "merged"].map(|name| site.beside(name));
    for folder in &folders {
        fs::create_dir(folder).unwrap();
    }
    let [upper, work, merged] = &folders;
    let live = site.live("");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        text(&live).trim_end_matches('/'),
        upper.display(),
        work.display()
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(merged)
        .status();
    assert!(mounted.unwrap().success());
    let report = doctor(&site);
    let unmounted = Command::new("umount").arg(merged).status();
    assert!(unmounted.unwrap().success());
    let what = check(&report, "overlays")[0]["what"].to_string();
    mentions(&what, &[text(merged), "/live"]);
}
