//! Other users of the machine: none of them holds up a flip, or a visitor.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "one");
const NEXT: (&str, &str) = ("index.html", "two");
/// How long anything may take that nothing holds up.
const AT_ONCE: Duration = Duration::from_secs(5);
/// More than the time after which a command says that the mount is held up.
const BOUNDED: Duration = Duration::from_secs(20);

/// What this does, if it does it in time; else the thread hangs until what holds it up ends.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, received) = channel();
    std::thread::spawn(move || send.send(work()).ok());
    received.recv_timeout(AT_ONCE).ok()
}

/// Runs a command on the site, which must end in time also where it cannot be killed: else the stranger is released first.
fn run_within(site: &Site, stranger: &mut Stranger, limit: Duration, args: &[&str]) -> Output {
    let mut command = site.command(args.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > limit {
            stranger.release();
            child.wait().unwrap();
            panic!("{args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// Files that a visitor asks for first, so that the kernel has no name for them.
fn pages(text: &str) -> Vec<(String, String)> {
    let names = (0..50).map(|number| format!("css/{number}.css"));
    names
        .chain((0..50).map(|number| format!("{number}.html")))
        .map(|name| (name, text.to_owned()))
        .collect()
}

fn seal_pages(site: &Site, text: &str) -> String {
    let pages = pages(text);
    let pages: Vec<(&str, &str)> = pages
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    site.seal(&pages)
}

#[test]
fn a_stranger_cannot_hold_the_lock_of_a_folder_whose_names_flip() {
    let site = Site::live_with(&[PAGE]);
    let mut stranger = Stranger::new();
    let next = site.seal(&[NEXT]);
    let held: Vec<_> = ["", "deploys", "channels"]
        .iter()
        .map(|name| stranger.hold(&site.path(name)))
        .collect();
    let out = run_within(&site, &mut stranger, AT_ONCE, &["activate", &next]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(held, [Err(libc::EACCES); 3]);
    // Names below them are found all the same.
    let page = site.live("index.html");
    assert_eq!(as_nobody(|| fs::read_to_string(&page)).unwrap(), "two");
}

#[test]
fn where_only_the_group_may_list_a_stranger_holds_no_folder_of_a_deploy_either() {
    let site = Site::unmounted();
    site.mount(&["--listable", "group-only"]);
    let id = seal_pages(&site, "text");
    site.activate(&id);
    let mut stranger = Stranger::new();
    for folder in [
        site.live(""),
        site.live("css"),
        site.path(&format!("deploys/{id}/css")),
    ] {
        assert_eq!(stranger.hold(&folder), Err(libc::EACCES));
    }
    let page = site.live("css/7.css");
    assert_eq!(as_nobody(|| fs::read_to_string(&page)).unwrap(), "text");
}

#[test]
fn the_control_group_may_list_what_flips_and_others_may_not() {
    let site = Site::unmounted();
    site.mount(&["--control-group", "nogroup"]);
    let names = |folder: &str| fs::read_dir(site.path(folder)).map(|names| names.count());
    let id = site.seal(&[PAGE]);
    as_nobody(|| {
        assert_eq!(names("").unwrap(), 4);
        assert_eq!(names("deploys").unwrap(), 1);
        assert_eq!(names(&format!("deploys/{id}")).unwrap(), 1);
    });
    site.umount();
    site.mount(&[]);
    as_nobody(|| {
        let refused = |folder| names(folder).unwrap_err().raw_os_error();
        assert_eq!(refused(""), Some(libc::EACCES));
        assert_eq!(refused("deploys"), Some(libc::EACCES));
        assert_eq!(names(&format!("deploys/{id}")).unwrap(), 1);
    });
}

#[test]
fn where_everybody_may_list_a_held_up_activation_ends_with_exit_code_4_and_says_by_whom() {
    let site = Site::unmounted();
    site.mount(&["--listable", "everybody"]);
    let first = site.seal(&[PAGE]);
    site.activate(&first);
    let next = site.seal(&[NEXT]);
    let mut stranger = Stranger::new();
    let process = stranger.hold(&site.path("")).unwrap();
    let out = run_within(&site, &mut stranger, BOUNDED, &["activate", &next]);
    let said = refusal(&out, 4);
    mentions(&said, &[&next, "is recorded and durable", "status"]);
    let status = run_within(&site, &mut stranger, AT_ONCE, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["live"], next.as_str());
    let holder = &status["stuck"]["holders"][0];
    assert_eq!(holder["process"], process);
    assert_eq!(holder["user"], "nobody");
    let connection = holder["fuse_connection"].as_u64().unwrap();
    let shown = run_within(&site, &mut stranger, AT_ONCE, &["status"]);
    mentions(
        &stdout(&shown),
        &[
            &format!("process {process} ("),
            &format!("/sys/fs/fuse/connections/{connection}/abort"),
        ],
    );
    stranger.release();
    wait_for("the flip", || site.read("index.html") == "two");
    wait_for("its end", || site.json(["status"])["stuck"].is_null());
    site.activate(&first);
    assert_eq!(site.read("index.html"), "one");
}

#[test]
fn a_stranger_who_holds_folders_of_a_deploy_holds_up_no_later_flip_nor_the_visitors_of_a_rollback()
{
    let site = Site::new();
    let first = seal_pages(&site, "first");
    site.activate(&first);
    let mut stranger = Stranger::new();
    for folder in [
        site.live(""),
        site.live("css"),
        site.path(&format!("deploys/{first}")),
    ] {
        stranger.hold(&folder).unwrap();
    }
    for number in 0..7 {
        let next = seal_pages(&site, &format!("{number}"));
        let out = run_within(&site, &mut stranger, AT_ONCE, &["activate", &next]);
        assert!(out.status.success(), "{}", stderr(&out));
    }
    let out = run_within(&site, &mut stranger, AT_ONCE, &["activate", &first]);
    assert!(out.status.success(), "{}", stderr(&out));
    for (name, text) in pages("first") {
        let path = site.live(&name);
        let read = in_time(move || fs::read_to_string(path).unwrap());
        assert_eq!(read, Some(text), "{name}");
    }
}

#[test]
fn a_removal_waits_for_no_stranger_in_the_deploy() {
    let site = Site::live_with(&[PAGE]);
    let next = seal_pages(&site, "removed");
    let folder = site.path(&format!("deploys/{next}"));
    let mut stranger = Stranger::new();
    stranger.hold(&folder).unwrap();
    stranger.hold(&folder.join("css")).unwrap();
    for args in [&["rm", &next][..], &["gc"]] {
        let out = run_within(&site, &mut stranger, AT_ONCE, args);
        assert!(out.status.success(), "{}", stderr(&out));
    }
    assert!(!folder.exists());
    let again = seal_pages(&site, "removed");
    assert_eq!(again, next);
    for (name, text) in pages("removed") {
        let path = folder.join(name);
        assert_eq!(
            in_time(move || fs::read_to_string(path).unwrap()),
            Some(text)
        );
    }
}

#[test]
fn syncing_a_folder_takes_no_lock_that_a_visitor_waits_for() {
    let site = Site::new();
    site.activate(&seal_pages(&site, "text"));
    let mut stranger = Stranger::new();
    stranger.hold(&site.live("")).unwrap();
    let folder = CString::new(text(&site.live(""))).unwrap();
    let syncing = as_nobody(|| fork(|| sync(&folder)));
    std::thread::sleep(Duration::from_millis(300));
    let mut all = true;
    for (name, _) in pages("text") {
        let path = site.live(&name);
        all &= in_time(move || fs::read(path).is_ok()) == Some(true);
        if !all {
            break;
        }
    }
    stranger.release();
    wait_for("the end of the sync", || {
        !Path::new(&format!("/proc/{syncing}/task")).exists() || ended(syncing).is_some()
    });
    assert!(all, "a visitor waits for a sync");
}

fn sync(folder: &CString) -> i32 {
    // SAFETY: the path lives; the descriptor is this child's own.
    unsafe { libc::fsync(libc::open(folder.as_ptr(), libc::O_RDONLY)) }
}

#[test]
fn a_killed_daemon_that_a_held_folder_keeps_from_ending_is_told_with_its_holder() {
    let site = Site::unmounted();
    site.mount(&["--listable", "everybody"]);
    let id = site.seal(&[PAGE]);
    site.activate(&id);
    let next = site.seal(&[NEXT]);
    let mut stranger = Stranger::new();
    let process = stranger.hold(&site.path("")).unwrap();
    let out = run_within(&site, &mut stranger, BOUNDED, &["activate", &next]);
    refusal(&out, 4);
    kill(site.daemon_pid(), libc::SIGKILL);
    let mut said = String::new();
    for _ in 0..3 {
        // The first command may still have met the daemon's socket.
        let out = run_within(&site, &mut stranger, BOUNDED, &["create"]);
        said = refusal(&out, 1);
        if said.contains("as root: ") {
            break;
        }
    }
    mentions(&said, &["has been killed", &format!("process {process} (")]);
    stranger.release();
    wait_for("the daemon's end", || site.try_mount(&[]).status.success());
    assert_eq!(site.read("index.html"), "two");
}
