//! A store, its mount and the program that works on both.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deployfs::control::client::Client;
use deployfs::model::report::{ActivateRequest, Answer, Request};
use serde_json::Value;
use tempfile::TempDir;

use super::files::{Fact, facts, write_files};

/// The program under test.
pub const DEPLOYFS: &str = env!("CARGO_BIN_EXE_deployfs");

/// The same program where every user may execute it: a copy if the folder that it was built in is closed to others, as /root is.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Path::new(DEPLOYFS);
        let is_open = |path: &Path| path.metadata().unwrap().mode() & 0o001 != 0;
        if built.ancestors().all(is_open) {
            return built.to_owned();
        }
        let folder = tempfile::Builder::new()
            .prefix("deployfs-program-")
            .tempdir()
            .unwrap();
        set_mode(folder.path(), 0o755);
        let copy = folder.path().join("deployfs");
        fs::copy(built, &copy).unwrap();
        set_mode(&copy, 0o755);
        COPY.set(folder).unwrap();
        // SAFETY: the function takes and returns nothing, and lives as long as the process.
        unsafe { libc::atexit(remove_copy) };
        copy
    })
}

static COPY: OnceLock<TempDir> = OnceLock::new();

/// Statics are not dropped when a process ends.
extern "C" fn remove_copy() {
    if let Some(folder) = COPY.get() {
        fs::remove_dir_all(folder.path()).ok();
    }
}

/// A store in a folder of its own, with a mount point beside it. Dropping it unmounts, ends the daemon, and removes all.
pub struct Site {
    folder: TempDir,
    /// The store's folder.
    pub store: PathBuf,
    /// The mount point.
    pub mnt: PathBuf,
    /// The channel that flips and reads are about: `live`, unless a test chooses another.
    pub channel: &'static str,
}

impl Site {
    /// A new store, not mounted.
    pub fn unmounted() -> Self {
        let site = Self::without_a_store();
        let init = deployfs(["init", text(&site.store)]);
        assert!(init.status.success(), "{}", stderr(&init));
        site
    }

    /// A new store in a folder of another filesystem, not mounted. Drop it before that filesystem.
    pub fn unmounted_on(disk: &Path) -> Self {
        let mut site = Self::without_a_store();
        site.store = disk.join("store");
        let init = deployfs(["init", text(&site.store)]);
        assert!(init.status.success(), "{}", stderr(&init));
        site
    }

    /// Only the mount point; nothing is there where the store belongs.
    pub fn without_a_store() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-test-")
            .tempdir()
            .unwrap();
        // The web server's workers must reach the mount.
        set_mode(folder.path(), 0o755);
        let site = Site {
            store: folder.path().join("store"),
            mnt: folder.path().join("mnt"),
            channel: "live",
            folder,
        };
        fs::create_dir(&site.mnt).unwrap();
        site
    }

    /// A new store, mounted.
    pub fn new() -> Self {
        need_fuse();
        let site = Self::unmounted();
        site.mount(&[]);
        site
    }

    /// A mounted store whose live deploy has these files.
    pub fn live_with(files: &[(&str, &str)]) -> Self {
        let site = Self::new();
        let id = site.seal(files);
        site.activate(&id);
        site
    }

    /// A folder beside store and mount, for whatever a test needs.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Mounts, with more arguments, and waits until it can be used.
    pub fn mount(&self, more: &[&str]) {
        let out = self.try_mount(more);
        assert!(out.status.success(), "mount: {}", stderr(&out));
    }

    /// Mounts and says how it went.
    pub fn try_mount(&self, more: &[&str]) -> Output {
        let mut args = vec!["mount", text(&self.store), text(&self.mnt)];
        args.extend(more);
        deployfs(args)
    }

    /// Unmounts and waits for the end of the daemon.
    pub fn umount(&self) {
        let out = deployfs(["umount", text(&self.mnt)]);
        assert!(out.status.success(), "umount: {}", stderr(&out));
    }

    /// A path in the mount.
    pub fn path(&self, path: &str) -> PathBuf {
        self.mnt.join(path)
    }

    /// A path in what the channel shows.
    pub fn live(&self, path: &str) -> PathBuf {
        match self.channel {
            "live" => self.mnt.join("live").join(path),
            name => self.mnt.join("channels").join(name).join(path),
        }
    }

    /// The text of a file in `live`.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.live(path)).unwrap()
    }

    /// Runs a command on this store.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        let output = self.command(args).output();
        output.unwrap()
    }

    /// A command on this store, to be run.
    pub fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(program());
        command
            .env("DEPLOYFS_STORE", &self.store)
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; its answer without the last newline.
    pub fn ok<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        let args: Vec<&str> = args.into_iter().collect();
        let mut out = self.run(args.iter().copied());
        // A program that another test is just starting holds, until it executes, what any test has open for writing.
        wait_for("nobody holds a written file", || {
            let is_held = stderr(&out).contains(": it is open for writing");
            if is_held {
                out = self.run(args.iter().copied());
            }
            !is_held
        });
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out).trim_end().to_owned()
    }

    /// Runs a command that must be refused with this exit code and say nothing on stdout; what it said on stderr.
    pub fn refused<'a>(&self, code: i32, args: impl IntoIterator<Item = &'a str>) -> String {
        let args: Vec<&str> = args.into_iter().collect();
        let out = self.run(args.iter().copied());
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", stderr(&out));
        assert_eq!(stdout(&out), "", "{args:?}");
        let said = stderr(&out);
        let is_told = said.lines().any(|line| line.starts_with("deployfs: "));
        assert!(is_told, "{args:?}: {said}");
        said
    }

    /// Runs a command that must be refused with this exit code and must not leave a trace; what it said on stderr.
    pub fn refused_whole<'a>(&self, code: i32, args: impl IntoIterator<Item = &'a str>) -> String {
        let before = self.state();
        let said = self.refused(code, args);
        assert_eq!(self.state(), before);
        self.ok(["fsck", "--read-data"]);
        said
    }

    /// All that anybody can see of the store.
    pub fn state(&self) -> State {
        let names = |dir: PathBuf| facts_or_nothing(&dir).into_keys().collect();
        wait_for("the removal of sealed copies", || {
            let staging = fs::read_dir(self.staging("")).into_iter().flatten();
            let mut names = staging.flatten().map(|entry| entry.file_name());
            !names.any(|name| name.as_encoded_bytes().starts_with(b".removing-"))
        });
        let mut staging = facts_or_nothing(&self.store.join("staging"));
        // Its mtime tells only that something was moved there and back.
        staging.remove(&b".sealing"[..]);
        State {
            list: self.json(["list"]),
            log: self.json(["log"]),
            staging,
            deploy_files: names(self.store.join("deploys")),
            live: facts_or_nothing(&self.path("live")),
            shown: fs::read_dir(self.path("deploys")).map_or_else(
                |_| Vec::new(),
                |entries| entries.map(|entry| entry.unwrap().path()).collect(),
            ),
        }
    }

    /// Runs a command with `--json`; what it answered.
    pub fn json<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Value {
        let args: Vec<&str> = args.into_iter().chain(["--json"]).collect();
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Makes a staging folder with these files; its path.
    pub fn stage(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = PathBuf::from(self.ok(["create", name]));
        write_files(&path, files);
        path
    }

    /// Seals a deploy of these files; its id.
    pub fn seal(&self, files: &[(&str, &str)]) -> String {
        let name = Path::new(&self.ok(["create"]))
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        write_files(&self.staging(&name), files);
        self.ok(["seal", &name])
    }

    /// A staging folder's path.
    pub fn staging(&self, name: &str) -> PathBuf {
        self.store.join("staging").join(name)
    }

    /// Seals any folder; the deploy's id.
    pub fn deploy(&self, dir: &Path) -> String {
        self.ok(["deploy", text(dir)])
    }

    /// Makes a deploy live.
    pub fn activate(&self, id: &str) {
        assert_eq!(self.ok(["activate", id]), id);
    }

    /// Asks the daemon without a process in between.
    pub fn ask(&self, request: &Request) -> Answer {
        let client = Client::connect(&self.store).unwrap();
        let client = client.expect("a daemon answers");
        let opened = match request {
            Request::Deploy(request) => Some(fs::File::open(&request.dir).unwrap()),
            _ => None,
        };
        let opened = opened.as_ref().map(AsFd::as_fd);
        client.call_with(request, opened, &|_| {}).unwrap()
    }

    /// Lets the channel show a deploy, as fast as it goes.
    pub fn flip(&self, id: &str) {
        let target = id.to_owned();
        self.ask(&match self.channel {
            "live" => Request::Activate(ActivateRequest {
                target: Some(target),
                ..ActivateRequest::default()
            }),
            name => Request::SetChannel {
                name: name.parse().unwrap(),
                target,
                until: None,
                message: String::new(),
            },
        });
    }

    /// How often the kernel has asked the daemon so far, by kind.
    pub fn upcalls(&self) -> BTreeMap<String, u64> {
        match self.ask(&Request::Status) {
            Answer::Status(status) => status.upcalls,
            other => panic!("{other:?}"),
        }
    }

    /// How often the kernel asks during this.
    pub fn upcalls_during(&self, work: impl FnOnce()) -> u64 {
        let before = self.upcalls()["total"];
        work();
        self.upcalls()["total"] - before
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> i32 {
        match self.ask(&Request::Status) {
            Answer::Status(status) => status.daemon_pid.unwrap() as i32,
            other => panic!("{other:?}"),
        }
    }

    /// Sends the daemon a signal and waits until it has ended.
    pub fn signal_daemon(&self, signal: i32) {
        let pid = self.daemon_pid();
        kill(pid, signal);
        let gone = || !Path::new(&format!("/proc/{pid}")).exists();
        wait_for("the daemon's end", gone);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = deployfs(["umount", text(&self.mnt)]);
        if let Some(holder) = deployfs::deploy::Deployfs::last_writer(&self.store)
            && deployfs::deploy::Deployfs::is_in_use(&self.store)
        {
            kill(holder.pid, libc::SIGKILL);
        }
        while is_mounted(&self.mnt) {
            let unmounted = Command::new("umount").arg("-l").arg(&self.mnt).output();
            if !unmounted.is_ok_and(|out| out.status.success()) {
                break;
            }
        }
    }
}

/// What anybody can see of a store and its mount; of packs only what is in a deploy.
#[derive(Debug, PartialEq)]
pub struct State {
    list: Value,
    log: Value,
    staging: BTreeMap<Vec<u8>, Fact>,
    deploy_files: Vec<Vec<u8>>,
    live: BTreeMap<Vec<u8>, Fact>,
    shown: Vec<PathBuf>,
}

fn facts_or_nothing(dir: &Path) -> BTreeMap<Vec<u8>, Fact> {
    match dir.exists() {
        true => facts(dir),
        false => BTreeMap::new(),
    }
}

/// True where something is mounted at exactly this path.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Runs the program with these arguments.
pub fn deployfs<'a>(args: impl IntoIterator<Item = &'a str>) -> Output {
    let mut command = Command::new(DEPLOYFS);
    command
        .args(args)
        .env_remove("DEPLOYFS_STORE")
        .stdin(Stdio::null());
    command.output().unwrap()
}

/// The commands that `--help` names.
pub fn commands() -> Vec<String> {
    let help = stdout(&deployfs(["--help"]));
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let lines = commands.lines().filter(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Fails the test where no FUSE filesystem can be mounted: nothing here is skipped in silence.
pub fn need_fuse() {
    static CHECKED: OnceLock<()> = OnceLock::new();
    CHECKED.get_or_init(|| {
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is not there: these tests mount a FUSE filesystem"
        );
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount, change users and fill disks: run them as root"
        );
    });
}

/// Sends a signal to a process that this test started.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: integer arguments only.
    unsafe { libc::kill(pid, signal) };
}

/// Looks until it is so, at most for 20 seconds.
pub fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    wait_up_to(20, what, is_so);
}

/// Looks until it is so, at most for so many seconds.
pub fn wait_up_to(seconds: u64, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < Duration::from_secs(seconds),
            "{what}: not within {seconds} s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tells the other threads of a test to end, also when the test fails.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// How often a campaign repeats: the variable's value, else what suits a quick run.
pub fn count(variable: &str, quick: usize) -> usize {
    match std::env::var(variable) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={value} is no number")),
        Err(_) => quick,
    }
}

/// What a program printed.
pub fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What a program said beside it.
pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Asserts that a program ended with this exit code and no answer; what it said.
pub fn refusal(out: &Output, code: i32) -> String {
    assert_eq!(out.status.code(), Some(code), "{}", stderr(out));
    assert_eq!(stdout(out), "");
    stderr(out)
}

/// Asserts that a message has all of these words.
pub fn mentions(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

/// A path of a test as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The store's packs, in order.
pub fn packs(site: &Site) -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> = fs::read_dir(site.store.join("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    packs.sort();
    packs
}

/// Flips one bit of the byte where this text starts in a pack.
pub fn damage_text(site: &Site, text: &[u8]) {
    for pack in packs(site) {
        let mut bytes = fs::read(&pack).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|part| part == text) {
            bytes[at] ^= 1;
            fs::write(&pack, bytes).unwrap();
            return;
        }
    }
    panic!("no pack holds the text");
}
