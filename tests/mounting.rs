//! Mounting: as root and as an ordinary user, in the background and for a service manager, over dead mounts, and its end.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::*;

/// The line of the mount table for this path.
fn mount_line(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == path.to_str());
    line.unwrap_or_else(|| panic!("'{}' is not mounted", path.display()))
        .to_owned()
}

#[test]
fn the_mount_is_read_only_nosuid_nodev_noatime_and_named_after_its_store() {
    let site = Site::live_with(&[("a", "1")]);
    let line = mount_line(&site.mnt);
    for option in [
        "ro,",
        "nosuid",
        "nodev",
        "noatime",
        "allow_other",
        "default_permissions",
    ] {
        assert!(line.contains(option), "{option}: {line}");
    }
    assert!(
        line.contains(&format!("fuse.deployfs deployfs:{}", text(&site.store))),
        "{line}"
    );
    site.umount();
    site.mount(&["--fsname", "my-site"]);
    assert!(mount_line(&site.mnt).contains("fuse.deployfs my-site"));
    assert_eq!(site.read("a"), "1");
}

#[test]
fn owners_are_what_mount_is_told() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::live_with(&[("d/a", "1")]);
    site.umount();
    site.mount(&["--uid", "12", "--gid", "34"]);
    for path in ["live", "live/d", "live/d/a", "deploys", ""] {
        let meta = fs::metadata(site.path(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34), "{path}");
    }
}

#[test]
fn noexec_keeps_programs_from_being_executed_and_lets_them_be_read() {
    need_fuse();
    let site = Site::unmounted();
    let build = site.beside("build");
    write_files(&build, &[("run.sh", "#!/bin/sh\necho it runs\n")]);
    sh(&format!("chmod 755 {}/run.sh", build.display()));
    let id = site.deploy(&build);
    let run = |site: &Site| Command::new(site.path(&format!("deploys/{id}/run.sh"))).output();
    site.mount(&[]);
    assert_eq!(stdout(&run(&site).unwrap()), "it runs\n");
    site.umount();
    site.mount(&["--noexec"]);
    let refused = run(&site).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    let text = fs::read_to_string(site.path(&format!("deploys/{id}/run.sh"))).unwrap();
    assert!(text.ends_with("it runs\n"));
}

#[test]
fn sigterm_and_sigint_unmount_and_leave_nothing_behind() {
    let site = Site::live_with(&[("a", "1")]);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        site.signal_daemon(signal);
        assert!(!is_mounted(&site.mnt), "signal {signal}");
        assert!(!site.store.join("control.sock").exists(), "signal {signal}");
        site.mount(&[]);
        assert_eq!(site.read("a"), "1");
    }
}

#[test]
fn a_mount_whose_daemon_was_killed_is_told_by_umount_and_cleared_by_mount() {
    let site = Site::live_with(&[("a", "1")]);
    assert_eq!(site.read("a"), "1");
    site.signal_daemon(libc::SIGKILL);
    assert!(is_mounted(&site.mnt), "the dead mount is still there");
    site.mount(&[]);
    assert_eq!(site.read("a"), "1");
    site.signal_daemon(libc::SIGKILL);
    site.umount();
    assert!(!is_mounted(&site.mnt));
    site.mount(&[]);
    assert_eq!(site.read("a"), "1");
}

#[test]
fn what_is_mounted_there_and_is_not_a_dead_mount_of_ours_is_left_alone() {
    let site = Site::live_with(&[("a", "1")]);
    let other = Site::unmounted();
    let out = deployfs(["mount", text(&other.store), text(&site.mnt)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        stderr(&out).contains("is a mount point already"),
        "{}",
        stderr(&out)
    );
    assert_eq!(site.read("a"), "1");
    sh(&format!("mount -t tmpfs none {}", other.mnt.display()));
    let out = other.try_mount(&[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("tmpfs"), "{}", stderr(&out));
    let out = deployfs(["umount", text(&other.mnt)]);
    assert_eq!(
        out.status.code(),
        Some(1),
        "only our own mounts are unmounted"
    );
    sh(&format!("umount {}", other.mnt.display()));
}

#[test]
fn umount_works_while_files_are_open_and_shells_stand_in_the_mount() {
    let site = Site::live_with(&[("d/a", "1")]);
    let _file = fs::File::open(site.live("d/a")).unwrap();
    let mut shell = Command::new("sleep")
        .arg("60")
        .current_dir(site.live("d"))
        .spawn()
        .unwrap();
    site.umount();
    assert!(!is_mounted(&site.mnt));
    site.mount(&[]);
    assert_eq!(site.read("d/a"), "1");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn a_second_daemon_of_one_store_is_refused_and_told_who_has_it() {
    let site = Site::live_with(&[("a", "1")]);
    let elsewhere = site.beside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let out = deployfs(["mount", text(&site.store), text(&elsewhere)]);
    assert_eq!(out.status.code(), Some(1));
    let said = stderr(&out);
    let pid = format!("in use by process {}", site.daemon_pid());
    let place = format!("already mounted at '{}'", text(&site.mnt));
    mentions(&said, &[&pid, &place]);
    assert!(!is_mounted(&elsewhere));
    assert_eq!(site.read("a"), "1");
}

#[test]
fn a_mount_waits_for_a_command_that_has_the_store() {
    need_fuse();
    let site = Site::unmounted();
    let large = site.beside("large");
    fs::create_dir(&large).unwrap();
    for number in 0..32 {
        fs::write(large.join(format!("f{number}")), noise(number, 1 << 20)).unwrap();
    }
    let mut deploy = site
        .command(["deploy", "--activate", text(&large)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let holds = || {
        let held = fs::read_to_string(site.store.join("lock")).unwrap_or_default();
        held.split(' ').next() == Some(&deploy.id().to_string())
    };
    wait_for("the deploy has the store", holds);
    let was_running = deploy.try_wait().unwrap().is_none();
    let out = site.try_mount(&[]);
    let ended = deploy.wait().unwrap();
    assert!(was_running, "the deploy was over before the mount began");
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(ended.success());
    assert_eq!(site.path("live").read_dir().unwrap().count(), 32);
}

/// A daemon in the foreground, ended when dropped.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        kill(self.0.id() as i32, libc::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn in_the_foreground_it_tells_the_service_manager_when_it_is_ready_and_when_it_ends() {
    need_fuse();
    let site = Site::unmounted();
    let id = site.seal(&[("a", "1")]);
    site.ok(["activate", &id]);
    let path = site.beside("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let daemon = Foreground(
        Command::new(DEPLOYFS)
            .args(["mount", text(&site.store), text(&site.mnt), "--foreground"])
            .env("NOTIFY_SOCKET", &path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let receive = || {
        let mut bytes = [0; 256];
        let len = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    assert!(receive().contains("READY=1"));
    assert_eq!(site.read("a"), "1", "ready means it can be used");
    drop(daemon);
    assert!(receive().contains("STOPPING=1"));
    assert!(!is_mounted(&site.mnt));
}

/// Runs the program as an ordinary user.
fn as_user(uid: u32, args: &[&str]) -> Output {
    user_command(uid, args).output().unwrap()
}

fn user_command(uid: u32, args: &[&str]) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program());
    command
        .args(args)
        .env_remove("DEPLOYFS_STORE")
        .current_dir("/")
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::null());
    command
}

const USER: u32 = 65_534;

/// A store and a mount point that belong to an ordinary user, in a folder that everybody reaches; unmounted when dropped.
struct UserSite {
    site: Site,
}

impl UserSite {
    fn new() -> Self {
        Self::named("store")
    }

    /// The store's folder has this name.
    fn named(name: &str) -> Self {
        need_fuse();
        let mode = fs::metadata("/dev/fuse").unwrap().permissions().mode();
        assert_eq!(
            mode & 0o666,
            0o666,
            "/dev/fuse must be open to all users: chmod 666 /dev/fuse, as scripts/test does"
        );
        let mut site = Site::without_a_store();
        site.store = site.beside(name);
        for folder in [&site.store, &site.mnt] {
            fs::create_dir_all(folder).unwrap();
            chown(folder, Some(USER), Some(USER)).unwrap();
        }
        let out = as_user(USER, &["init", text(&site.store)]);
        assert!(out.status.success(), "{}", stderr(&out));
        UserSite { site }
    }

    fn ok(&self, args: &[&str]) -> String {
        let mut all = vec!["--store", text(&self.site.store)];
        all.extend(args);
        let out = as_user(USER, &all);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out).trim_end().to_owned()
    }
}

#[test]
fn an_ordinary_user_mounts_stages_seals_activates_and_unmounts() {
    let user = UserSite::new();
    let site = &user.site;
    let mounted = as_user(
        USER,
        &[
            "mount",
            text(&site.store),
            text(&site.mnt),
            "--no-allow-other",
        ],
    );
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let staged = user.ok(&["create", "v1"]);
    write_files(Path::new(&staged), &[("index.html", "mine")]);
    let id = user.ok(&["seal", "v1"]);
    assert_eq!(user.ok(&["activate", &id]), id);
    let read = |uid: u32| {
        use std::os::unix::process::CommandExt;
        Command::new("cat")
            .arg(site.live("index.html"))
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap()
    };
    assert_eq!(stdout(&read(USER)), "mine");
    assert!(
        !read(1).status.success(),
        "nobody else sees it without allow_other"
    );
    let out = as_user(USER, &["umount", text(&site.mnt)]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(!is_mounted(&site.mnt));
}

#[test]
fn a_user_mounts_a_store_whose_path_has_commas_and_backslashes() {
    let user = UserSite::named("a,b\\c, d=e");
    let site = &user.site;
    let mount = [
        "mount",
        text(&site.store),
        text(&site.mnt),
        "--no-allow-other",
    ];
    let mounted = as_user(USER, &mount);
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    // The mount table leads to the store, as for any other path.
    let status = {
        use std::os::unix::process::CommandExt;
        let mut status = Command::new(DEPLOYFS);
        let status = status.arg("status").current_dir(&site.mnt);
        status
            .env_remove("DEPLOYFS_STORE")
            .uid(USER)
            .gid(USER)
            .output()
    };
    let status = status.unwrap();
    assert!(status.status.success(), "{}", stderr(&status));
    mentions(&stdout(&status), &[text(&site.store)]);
    let out = as_user(USER, &["umount", text(&site.mnt)]);
    assert!(out.status.success(), "{}", stderr(&out));
}

#[test]
fn umount_fails_and_says_why_where_fusermount3_cannot_take_the_mount_off() {
    let user = UserSite::new();
    let site = &user.site;
    let tools = site.beside("tools");
    let refuses = "#!/bin/sh\ncase $1 in -u) echo 'not in the table' >&2; exit 1;; esac\nexec /usr/bin/fusermount3 \"$@\"\n";
    write_files(&tools, &[("fusermount3", refuses)]);
    let program = tools.join("fusermount3");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let run = |args: &[&str]| {
        user_command(USER, args)
            .env("PATH", &path)
            .output()
            .unwrap()
    };
    let (store, mnt) = (text(&site.store), text(&site.mnt));
    let mounted = run(&["mount", store, mnt, "--no-allow-other"]);
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let said = refusal(&run(&["umount", mnt]), 1);
    mentions(&said, &[mnt, "not in the table"]);
    assert!(is_mounted(&site.mnt));
    let out = as_user(USER, &["umount", mnt]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(!is_mounted(&site.mnt));
}

#[test]
fn where_fuse_conf_forbids_mounting_for_others_the_message_says_what_to_do() {
    let user = UserSite::new();
    let site = &user.site;
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .unwrap_or_default()
        .lines()
        .any(|line| line.trim() == "user_allow_other");
    let out = as_user(USER, &["mount", text(&site.store), text(&site.mnt)]);
    if allowed {
        assert!(out.status.success(), "{}", stderr(&out));
        assert!(mount_line(&site.mnt).contains("allow_other"));
        return;
    }
    assert_eq!(out.status.code(), Some(1));
    let said = stderr(&out);
    for part in [
        "/etc/fuse.conf",
        "user_allow_other",
        "--no-allow-other",
        text(&site.mnt),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!is_mounted(&site.mnt));
}

#[test]
fn who_may_not_deploy_reads_which_command_mends_that() {
    let site = Site::unmounted();
    let said = || refusal(&as_user(USER, &["--store", text(&site.store), "list"]), 1);
    mentions(
        &said(),
        &[
            "no daemon is running for",
            text(&site.store),
            "systemctl start",
        ],
    );
    site.mount(&["--control-group", "daemon"]);
    mentions(
        &said(),
        &["may not deploy", "sudo adduser", " daemon, then"],
    );
}

#[test]
fn another_user_may_neither_control_the_store_nor_read_its_files() {
    let site = Site::live_with(&[("a", "1")]);
    let out = as_user(USER, &["--store", text(&site.store), "status"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("you may not use"), "{}", stderr(&out));
    for name in ["packs", "deploys", "index"] {
        let mode = fs::metadata(site.store.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
    for name in ["history", "head", "format", "lock", "daemon.log"] {
        let mode = fs::metadata(site.store.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let mode = |name| fs::metadata(site.store.join(name)).unwrap().permissions();
    assert_eq!(mode("").mode() & 0o777, 0o711);
    // Only a control group has a way through to its staging folders.
    assert_eq!(mode("staging").mode() & 0o777, 0o700);
    site.umount();
    site.mount(&["--control-group", &USER.to_string()]);
    assert_eq!(mode("staging").mode() & 0o777, 0o710);
}

#[test]
fn a_member_of_the_control_group_stages_seals_and_activates() {
    let site = Site::live_with(&[("a", "1")]);
    site.umount();
    site.mount(&["--control-group", &USER.to_string()]);
    let run = |args: &[&str]| {
        let mut all = vec!["--store", text(&site.store)];
        all.extend(args);
        let out = as_user(USER, &all);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out).trim_end().to_owned()
    };
    let staged = run(&["create", "v2"]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        fs::metadata(&staged).unwrap().uid(),
        USER,
        "the folder is theirs"
    );
    write_files(Path::new(&staged), &[("a", "2")]);
    let id = run(&["seal", "v2", "-m", "by a member"]);
    run(&["activate", &id]);
    assert_eq!(site.read("a"), "2");
    let log = site.json(["log"]);
    let last = log.as_array().unwrap().last().unwrap();
    assert_eq!(last["actor"], "nobody");
    // Read with the member's rights, written with the daemon's: more than fits one buffer.
    let folder = site.beside("theirs");
    for number in 0..40 {
        write_noise(&folder.join(format!("f{number}")), number, 100_000);
    }
    let id = run(&["deploy", text(&folder)]);
    assert_eq!(
        contents(&site.path(&format!("deploys/{id}"))),
        contents(&folder)
    );
}

/// A store of `nobody`'s with a deploy, and a file of root's beside it.
fn store_of_nobody() -> (Site, PathBuf) {
    let site = Site::unmounted();
    let id = site.seal(&[("a", "1")]);
    site.ok(["activate", &id]);
    sh(&format!("chown -R {NOBODY}:{NOBODY} {}", text(&site.store)));
    let precious = site.beside("precious");
    fs::write(&precious, "root's own").unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    (site, precious)
}

#[test]
fn root_follows_no_link_that_the_owner_of_a_store_has_put_there() {
    for name in ["lock", "history", "head", "format", "daemon.log"] {
        let (site, precious) = store_of_nobody();
        let path = site.store.join(name);
        fs::remove_file(&path).ok();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let out = match name {
            "daemon.log" => site.try_mount(&[]),
            _ => site.run(["gc"]),
        };
        // The hint is made anew in place of what is there.
        if name == "head" {
            site.run(["pin", "live"]);
            assert!(!path.is_symlink() || !out.status.success());
        } else {
            mentions(&refusal(&out, 1), &[name, "link"]);
        }
        assert_eq!(
            fs::read_to_string(&precious).unwrap(),
            "root's own",
            "{name}"
        );
    }
    for name in ["packs", "deploys", "cache", "index", "staging"] {
        let (site, precious) = store_of_nobody();
        let (path, aside) = (site.store.join(name), site.beside("aside"));
        fs::rename(&path, &aside).unwrap();
        let folder = site.beside("folder of root");
        fs::create_dir(&folder).unwrap();
        fs::rename(&precious, folder.join("precious")).unwrap();
        std::os::unix::fs::symlink(&folder, &path).unwrap();
        let build = site.beside("build");
        write_files(&build, &[("b", "2")]);
        for args in [
            &["gc"][..],
            &["deploy", text(&build)],
            &["abort", "precious"],
        ] {
            let said = site.refused(1, args.iter().copied());
            mentions(&said, &[name]);
        }
        assert_eq!(names(&folder), ["precious"], "{name}");
    }
    // A second name for a file of root's, where the kernel allows that, and a pipe.
    let (site, precious) = store_of_nobody();
    let lock = site.store.join("lock");
    fs::remove_file(&lock).unwrap();
    fs::hard_link(&precious, &lock).unwrap();
    mentions(&site.refused(1, ["gc"]), &["lock", "belongs to user 0"]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "root's own");
    fs::remove_file(&lock).unwrap();
    sh(&format!("mkfifo {0} && chown {NOBODY} {0}", text(&lock)));
    mentions(&site.refused(1, ["gc"]), &["lock", "no regular file"]);
}

#[test]
fn what_root_writes_into_another_users_store_is_its_owners() {
    use std::os::unix::fs::MetadataExt;
    let (site, _) = store_of_nobody();
    let build = site.beside("build");
    write_files(&build, &[("b", "2")]);
    let id = site.deploy(&build);
    site.ok(["activate", &id]);
    let folders = ["", "packs", "deploys", "cache"].map(|name| site.store.join(name));
    for folder in folders {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let uid = entry.metadata().unwrap().uid();
            assert_eq!(uid, NOBODY, "{}", entry.path().display());
        }
    }
    let out = as_user(
        NOBODY,
        &["--store", text(&site.store), "activate", "previous"],
    );
    assert!(out.status.success(), "{}", stderr(&out));
}

#[test]
fn umount_of_a_path_in_the_mount_or_of_a_bind_leaves_the_site_alone() {
    let site = Site::live_with(&[("a", "1")]);
    let said = site.refused(1, ["umount", text(&site.live(""))]);
    mentions(&said, &["lies in the mount at", text(&site.mnt)]);
    let bound = site.beside("bound");
    fs::create_dir(&bound).unwrap();
    sh(&format!(
        "mount --bind {} {}",
        site.live("").display(),
        bound.display()
    ));
    let said = site.refused(1, ["umount", text(&bound)]);
    sh(&format!("umount {}", bound.display()));
    mentions(&said, &["is a bind of a part", "umount "]);
    assert_eq!(site.read("a"), "1");
}
