//! Whose rights are used: nobody gets, through the daemon, a byte that they could not read themselves, or an effect on a folder
//! that is not theirs. Members of the control group are hostile here: they send requests by hand, and move what is not theirs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use deployfs::control::client::Client;
use deployfs::model::report::{Answer, Failure, FolderRequest, Request, SealOptions};
use rustix::fs::{Mode, OFlags};

use crate::support::*;

/// The user of a service's daemon, and the capabilities that `setpriv` gives it.
const SERVICE: u32 = 5;
/// The control group.
const GROUP: u32 = 60_100;
/// Two of its members, and somebody who is not in it. Bob is Debian's `daemon`: fusermount3 mounts for users with a name only.
const ALICE: u32 = 60_001;
const BOB: u32 = 1;
const MALLORY: u32 = 60_003;
/// What must not come out.
const SECRET: &str = "only its owner may read this";

/// A store of root's, mounted for the control group.
fn shared() -> Site {
    let site = Site::unmounted();
    site.mount(&["--control-group", &GROUP.to_string()]);
    site
}

/// A command of a member of the group.
fn run(site: &Site, uid: u32, args: &[&str]) -> Output {
    let mut command = site.command(args.iter().copied());
    user(&mut command, uid, GROUP).current_dir("/");
    command.output().unwrap()
}

/// The answer to a member's command, which must succeed.
fn ok(site: &Site, uid: u32, args: &[&str]) -> String {
    let out = run(site, uid, args);
    assert!(out.status.success(), "{args:?}: {}", stderr(&out));
    stdout(&out).trim_end().to_owned()
}

/// What a member's command says that must be refused.
fn refused(site: &Site, uid: u32, args: &[&str]) -> String {
    refusal(&run(site, uid, args), 1)
}

/// A folder of this user's with these files.
fn folder_of(site: &Site, uid: u32, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = site.beside(name);
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(uid), Some(uid)).unwrap();
    as_user(uid, uid, || write_files(&dir, files));
    dir
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const ACL: &str = "system.posix_acl_access";

/// Gives a file of mode 0644 an access control list by which this user may do nothing with it.
fn shut_out(path: &Path, uid: u32) {
    const NO_ID: u32 = u32::MAX;
    let mut list = 2u32.to_le_bytes().to_vec();
    // Tag, permissions, id, as in the kernel's posix_acl_xattr.h: owner, the user, group, mask, others.
    let entries = [
        (1u16, 6u16, NO_ID),
        (2, 0, uid),
        (4, 4, NO_ID),
        (16, 4, NO_ID),
        (32, 4, NO_ID),
    ];
    for (tag, bits, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(bits.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    rustix::fs::setxattr(path, ACL, &list, rustix::fs::XattrFlags::empty()).unwrap();
}

/// One line by hand to the control socket, as this member; the line that ends the answer.
fn raw(site: &Site, uid: u32, request: &str) -> String {
    as_user(uid, GROUP, || {
        let stream = UnixStream::connect(site.store.join("control.sock")).unwrap();
        writeln!(&stream, "{{\"v\":1,\"request\":{request}}}").unwrap();
        let lines = BufReader::new(&stream).lines();
        let mut lines = lines.map(Result::unwrap);
        lines.find(|line| !line.contains("\"progress\"")).unwrap()
    })
}

/// Deploys what is behind a descriptor, opened by this member with these flags.
fn deploy_opened(site: &Site, uid: u32, dir: &Path, flags: OFlags) -> Result<Answer, Failure> {
    let request = Request::Deploy(FolderRequest {
        dir: dir.to_owned(),
        from: None,
        delete: Vec::new(),
        dry_run: false,
        no_cache: false,
        options: SealOptions::default(),
    });
    as_user(uid, GROUP, || {
        let opened: OwnedFd = rustix::fs::open(dir, flags, Mode::empty()).unwrap();
        let client = Client::connect(&site.store).unwrap().unwrap();
        client.call_with(&request, Some(opened.as_fd()), &|_| {})
    })
}

/// All that a deploy holds, as one text.
fn text_of(site: &Site, id: &str) -> String {
    sh(&format!(
        "cat $(find {} -type f)",
        text(&site.path(&format!("deploys/{id}")))
    ))
}

fn deploys(site: &Site) -> usize {
    site.json(["list"]).as_array().unwrap().len()
}

/// Ends a process that a test has started, also when the test fails.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A store and a daemon of this user's, for the group; nobody else sees the mount.
fn of_an_ordinary_user(uid: u32) -> Site {
    need_fuse();
    let site = Site::without_a_store();
    for path in [site.beside("home"), site.mnt.clone()] {
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(uid), Some(GROUP)).unwrap();
        set_mode(&path, 0o755);
    }
    chown(site.beside(""), Some(uid), None).unwrap();
    ok(&site, uid, &["init", text(&site.store)]);
    let group = GROUP.to_string();
    let args = ["--control-group", &group, "--no-allow-other"];
    let mount = ["mount", text(&site.store), text(&site.mnt)];
    ok(&site, uid, &[&mount, &args[..]].concat());
    site
}

#[test]
fn an_ordinary_user_s_daemon_does_not_lend_its_rights_to_the_members_of_its_group() {
    let site = of_an_ordinary_user(BOB);
    let keys = folder_of(&site, BOB, "home/keys", &[("key", SECRET)]);
    set_mode(&keys.join("key"), 0o600);
    set_mode(&keys, 0o700);
    let readable = folder_of(&site, BOB, "home/readable", &[("key", SECRET)]);
    set_mode(&readable.join("key"), 0o600);
    // By the command line, by hand without a descriptor, and with one that takes no right to open.
    mentions(
        &refused(&site, ALICE, &["deploy", text(&keys)]),
        &["denied"],
    );
    let said = refused(&site, ALICE, &["deploy", text(&readable)]);
    mentions(&said, &["key: it cannot be read"]);
    for dir in [&keys, &readable] {
        let request = format!(
            "{{\"op\":\"deploy\",\"dir\":{dir:?},\"delete\":[],\"dry_run\":false,\"no_cache\":false,\"options\":{{}}}}"
        );
        let said = raw(&site, ALICE, &request);
        mentions(&said, &["failure", "brings no open folder"]);
        let by_path = OFlags::PATH | OFlags::DIRECTORY;
        let failure = deploy_opened(&site, ALICE, dir, by_path).unwrap_err();
        mentions(&failure.message, &["denied"]);
    }
    // A file of Bob's that Alice can move into a folder of her own, and one with a list that says who may not.
    let build = folder_of(&site, ALICE, "build", &[("index.html", "a page")]);
    fs::rename(readable.join("key"), build.join("key")).unwrap();
    mentions(
        &refused(&site, ALICE, &["deploy", text(&build)]),
        &["key: it cannot be read"],
    );
    fs::remove_file(build.join("key")).unwrap();
    shut_out(&build.join("index.html"), ALICE);
    let said = refused(&site, ALICE, &["deploy", text(&build)]);
    mentions(&said, &["index.html: it cannot be read"]);
    rustix::fs::removexattr(build.join("index.html"), ACL).unwrap();
    // A folder that Bob may enter and Alice may not, in a folder of hers.
    let closed = build.join("closed");
    as_user(BOB, GROUP, || {
        write_files(&keys.join("shut"), &[("page", SECRET)])
    });
    set_mode(&keys.join("shut"), 0o700);
    fs::rename(keys.join("shut"), &closed).unwrap();
    mentions(
        &refused(&site, ALICE, &["deploy", text(&build)]),
        &["closed: it cannot be read"],
    );
    fs::remove_dir_all(&closed).unwrap();
    assert_eq!(ok(&site, BOB, &["list", "--json"]), "[]");
    // What Alice may read, also in a home that Bob cannot enter, goes; and Bob's own.
    set_mode(&site.beside("build"), 0o755);
    let id = ok(&site, ALICE, &["deploy", text(&build), "--activate"]);
    let out = ok(&site, BOB, &["deploy", text(&keys)]);
    assert_ne!(id, out);
    let live = site.path("live/index.html");
    let seen = as_user(BOB, GROUP, || fs::read_to_string(live).unwrap());
    assert_eq!(seen, "a page");
    // Its staging folders are Bob's alone.
    let staged = ok(&site, BOB, &["create", "v1"]);
    as_user(BOB, GROUP, || {
        fs::write(Path::new(&staged).join("x"), "x").unwrap()
    });
    for args in [["seal", "v1"], ["abort", "v1"]] {
        mentions(
            &refused(&site, ALICE, &args),
            &["belongs to", "may not write to it"],
        );
    }
    ok(&site, BOB, &["seal", "v1"]);
    let umounted = run(&site, BOB, &["umount", text(&site.mnt)]);
    assert!(umounted.status.success(), "{}", stderr(&umounted));
}

#[test]
fn a_path_by_hand_and_the_magic_links_of_proc_open_nothing() {
    let site = shared();
    let closed = site.beside("closed");
    write_files(&closed, &[("open/key", SECRET)]);
    set_mode(&closed, 0o700);
    let mut sleep = Command::new("sleep");
    sleep.arg("600").current_dir(closed.join("open"));
    let sleep = Running(sleep.spawn().unwrap());
    let before = site.state();
    let cwd = format!("/proc/{}/cwd", sleep.0.id());
    for dir in [&cwd, text(&closed.join("open"))] {
        let request = format!(
            "{{\"op\":\"deploy\",\"dir\":{dir:?},\"delete\":[],\"dry_run\":false,\"no_cache\":false,\"options\":{{}}}}"
        );
        mentions(
            &raw(&site, ALICE, &request),
            &["failure", "brings no open folder"],
        );
    }
    // Through a link in a folder of one's own, whichever descriptor comes with it.
    let build = folder_of(&site, ALICE, "build", &[("index.html", "a page")]);
    as_user(ALICE, GROUP, || {
        std::os::unix::fs::symlink(&cwd, build.join("in")).unwrap();
    });
    let failure = deploy_opened(&site, ALICE, &build, OFlags::PATH | OFlags::DIRECTORY);
    mentions(&failure.unwrap_err().message, &["in: it is a symlink"]);
    // A file is no folder.
    let page = build.join("index.html");
    let failure = deploy_opened(&site, ALICE, &page, OFlags::RDONLY).unwrap_err();
    mentions(&failure.message, &["brings no open folder"]);
    assert_eq!(site.state(), before);
    // What is not a plain folder of files gives nothing either.
    for dir in ["/proc/self", "/proc/sys/kernel", "/dev"] {
        assert!(
            !run(&site, ALICE, &["deploy", dir]).status.success(),
            "{dir}"
        );
    }
    assert_eq!(site.state(), before);
}

#[test]
fn seal_reads_with_the_rights_of_the_one_who_seals() {
    let site = shared();
    let dir = PathBuf::from(ok(&site, ALICE, &["create", "v1"]));
    let beside = folder_of(&site, ALICE, "theirs", &[]);
    fs::write(beside.join("key"), SECRET).unwrap();
    set_mode(&beside.join("key"), 0o600);
    // To rename a file takes no right on it.
    as_user(ALICE, GROUP, || {
        fs::rename(beside.join("key"), dir.join("key")).unwrap();
        fs::write(dir.join("index.html"), "a page").unwrap();
    });
    assert_eq!(fs::metadata(dir.join("key")).unwrap().uid(), 0);
    let before = deploys(&site);
    let said = refused(&site, ALICE, &["seal", "v1"]);
    mentions(&said, &["key: it cannot be read", text(&dir)]);
    assert_eq!(deploys(&site), before);
    // To remove it takes none either.
    as_user(ALICE, GROUP, || fs::remove_file(dir.join("key")).unwrap());
    let id = ok(&site, ALICE, &["seal", "v1"]);
    assert_eq!(text_of(&site, &id), "a page");
}

#[test]
fn a_staging_folder_of_somebody_else_s_is_neither_sealed_nor_aborted_but_by_root() {
    let site = shared();
    for name in ["v1", "v2"] {
        let dir = PathBuf::from(ok(&site, BOB, &["create", name]));
        as_user(BOB, GROUP, || {
            write_files(&dir, &[("index.html", SECRET), ("css/a.css", "a")])
        });
    }
    let before = contents(&site.staging("v1"));
    for args in [["seal", "v1"], ["abort", "v1"]] {
        let said = refused(&site, ALICE, &args);
        mentions(&said, &["'v1' belongs to daemon", "share it"]);
        assert_eq!(contents(&site.staging("v1")), before);
    }
    assert_eq!(deploys(&site), 0);
    let id = site.ok(["seal", "v1"]);
    mentions(&text_of(&site, &id), &[SECRET]);
    site.ok(["abort", "v2"]);
    assert_eq!(names(&site.staging("")), [".sealing"]);
}

#[test]
fn a_draft_is_hidden_from_other_users_also_where_rsync_opens_its_folder() {
    let site = shared();
    let build = folder_of(&site, ALICE, "build", &[("index.html", SECRET)]);
    set_mode(&build, 0o755);
    let dir = PathBuf::from(ok(&site, ALICE, &["create", "v1"]));
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(build.join(".")).arg(&dir);
    assert!(user(&mut copy, ALICE, GROUP).status().unwrap().success());
    let page = dir.join("index.html");
    let read = |uid: u32, gid: u32| as_user(uid, gid, || fs::read_to_string(&page));
    assert!(read(BOB, GROUP).is_err() && read(MALLORY, MALLORY).is_err());
    let mut copy = Command::new("rsync");
    copy.arg("-a").arg(build.join("")).arg(&dir);
    assert!(user(&mut copy, ALICE, GROUP).status().unwrap().success());
    assert_eq!(
        fs::metadata(&dir).unwrap().mode() & 0o777,
        0o755,
        "rsync gives it the build's mode"
    );
    assert!(read(MALLORY, MALLORY).is_err());
    assert_eq!(read(ALICE, GROUP).unwrap(), SECRET);
    // A store of an older version is closed when it is mounted.
    site.umount();
    set_mode(&site.staging(""), 0o711);
    site.mount(&["--control-group", &GROUP.to_string()]);
    assert!(read(MALLORY, MALLORY).is_err());
    assert_eq!(read(ALICE, GROUP).unwrap(), SECRET);
    ok(&site, ALICE, &["seal", "v1"]);
}

#[test]
fn colleagues_to_whom_a_staging_folder_is_opened_fill_seal_and_abort_it() {
    let site = shared();
    for (name, last) in [("v1", "seal"), ("v2", "abort")] {
        let dir = PathBuf::from(ok(&site, ALICE, &["create", name]));
        as_user(ALICE, GROUP, || {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o2770)).unwrap();
            write_files(&dir, &[("index.html", "of Alice"), ("css/a.css", "a")]);
            set_mode(&dir.join("css"), 0o2775);
        });
        as_user(BOB, GROUP, || {
            write_files(&dir, &[("bob.html", "of Bob"), ("css/b.css", "b")])
        });
        let staged = contents(&dir);
        let id = ok(&site, BOB, &[last, name]);
        if last == "seal" {
            assert_eq!(
                contents(&site.path(&format!("deploys/{id}"))).len(),
                staged.len()
            );
            mentions(&text_of(&site, &id), &["of Alice", "of Bob"]);
        }
        wait_for("the end of the folder", || {
            names(&site.staging("")) == [".sealing"]
        });
    }
    // What a colleague could not remove stays, and is named.
    let dir = PathBuf::from(ok(&site, ALICE, &["create", "v3"]));
    as_user(ALICE, GROUP, || {
        set_mode(&dir, 0o2770);
        write_files(&dir, &[("closed/index.html", "of Alice")]);
        set_mode(&dir.join("closed"), 0o755);
    });
    mentions(
        &refused(&site, BOB, &["abort", "v3"]),
        &["cannot be removed", "v3", "denied"],
    );
    assert!(dir.join("closed/index.html").exists());
    // Their owner can, whatever has been closed.
    set_mode(&dir.join("closed"), 0o555);
    ok(&site, ALICE, &["abort", "v3"]);
    assert!(!dir.exists());
}

/// The capabilities that the packaged unit gives the daemon, as `setpriv` names them.
fn capabilities_of_the_unit() -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deployfs@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let line = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().to_owned()
    };
    let given = line("AmbientCapabilities=");
    assert_eq!(given, line("CapabilityBoundingSet="));
    let names = given.split(' ');
    names.map(|name| name[4..].to_lowercase()).collect()
}

/// A store of the service's user, and its daemon with these capabilities only; `None`: it ended before it was ready.
fn service(capabilities: &[String]) -> (Site, Option<Running>) {
    need_fuse();
    let site = Site::without_a_store();
    chown(site.beside(""), Some(SERVICE), Some(GROUP)).unwrap();
    chown(&site.mnt, Some(SERVICE), Some(GROUP)).unwrap();
    ok(&site, SERVICE, &["init", text(&site.store)]);
    let only: String = capabilities
        .iter()
        .map(|name| format!(",+{name}"))
        .collect();
    let daemon = Command::new("setpriv")
        .args([
            "--reuid",
            &SERVICE.to_string(),
            "--regid",
            &GROUP.to_string(),
        ])
        .args(["--clear-groups", "--no-new-privs"])
        .args(
            ["--inh-caps", "--ambient-caps", "--bounding-set"]
                .map(|set| format!("{set}=-all{only}")),
        )
        .args([
            DEPLOYFS,
            "mount",
            "--foreground",
            "--control-group",
            &GROUP.to_string(),
        ])
        .args([&site.store, &site.mnt])
        .current_dir("/")
        .spawn()
        .unwrap();
    let mut daemon = Running(daemon);
    let mut is_ready = false;
    wait_for("the daemon", || {
        is_ready = site.store.join("control.sock").exists();
        is_ready || daemon.0.try_wait().unwrap().is_some()
    });
    (site, is_ready.then_some(daemon))
}

#[test]
fn the_daemon_needs_the_capabilities_of_its_unit_each_of_them_and_no_other() {
    let all = capabilities_of_the_unit();
    let (site, daemon) = service(&all);
    let daemon = daemon.expect("it is mounted");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
    let in_effect = status
        .lines()
        .find(|line| line.starts_with("CapEff:"))
        .unwrap();
    let bits = u64::from_str_radix(in_effect.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(bits.count_ones() as usize, all.len(), "{status}");
    // Staged: closed folders too, and one that its owner has closed to writing.
    let dir = PathBuf::from(ok(&site, ALICE, &["create", "v1"]));
    as_user(ALICE, GROUP, || {
        write_files(&dir, &[("index.html", "staged"), ("closed/x", "x")]);
        set_mode(&dir.join("closed/x"), 0o600);
        set_mode(&dir.join("closed"), 0o500);
    });
    let one = ok(&site, ALICE, &["seal", "v1"]);
    mentions(&text_of(&site, &one), &["staged"]);
    ok(&site, ALICE, &["create", "v2"]);
    ok(&site, ALICE, &["abort", "v2"]);
    // Deployed: files that only Alice may read, by her; by root as their owner.
    let build = folder_of(&site, ALICE, "build", &[("index.html", SECRET)]);
    set_mode(&build.join("index.html"), 0o600);
    set_mode(&build, 0o700);
    let two = ok(&site, ALICE, &["deploy", text(&build), "--activate"]);
    assert_eq!(site.deploy(&build), two);
    assert_eq!(text_of(&site, &two), SECRET);
    ok(&site, ALICE, &["activate", &one]);
    assert_eq!(ok(&site, ALICE, &["rollback"]), two);
    site.ok(["create", "v3"]);
    write_files(&site.staging("v3"), &[("index.html", "of root")]);
    site.ok(["seal", "v3"]);
    wait_for("the end of the copies", || {
        names(&site.staging("")) == [".sealing"]
    });
    let device = fs::metadata(&site.mnt).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let ahead = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    assert_eq!(fs::read_to_string(ahead).unwrap(), "1024\n");
    site.umount();

    for left_out in &all {
        let others: Vec<String> = all
            .iter()
            .filter(|name| *name != left_out)
            .cloned()
            .collect();
        let (site, daemon) = service(&others);
        if left_out == "sys_admin" {
            assert!(
                daemon.is_none() && !is_mounted(&site.mnt),
                "it is mounted without {left_out}"
            );
            continue;
        }
        let build = folder_of(&site, ALICE, "build", &[("index.html", SECRET)]);
        set_mode(&build.join("index.html"), 0o600);
        let out = match left_out.as_str() {
            "chown" => run(&site, ALICE, &["create", "v1"]),
            _ => run(&site, ALICE, &["deploy", text(&build)]),
        };
        assert!(!out.status.success(), "it works without {left_out}");
        drop(daemon);
    }
}

#[test]
fn a_filesystem_that_keeps_the_daemon_out_is_named_as_the_reason_and_the_remedies_work() {
    let site = shared();
    let below = folder_of(&site, BOB, "below", &[("index.html", "a page")]);
    let above = folder_of(&site, BOB, "above", &[]);
    let mut bindfs = Command::new("bindfs");
    user(
        bindfs.arg("--no-allow-other").arg(&below).arg(&above),
        BOB,
        GROUP,
    )
    .current_dir("/");
    let bound = Mounted(above);
    let out = bindfs.output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let dir = text(&bound.0);
    let why = "FUSE without allow_other";
    mentions(
        &refused(&site, BOB, &["deploy", dir]),
        &[dir, why, "--tar-from"],
    );
    let packed = format!("tar -C {dir} -cf - .");
    let id = ok(&site, BOB, &["deploy", "--tar-from", &packed]);
    let file = below.join("site.dpl");
    let sealed = site.command(["export", &id]).output().unwrap();
    fs::write(&file, sealed.stdout).unwrap();
    let shown = format!("{dir}/site.dpl");
    mentions(
        &refused(&site, BOB, &["import", &shown]),
        &[&shown, why, "import -"],
    );
    let store = site.store.display();
    let mut passed = Command::new("sh");
    let line = format!("cat {shown} | {DEPLOYFS} --store {store} import -");
    let passed = user(passed.args(["-c", &line]), BOB, GROUP)
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(stdout(&passed).trim_end(), id, "{}", stderr(&passed));
}

/// A command of nobody's that has the daemon read the stranger's filesystem, and is killed once the daemon hangs in it.
fn ask_and_leave(site: &Site, stranger: &Stranger, args: &[&str]) {
    let mut command = site.command(args.iter().copied());
    let asking = Running(nobody(&mut command).current_dir("/").spawn().unwrap());
    let hangs = stranger.has_read_within(Duration::from_secs(20));
    drop(asking);
    assert!(hangs, "the daemon does not read the stranger's file");
}

/// Runs a command that must end in time.
fn in_time(site: &Site, args: &[&str]) -> Result<(), String> {
    let mut child = Running(site.command(args.iter().copied()).spawn().unwrap());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
        match child.0.try_wait().unwrap() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{args:?}: {status}")),
            None => {}
        }
    }
    Err(format!("{args:?} is held up"))
}

fn a_hanging_filesystem_holds_up_nobody_else(command: &str, below: &str) {
    let site = Site::unmounted();
    site.mount(&["--control-group", &NOBODY.to_string()]);
    let one = site.seal(&[("index.html", "one")]);
    site.activate(&one);
    let build = site.beside("build");
    write_files(&build, &[("index.html", "two")]);
    let mut stranger = Stranger::for_all();
    let path = stranger.path().join(below);
    ask_and_leave(&site, &stranger, &[command, text(&path)]);
    let work = [
        vec!["deploy", text(&build), "--activate"],
        vec!["create", "v1"],
        vec!["seal", "v1", "--allow-empty"],
        vec!["gc"],
        vec!["rollback"],
    ];
    let done: Result<(), String> = work.iter().try_for_each(|args| in_time(&site, args));
    // Whatever hangs is let go before the test can fail.
    stranger.release();
    drop(stranger);
    assert_eq!(done, Ok(()));
    assert_eq!(site.read("index.html"), "one");
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn an_import_from_a_filesystem_that_hangs_holds_up_nobody_else_s_deploy_and_no_gc() {
    a_hanging_filesystem_holds_up_nobody_else("import", "0");
}

#[test]
fn a_deploy_from_a_filesystem_that_hangs_holds_up_nobody_else_s_deploy_and_no_gc() {
    a_hanging_filesystem_holds_up_nobody_else("deploy", "");
}
