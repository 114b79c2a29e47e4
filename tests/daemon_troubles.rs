//! The daemon as a service: its mount is moved or covered, it is stopped, ended under load, short of memory and descriptors,
//! under a clock that goes back, and over a disk that goes away. It says what is wrong, nobody hangs, no dead mount is left.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deployfs::deploy::Deployfs;
use deployfs::process::State;

use crate::support::*;

const PAGE: (&str, &str) = ("a", "1");

fn daemon_log(site: &Site) -> String {
    fs::read_to_string(site.store.join("daemon.log")).unwrap()
}

fn is_running(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn end(pid: i32) {
    kill(pid, libc::SIGTERM);
    wait_for("the daemon's end", || !is_running(pid));
}

/// A site whose mount point may be moved: the filesystem it is on tells no other of its mounts.
fn movable() -> (Site, Mounted) {
    need_fuse();
    let mut site = Site::unmounted();
    let apart = Mounted::tmpfs(&site.beside("apart"));
    sh(&format!("mount --make-private {}", apart.0.display()));
    site.mnt = apart.0.join("mnt");
    fs::create_dir(&site.mnt).unwrap();
    site.mount(&[]);
    let id = site.seal(&[PAGE]);
    site.activate(&id);
    (site, apart)
}

#[test]
fn a_moved_mount_goes_on_is_told_and_is_unmounted_where_it_is() {
    for by_command in [false, true] {
        let (site, apart) = movable();
        let moved = apart.0.join("moved");
        fs::create_dir(&moved).unwrap();
        sh(&format!(
            "mount --move {} {}",
            site.mnt.display(),
            moved.display()
        ));
        let read = || fs::read_to_string(moved.join("live/a")).unwrap();
        assert_eq!(read(), "1");
        let two = site.seal(&[("a", "2")]);
        site.activate(&two);
        assert_eq!(read(), "2");
        site.ok(["rollback"]);
        assert_eq!(read(), "1");
        assert_eq!(site.json(["status"])["mountpoint"], text(&moved));
        let pid = site.daemon_pid();
        match by_command {
            true => assert!(deployfs(["umount", text(&moved)]).status.success()),
            false => end(pid),
        }
        assert!(!is_mounted(&moved), "a dead mount is left");
        wait_for("the daemon's end", || !is_running(pid));
        site.mount(&[]);
        assert_eq!(site.read("a"), "1");
    }
}

#[test]
fn what_covers_the_mount_is_left_alone_told_and_a_mount_after_it_works() {
    let site = Site::live_with(&[PAGE]);
    let cover = Mounted::tmpfs(&site.mnt);
    fs::write(site.mnt.join("maintenance"), "soon").unwrap();
    let two = site.seal(&[("a", "2")]);
    site.activate(&two);
    let said = refusal(&deployfs(["umount", text(&site.mnt)]), 1);
    mentions(&said, &["is not a deployfs mount"]);
    end(site.daemon_pid());
    assert_eq!(
        fs::read_to_string(site.mnt.join("maintenance")).unwrap(),
        "soon"
    );
    mentions(
        &daemon_log(&site),
        &["covered by another mount", text(&site.mnt)],
    );
    sh(&format!("umount {}", cover.0.display()));
    site.mount(&[]);
    assert_eq!(site.read("a"), "2");
    site.umount();
    assert!(!is_mounted(&site.mnt), "a dead mount is left below");
}

/// A stopped process that goes on when this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> Self {
        kill(pid, libc::SIGSTOP);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, libc::SIGCONT);
    }
}

#[test]
fn commands_say_that_the_daemon_is_stopped_and_work_again_when_it_goes_on() {
    let site = Site::live_with(&[PAGE]);
    let two = site.seal(&[("a", "2")]);
    let other = Site::unmounted();
    let pid = site.daemon_pid();
    let stopped = Stopped::new(pid);
    let started = Instant::now();
    let hint = format!("kill -CONT {pid}");
    std::thread::scope(|scope| {
        for args in [vec!["status"], vec!["activate", &two]] {
            let (site, hint) = (&site, &hint);
            scope.spawn(move || mentions(&site.refused(1, args), &["is stopped", hint]));
        }
        scope.spawn(|| {
            let said = refusal(&deployfs(["umount", text(&site.mnt)]), 1);
            mentions(&said, &["is stopped", &hint]);
        });
        scope.spawn(|| {
            let said = refusal(&deployfs(["mount", text(&other.store), text(&site.mnt)]), 1);
            mentions(&said, &["is a mount point already"]);
        });
    });
    assert!(started.elapsed() < Duration::from_secs(30));
    // A request whose client has gone is dropped when it goes on; what comes while it is stopped is answered then.
    drop(stopped);
    assert_eq!(site.read("a"), "1");
    assert!(is_running(pid) && is_mounted(&site.mnt));
    site.activate(&two);

    let stopped = Stopped::new(pid);
    let waiting = site
        .command(["status", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    drop(stopped);
    let out = waiting.wait_with_output().unwrap();
    mentions(&stdout(&out), &[&two]);
    assert_eq!(site.read("a"), "2");
}

/// Killed while it waits for the daemon's answer, that thread would else keep /dev/fuse and the lock open, and the mount from ending.
#[test]
fn the_thread_that_looks_into_its_own_mount_has_nothing_of_the_daemon_open() {
    let site = Site::live_with(&[PAGE]);
    let two = site.seal(&[("a", "2")]);
    site.activate(&two);
    let pid = site.daemon_pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let look_up = threads.map(|thread| thread.path()).find(|thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name == "look-up\n")
    });
    let open = names(&look_up.expect("there is such a thread").join("fd"));
    let standard = ["0", "1", "2"].map(OsString::from);
    assert!(open.iter().all(|fd| standard.contains(fd)), "{open:?}");
}

/// Kills the daemon while it reads its own mount: it was to answer itself, so a thread of it waits and it does not end. None: it was
/// not in the middle of it. Else its process id and what its client was told.
fn kill_within_its_own_mount(site: &Site) -> Option<(i32, String)> {
    let pid = site.daemon_pid();
    let live = site.path("live");
    let client = site
        .command(["deploy", "--dry-run", text(&live)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reads = || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        open.any(|path| path.starts_with(&live))
    };
    wait_for("a look into its own mount", reads);
    kill(pid, libc::SIGKILL);
    let told = stderr(&client.wait_with_output().unwrap());
    Deployfs::is_in_use(&site.store).then_some((pid, told))
}

#[test]
fn a_killed_daemon_that_waits_for_its_own_answer_holds_up_neither_its_client_nor_the_next_command()
{
    let site = Site::new();
    let staging = site.staging("v1");
    write_noise(&staging.join("large"), 1, 64 << 20);
    let one = site.ok(["seal", "v1"]);
    site.activate(&one);
    let mount: &dyn Fn() = &|| site.mount(&[]);
    let umount = || site.umount();
    let activate = || site.activate(&one);
    let fsck = || drop(site.ok(["fsck"]));
    // With a name of its own the mount is found by its device.
    let named: &[&str] = &["--fsname", "my-site"];
    let nexts = [mount, &umount, &activate, &fsck, &activate];
    for (next, more) in nexts.into_iter().zip([&[][..], &[], &[], named, named]) {
        // Over what is left of the one before, if something is.
        deployfs(["umount", text(&site.mnt)]);
        site.mount(more);
        let mut tries = 0;
        let (pid, told) = loop {
            tries += 1;
            assert!(tries < 20, "it always ended by itself");
            match kill_within_its_own_mount(&site) {
                Some(stuck) => break stuck,
                None => site.mount(more),
            }
        };
        mentions(&told, &["has been killed and cannot end", &pid.to_string()]);
        let started = Instant::now();
        next();
        assert!(started.elapsed() < Duration::from_secs(10));
        let has_ended = !Deployfs::is_in_use(&site.store);
        let holder = Deployfs::last_writer(&site.store).unwrap();
        assert!(has_ended || holder.pid != pid);
    }
    deployfs(["umount", text(&site.mnt)]);
    site.mount(&[]);
    assert_eq!(fs::metadata(site.live("large")).unwrap().len(), 64 << 20);
}

#[test]
fn a_killed_process_counts_as_killed_also_while_it_waits_in_closing_a_file() {
    let site = Site::live_with(&[("file", "bytes")]);
    // Nobody may close a file of the mount before: from then on the kernel knows that there is nothing to wait for. With its
    // standard input closed the shell gets the file as that at once, and has no other to close.
    let script = format!("exec <&- <{}; exec sleep 600", site.live("file").display());
    let daemon = site.daemon_pid();
    let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let pid = child.id() as i32;
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    wait_for("the sleep", || state().contains("(sleep) S"));
    let is_killed = || State::of(pid).unwrap().is_killed();
    assert!(!is_killed());
    kill(daemon, libc::SIGSTOP);
    let threads = || {
        fs::read_dir(format!("/proc/{daemon}/task"))
            .unwrap()
            .flatten()
    };
    let stopped = |stat: String| stat.contains(") T ");
    wait_for("each thread to stop", || {
        threads().all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped))
    });
    kill(pid, libc::SIGKILL);
    wait_for("its wait for the daemon", || state().contains("(sleep) D"));
    let told = is_killed();
    kill(daemon, libc::SIGCONT);
    child.wait().unwrap();
    assert!(told);
}

#[test]
fn sigterm_under_load_leaves_no_mount_no_process_and_all_that_was_acknowledged() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 6);
    for round in 0..4 {
        site.flip(&deploys.ids[0]);
        let nginx = Nginx::serve(&site.live(""));
        let pid = site.daemon_pid();
        let (over, ends) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let _over = Over(&over);
            for path in TELLING {
                let (site, deploys, over) = (&site, &deploys, &over);
                let mut http = nginx.connect();
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        let response = http.get(&format!("/{path}"));
                        if response.status == 200 {
                            deploys.number_of(path, &response.body);
                        } else {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        if let Ok(bytes) = fs::read(site.live(path)) {
                            deploys.number_of(path, &bytes);
                        }
                    }
                });
            }
            let seals = scope.spawn(|| {
                let dir = site.beside(&format!("round-{round}"));
                for number in 0.. {
                    write_noise(&dir.join("noise"), number, 2_000_000);
                    let out = site.run(["deploy", text(&dir), "--activate"]);
                    if ends.load(Ordering::SeqCst) || over.load(Ordering::SeqCst) {
                        break;
                    }
                    assert!(out.status.success(), "{}", stderr(&out));
                }
            });
            std::thread::sleep(Duration::from_millis(150 + 130 * round));
            ends.store(true, Ordering::SeqCst);
            end(pid);
            assert!(!is_mounted(&site.mnt), "a dead mount is left");
            over.store(true, Ordering::SeqCst);
            seals.join().unwrap();
        });
        drop(nginx);
        site.mount(&[]);
        site.ok(["fsck", "--read-data"]);
    }
}

/// The memory controller's folder of this test, removed when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// None where no group can be made.
    fn new(bytes: usize) -> Option<Self> {
        let name = format!("deployfs-test-{}-{bytes}", std::process::id());
        let limits = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        limits.into_iter().find_map(|(root, limit)| {
            let group = MemoryGroup(Path::new(root).join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let removed = || fs::remove_dir(&self.0).is_ok();
        if !std::thread::panicking() {
            wait_for("the end of the group", removed);
        }
    }
}

/// Mounts with so little memory; true if that went well.
fn mount_within(site: &Site, bytes: usize) -> (bool, Option<MemoryGroup>) {
    let group = MemoryGroup::new(bytes);
    let limit = match &group {
        Some(group) => format!("echo $$ > {}/cgroup.procs", group.0.display()),
        // Address space is not memory: threads' stacks count in full.
        None => format!("ulimit -v {}", bytes / 1024 + 400_000),
    };
    let script = format!("{limit}; exec \"$@\"");
    let mounted = Command::new("bash")
        .args(["-euc", &script, "bash", DEPLOYFS, "mount"])
        .args([&site.store, &site.mnt])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (mounted.status.success(), group)
}

#[test]
fn a_daemon_short_of_memory_refuses_or_is_killed_and_never_gives_wrong_bytes() {
    need_fuse();
    let site = Site::unmounted();
    let folder = site.beside("big");
    for number in 0..24 {
        write_noise(&folder.join(format!("f{number}")), number, 2_000_000);
    }
    let id = site.deploy(&folder);
    site.activate(&id);
    let expected = contents(&folder);
    let mut hit = 0;
    for mebibytes in [2, 4, 6, 9, 13, 20] {
        let (mounted, group) = mount_within(&site, mebibytes << 20);
        let mut was_hit = !mounted;
        if mounted {
            for (name, (_, _, hash)) in &expected {
                let path = site.live(std::str::from_utf8(name).unwrap());
                match fs::read(&path) {
                    Ok(bytes) => assert_eq!(*blake3::hash(&bytes).to_hex(), **hash),
                    Err(_) => was_hit = true,
                }
            }
            fs::write(folder.join("f0"), noise(mebibytes as u64, 8_000_000)).unwrap();
            was_hit |= !site.run(["deploy", text(&folder)]).status.success();
        }
        hit += usize::from(was_hit);
        // Whatever became of it: unmounted or dead, it is cleared, and the next one has all that was acknowledged.
        deployfs(["umount", text(&site.mnt)]);
        wait_for("the daemon's end", || {
            !deployfs::deploy::Deployfs::is_in_use(&site.store)
        });
        drop(group);
        site.mount(&[]);
        assert_eq!(contents(&site.live("")), expected, "{mebibytes} MiB");
        site.ok(["fsck", "--read-data"]);
        site.umount();
        assert!(!is_mounted(&site.mnt));
    }
    assert!(hit > 0, "no limit was hit");
}

/// Processor time that a process has used, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_daemon_without_descriptors_says_so_serves_what_it_can_and_goes_on_with_more() {
    let site = Site::live_with(&[("index.html", "1"), ("cold", "cold")]);
    let two = site.seal(&[("index.html", "2")]);
    assert_eq!(site.read("index.html"), "1");
    let pid = site.daemon_pid();
    // The descriptor that the daemon keeps for such times; those below it that are free are taken by the clients below.
    let is_null = |fd: &i32| {
        fs::read_link(format!("/proc/{pid}/fd/{fd}"))
            .is_ok_and(|path| path == Path::new("/dev/null"))
    };
    let most = (3..64).rfind(is_null).unwrap() + 1;
    sh(&format!("prlimit --pid {pid} --nofile={most}:20000"));
    let before = ticks(pid);
    let started = Instant::now();
    let mut refused = 0;
    // Clients that keep what is left.
    let socket = site.store.join("control.sock");
    let held: Vec<_> = (0..20).map(|_| UnixStream::connect(&socket)).collect();
    while started.elapsed() < Duration::from_secs(3) {
        let out = site.run(["activate", &two]);
        if !out.status.success() {
            refused += 1;
            let said = stderr(&out);
            let is_told = [
                "no file descriptor left",
                "Too many open files",
                "has not taken the request",
            ];
            assert!(is_told.iter().any(|part| said.contains(part)), "{said}");
        }
    }
    assert!(refused > 0, "nobody was refused");
    assert!(ticks(pid) - before < 100, "the daemon spins");
    assert!(is_mounted(&site.mnt));
    // Without even that one a client waits, and not for ever. An accept that waits already has its descriptor.
    sh(&format!("prlimit --pid {pid} --nofile=3:20000"));
    let mut answers = (0..3).map(|_| stderr(&site.run(["activate", &two])));
    let left = answers.find(|said| said.contains("has not taken the request"));
    mentions(&left.expect("a client is left"), &["file descriptors"]);
    mentions(&daemon_log(&site), &["clients wait", "no file descriptor"]);
    assert!(is_mounted(&site.mnt));
    // Right or an error, and the error is in the log.
    match fs::read_to_string(site.path("deploys").join(&two).join("index.html")) {
        Ok(page) => assert_eq!(page, "2"),
        Err(_) => mentions(&daemon_log(&site), &["Too many open files"]),
    }
    let lines = daemon_log(&site).lines().count();
    assert!(
        lines < 200,
        "the log grows by {lines} lines in three seconds"
    );
    drop(held);
    sh(&format!("prlimit --pid {pid} --nofile=1024:20000"));
    wait_for("the next client", || site.run(["status"]).status.success());
    site.activate(&two);
    assert_eq!(site.read("index.html"), "2");
    site.umount();
    site.ok(["fsck", "--read-data"]);
}

/// Between the program and the machine's clock: subtracts so many seconds.
const CLOCK: &str = r#"
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    int clock_gettime(clockid_t clock, struct timespec *now) {
        int answer = syscall(SYS_clock_gettime, clock, now);
        const char *back = getenv("SECONDS_BACK");
        if (clock == CLOCK_REALTIME && back) now->tv_sec -= atol(back);
        return answer;
    }
"#;

#[test]
fn p7_with_the_clock_set_back_by_a_day_validators_differ_and_locks_and_channels_hold() {
    need_fuse();
    let site = Site::unmounted();
    let library = library(&site.beside(""), CLOCK);
    site.mount(&[]);
    let one = site.seal(&[("a", "1")]);
    site.activate(&one);
    let first = fs::metadata(site.live("a")).unwrap().mtime();
    site.ok(["channel", "set", "preview", &one, "--expires", "3s"]);
    site.ok(["lock", "-m", "a sale", "--until", "1h"]);
    site.umount();

    let mounted = Command::new(DEPLOYFS)
        .arg("mount")
        .args([&site.store, &site.mnt])
        .env("LD_PRELOAD", &library)
        .env("SECONDS_BACK", "86400")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let yesterday = site.json(["status"])["mounted_since"].as_i64().unwrap();
    assert!(yesterday < first - 80_000, "the clock is set back");
    // A lock holds, a channel stays: their ends are a day further away.
    mentions(&site.refused(3, ["activate", &one]), &["a sale"]);
    std::thread::sleep(Duration::from_secs(4));
    assert!(site.path("channels/preview/a").exists());
    site.ok(["unlock"]);
    let mut seconds = vec![first];
    for page in ["2", "3"] {
        let id = site.seal(&[("a", page)]);
        site.activate(&id);
        seconds.push(fs::metadata(site.live("a")).unwrap().mtime());
    }
    assert!(seconds.is_sorted_by(|a, b| a < b), "{seconds:?}");
    site.umount();
    // Set right again: what was to end by now ends.
    site.mount(&[]);
    let preview = site.path("channels/preview");
    wait_for("the channel's end", || !preview.exists());
    assert_eq!(site.read("a"), "3");
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn on_a_disk_that_turns_read_only_reads_go_on_changes_are_refused_and_the_end_is_clean() {
    need_fuse();
    let disk = Disk::new(48);
    let site = Site::unmounted_on(&disk.path);
    site.mount(&[]);
    let one = site.seal(&[("a", "1")]);
    let two = site.seal(&[("a", "2")]);
    site.activate(&one);
    // As ext4 does it itself after an error.
    sh(&format!("mount -o remount,abort {}", disk.path.display()));
    for args in [vec!["activate", &two], vec!["create"]] {
        mentions(&site.refused(1, args), &["Read-only file system"]);
    }
    drop_caches();
    assert_eq!(site.read("a"), "1");
    site.ok(["status"]);
    // Also what the daemon has not opened yet, or no more.
    site.ok(["verify"]);
    let told = site.run(["fsck", "--read-data"]);
    mentions(&stdout(&told), &["has stopped taking changes"]);
    end(site.daemon_pid());
    assert!(!is_mounted(&site.mnt), "a dead mount is left");
    disk.start_again();
    site.mount(&[]);
    assert_eq!(site.read("a"), "1");
    site.activate(&two);
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn on_a_disk_that_is_gone_reads_fail_or_are_right_nobody_hangs_and_the_end_is_clean() {
    need_fuse();
    for lazily_unmounted in [false, true] {
        let disk = Disk::new(48);
        let site = Site::unmounted_on(&disk.path);
        site.mount(&[]);
        let one = site.seal(&[("a", "1")]);
        let two = site.seal(&[("a", "2")]);
        site.activate(&one);
        let pid = site.daemon_pid();
        match lazily_unmounted {
            true => {
                sh(&format!("umount -l {}", disk.path.display()));
            }
            false => disk.cut_power(),
        }
        drop_caches();
        for (path, page) in [("live/a".into(), "1"), (format!("deploys/{two}/a"), "2")] {
            if let Ok(found) = fs::read_to_string(site.path(&path)) {
                assert_eq!(found, page);
            }
        }
        for args in [vec!["activate", &two], vec!["create"]] {
            let out = site.run(args);
            assert_ne!(out.status.code(), Some(0), "{}", stdout(&out));
            assert!(stderr(&out).contains(text(&site.store)) || stderr(&out).contains("error"));
        }
        assert!(is_running(pid), "it waits for its end");
        match lazily_unmounted {
            // Its control socket is gone with the disk: the mount is taken off, and that ends it.
            true => site.umount(),
            false => kill(pid, libc::SIGTERM),
        }
        wait_for("the daemon's end", || !is_running(pid));
        assert!(!is_mounted(&site.mnt), "a dead mount is left");
        match lazily_unmounted {
            true => disk.mount(),
            false => disk.start_again(),
        }
        site.mount(&[]);
        assert_eq!(site.read("a"), "1");
        site.activate(&two);
        site.ok(["fsck", "--read-data"]);
    }
}

/// Runs `deployfs ARGS` in another PID namespace, with its own /proc, where a process that has ended and was not waited for has this number.
fn beside_a_zombie_with_number(pid: i32, site: &Site, args: &str) -> std::process::Output {
    let ready = site.beside("zombie");
    fs::remove_file(&ready).ok();
    // Nobody else may start a process between the two.
    let script = format!(
        "sh -c 'echo {before} > /proc/sys/kernel/ns_last_pid; sleep 0.2 & : > {ready}; exec sleep 30' & keeper=$!
         until [ -e {ready} ]; do :; done
         until grep -q '^State:.Z' /proc/{pid}/status; do [ $((i += 1)) -lt 500 ] || exit 99; sleep 0.01; done
         {DEPLOYFS} {args}; code=$?
         kill $keeper; exit $code",
        before = pid - 1,
        ready = text(&ready),
    );
    Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", &script])
        .env("DEPLOYFS_STORE", &site.store)
        .output()
        .unwrap()
}

#[test]
fn a_number_of_another_pid_namespace_is_not_taken_for_the_daemons() {
    let site = Site::live_with(&[PAGE]);
    let pid = site.daemon_pid();
    for args in ["status", "log"] {
        let out = beside_a_zombie_with_number(pid, &site, args);
        assert!(out.status.success(), "{}", stderr(&out));
        assert_eq!(site.daemon_pid(), pid);
        assert!(is_mounted(&site.mnt) && is_running(pid));
        assert_eq!(site.read("a"), "1");
        // Its cold files too.
        let names: Vec<_> = fs::read_dir(site.live("")).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
    }
    // Another one that wants the store is told where its holder is.
    let other = site.beside("other");
    fs::create_dir(&other).unwrap();
    let mount = format!("mount --foreground {} {}", text(&site.store), text(&other));
    let out = beside_a_zombie_with_number(pid, &site, &mount);
    mentions(
        &stderr(&out),
        &["in use by process", "of another PID namespace"],
    );
}
