//! `doctor` on real trouble: each situation is made, told, mended as it says, and told no more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::support::*;

/// What `doctor` finds, by check; nothing where it is content. Its exit code fits.
fn findings(site: &Site) -> Vec<(String, Value)> {
    let out = site.run(["doctor", "--json"]);
    let report: Value = serde_json::from_str(&stdout(&out)).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let mut found = Vec::new();
    for check in checks {
        for finding in check["findings"].as_array().unwrap() {
            let name = check["name"].as_str().unwrap().to_owned();
            found.push((name, finding.clone()));
        }
    }
    assert_eq!(out.status.code(), Some(i32::from(!found.is_empty())));
    assert_eq!(report["healthy"], found.is_empty());
    found
}

/// The one thing that is found, by this check: what it is, and what mends it.
fn finding(site: &Site, check: &str) -> (String, String) {
    let mut found = findings(site);
    // Where no worker may read this site, those of other tests may not either. The servers here are nginx.
    let others = ["apache2", "caddy", "php-fpm"];
    found.retain(|(_, finding)| {
        let what = finding["what"].as_str().unwrap();
        !others.iter().any(|name| what.starts_with(name))
    });
    assert!(
        found.len() == 1 && found[0].0 == check,
        "{check}: {found:?}"
    );
    let text = |key: &str| found[0].1[key].as_str().unwrap().to_owned();
    assert!(!text("why").is_empty());
    (text("what"), text("mend"))
}

fn assert_healthy(site: &Site) {
    assert_eq!(findings(site), []);
}

/// Every doctor on the machine sees a web server in trouble: while the answer exists, no other test here makes one.
fn with_others() -> fs::File {
    lock(FlockOperation::LockShared)
}

/// While the answer exists, no other test here runs.
fn alone() -> fs::File {
    lock(FlockOperation::LockExclusive)
}

fn lock(how: FlockOperation) -> fs::File {
    let device = fs::File::open("/dev").unwrap();
    flock(&device, how).unwrap();
    device
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_site_as_it_should_be_is_healthy_also_under_its_web_server() {
    let _calm = with_others();
    let site = Site::live_with(&[("index.html", "1"), ("d/a", "2")]);
    let _nginx = Nginx::serve(&site.path("live"));
    assert_healthy(&site);
    let said = site.ok(["doctor"]);
    assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
    for check in [
        "kernel",
        "device",
        "fuse-conf",
        "fusermount",
        "selinux",
        "stores",
        "owner",
        "space",
        "clock",
        "index",
        "deploys",
        "daemon",
        "visible",
        "mounts",
        "read-only",
        "mounts-below-live",
        "binds-of-live",
        "locks",
        "overlays",
        "left-behind",
        "workers",
        "nginx",
        "apache",
        "stale-servers",
    ] {
        assert!(
            said.lines()
                .any(|line| line.split_whitespace().nth(1) == Some(check)),
            "{check}: {said}"
        );
    }
    mentions(
        &said,
        &["nginx as nobody", "1 that serve a mount", text(&site.mnt)],
    );
}

#[test]
fn a_dead_mount_is_told_and_mounting_again_mends_it() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    site.signal_daemon(libc::SIGKILL);
    let (what, mend) = finding(&site, "mounts");
    mentions(&what, &["is gone", text(&site.mnt)]);
    let command = mend
        .split('#')
        .next()
        .unwrap()
        .replace("deployfs ", &format!("{DEPLOYFS} "));
    sh(&command);
    assert_healthy(&site);
    let said = site.run(["doctor"]);
    assert!(said.status.success());
}

#[test]
fn a_superblock_remounted_read_write_is_told() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    sh(&format!("mount -i -o remount,rw {}", site.mnt.display()));
    let (what, mend) = finding(&site, "read-only");
    mentions(&what, &["remounted read-write", text(&site.mnt)]);
    sh(&mend);
    assert_healthy(&site);
}

#[test]
fn a_mount_below_live_is_told_also_after_it_has_left_with_its_tree() {
    let _calm = with_others();
    let site = Site::live_with(&[("uploads/a", "1")]);
    let next = site.seal(&[("uploads/a", "2")]);
    sh(&format!(
        "mount -t tmpfs none {}",
        site.live("uploads").display()
    ));
    let (what, mend) = finding(&site, "mounts-below-live");
    mentions(&what, &["tmpfs", "live/uploads"]);
    assert!(mend.starts_with(&format!("umount {}", site.live("uploads").display())));
    site.activate(&next);
    let (what, mend) = finding(&site, "mounts-below-live");
    mentions(&what, &[".retired-", "/uploads"]);
    sh(mend.split('#').next().unwrap());
    assert_healthy(&site);
}

/// A process in a mount namespace of its own, ended when dropped.
struct Apart(Child);

impl Apart {
    fn run(script: &str) -> Self {
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["bash", "-euc", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Apart(child)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_containers_bind_of_live_is_told_before_and_after_it_falls_behind() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    let first = site.json(["status"])["live"].as_str().unwrap().to_owned();
    let next = site.seal(&[("a", "2")]);
    let (container, ready) = (site.beside("container"), site.beside("ready"));
    fs::create_dir(&container).unwrap();
    let bind = |from: &str| {
        fs::remove_file(&ready).ok();
        let apart = Apart::run(&format!(
            "mount --bind {}/{from} {}; touch {}; exec sleep 100",
            site.mnt.display(),
            container.display(),
            ready.display()
        ));
        wait_for("the bind", || ready.exists());
        apart
    };
    let apart = bind("live");
    for _ in 0..2 {
        let (what, mend) = finding(&site, "binds-of-live");
        mentions(&what, &[text(&container), "is a bind of 'live'"]);
        mentions(
            &mend,
            &[
                "docker run -v",
                ":ro,rslave",
                text(site.mnt.parent().unwrap()),
            ],
        );
        site.activate(&next);
    }
    drop(apart);
    site.ok(["channel", "set", "preview", &next]);
    let apart = bind("channels/preview");
    for _ in 0..2 {
        mentions(
            &finding(&site, "binds-of-live").0,
            &[text(&container), "channel"],
        );
        site.ok(["channel", "set", "preview", &first]);
    }
    drop(apart);
    let _apart = bind("");
    assert_healthy(&site);
}

#[test]
fn a_worker_in_a_namespace_where_the_mount_is_not_is_told() {
    let _calm = alone();
    let site = Site::live_with(&[("a", "1")]);
    site.umount();
    // Started before the mount, in a namespace that does not hear of it, as with PrivateMounts=.
    let worker = |before: &str| {
        let (nginx, ready) = (site.beside("nginx"), site.beside("ready"));
        fs::copy("/bin/sleep", &nginx).unwrap();
        let apart = Apart::run(&format!(
            "{before}; touch {}; exec setpriv --reuid 33 --clear-groups {} 100",
            ready.display(),
            nginx.display()
        ));
        let comm = format!("/proc/{}/comm", apart.0.id());
        wait_for("the process", || {
            fs::read_to_string(&comm).is_ok_and(|name| name == "nginx\n")
        });
        apart
    };
    let apart = worker("true");
    site.mount(&[]);
    let (what, mend) = finding(&site, "workers");
    mentions(
        &what,
        &[
            "nginx (process ",
            "a mount namespace of its own",
            text(&site.mnt),
        ],
    );
    mentions(&mend, &["systemctl restart nginx"]);
    drop(apart);
    assert_healthy(&site);

    let elsewhere = site.beside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let (from, to) = (site.mnt.display(), elsewhere.display());
    let _apart = worker(&format!("mount --bind {from} {to}; umount {from}"));
    assert_healthy(&site);
}

#[test]
fn what_the_web_servers_worker_may_not_read_is_told() {
    let _calm = with_others();
    let site = Site::new();
    let staged = site.stage(
        "v1",
        &[
            ("open.html", "1"),
            ("closed/secret.html", "2"),
            ("secret.html", "3"),
        ],
    );
    set_mode(&staged.join("secret.html"), 0o600);
    set_mode(&staged.join("closed"), 0o700);
    let id = site.ok(["seal", "v1"]);
    site.activate(&id);
    let _nginx = Nginx::serve(&site.path("live"));
    let (what, mend) = finding(&site, "workers");
    mentions(
        &what,
        &["user nobody", "'live/secret.html'", "'live/closed'"],
    );
    mentions(&mend, &["chmod -R a+rX"]);
    let fixed = site.seal(&[("open.html", "1")]);
    site.activate(&fixed);
    assert_healthy(&site);

    let top = site.mnt.parent().unwrap();
    set_mode(top, 0o700);
    let (what, mend) = finding(&site, "workers");
    mentions(&what, &["may not read", &format!("'{}'", top.display())]);
    sh(&mend);
    assert_healthy(&site);

    site.umount();
    site.mount(&["--no-allow-other"]);
    let (what, mend) = finding(&site, "workers");
    mentions(&what, &[text(&site.mnt)]);
    mentions(&mend, &["--no-allow-other"]);
}

#[test]
fn settings_of_a_running_nginx_that_hurt_are_told() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    let settings = "open_file_cache max=100; directio 1m; disable_symlinks on;";
    let nginx = Nginx::serve_with(&site.path("live"), settings);
    let found = findings(&site);
    let what: Vec<&str> = found
        .iter()
        .map(|(_, finding)| finding["what"].as_str().unwrap())
        .collect();
    assert_eq!(what.len(), 3, "{what:?}");
    for (what, setting) in what.iter().zip([
        "open_file_cache max=100",
        "directio 1m",
        "disable_symlinks on",
    ]) {
        mentions(what, &["nginx.conf:", setting]);
    }
    let out = site.run(["doctor"]);
    mentions(
        &stdout(&out),
        &[
            "WRONG nginx",
            "why:  after an activation",
            "mend: write 'directio off;'",
        ],
    );
    drop(nginx);
    assert_healthy(&site);
}

#[test]
fn a_disk_that_is_nearly_full_is_told() {
    let _calm = with_others();
    let disk = Disk::new(64);
    let site = Site::unmounted_on(&disk.path);
    let found = findings(&site);
    assert_eq!(found.len(), 1, "{found:?}");
    let what = found[0].1["what"].as_str().unwrap();
    mentions(what, &["MiB are free", text(&site.store)]);
    drop(site);
}

#[test]
fn owners_and_groups_without_a_name_and_a_closed_store_are_told() {
    let _calm = with_others();
    let site = Site::unmounted();
    sh(&format!("chown -R 4000000001 {}", text(&site.store)));
    mentions(&finding(&site, "owner").0, &["4000000001", "has no name"]);
    sh(&format!("chown -R 0 {}", text(&site.store)));
    assert_healthy(&site);
    for (path, mode, closed) in [("staging", 0o711, "0711"), ("", 0o700, "0700")] {
        set_mode(&site.store.join(path), mode);
        let (what, mend) = finding(&site, "owner");
        mentions(&what, &[path, closed]);
        sh(&mend);
        assert_healthy(&site);
    }
    site.mount(&["--control-group", "4000000002"]);
    mentions(&finding(&site, "owner").0, &["4000000002", "no name"]);
}

#[test]
fn an_index_that_cannot_be_opened_is_told() {
    let _calm = with_others();
    let site = Site::unmounted();
    let index = site.store.join("index");
    let blocked = Mounted::tmpfs(&index);
    sh(&format!("mount -o remount,ro {}", index.display()));
    site.mount(&[]);
    wait_for("the index", || site.json(["status"])["index"] != "closed");
    let (what, mend) = finding(&site, "index");
    mentions(&what, &["cannot be used", text(&index)]);
    mentions(&mend, &["rm -r", text(&index)]);
    site.umount();
    drop(blocked);
    assert_healthy(&site);
}

#[test]
fn without_a_store_the_machine_and_all_mounts_are_looked_at_and_a_missing_store_is_refused() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    site.signal_daemon(libc::SIGKILL);
    let out = Command::new(DEPLOYFS)
        .args(["doctor", "--json"])
        .env_remove("DEPLOYFS_STORE")
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let report: Value = serde_json::from_str(&stdout(&out)).unwrap();
    assert_eq!(report["store"], Value::Null);
    mentions(&stdout(&out), &[text(&site.mnt)]);
    mentions(
        &refusal(&deployfs(["doctor", "--store", "/no/such"]), 1),
        &["/no/such"],
    );
}

/// A server that serves `live`; ended when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn servers_that_answer_with_an_older_page_are_named() {
    let _calm = with_others();
    let site = Site::live_with(&[("index.html", "a page")]);
    let live = site.live("");
    let live = text(&live).trim_end_matches('/');
    let (conf, socket) = (site.beside("lighttpd.conf"), site.beside("lighttpd.sock"));
    let lighttpd = |more: &str| {
        fs::write(
            &conf,
            format!(
                "server.document-root = \"{live}\"\nserver.bind = \"{}\"\n{more}\n",
                socket.display()
            ),
        )
        .unwrap();
        fs::remove_file(&socket).ok();
        let mut command = Command::new("lighttpd");
        let serving = Serving(command.args(["-D", "-f", text(&conf)]).spawn().unwrap());
        wait_for("lighttpd", || socket.exists());
        serving
    };
    let keeping = lighttpd("");
    let (what, mend) = finding(&site, "stale-servers");
    mentions(&what, &["lighttpd", text(&conf)]);
    mentions(&mend, &["server.stat-cache-engine = \"disable\""]);
    drop(keeping);
    let _asking = lighttpd("server.stat-cache-engine = \"disable\"");
    assert_healthy(&site);
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
        live,
    ]);
    let _python = Serving(
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait_for("python", || !site.run(["doctor"]).status.success());
    mentions(&finding(&site, "stale-servers").0, &["http.server"]);
}

/// A process with a server's name and words, which only sleeps; ended when dropped.
struct Impostor(Child);

impl Impostor {
    fn new(site: &Site, words: &str, is_root: bool) -> Self {
        let program = site.beside("nginx");
        if !program.exists() {
            fs::copy("/bin/sleep", &program).unwrap();
            set_mode(&program, 0o755);
        }
        let mut command = Command::new(&program);
        command.arg0(words).arg("600").stdin(Stdio::null());
        if !is_root {
            nobody(&mut command);
        }
        Impostor(command.spawn().unwrap())
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn who_calls_a_process_nginx_neither_stops_a_root_who_looks_nor_makes_up_a_finding() {
    let _alone = alone();
    let site = Site::live_with(&[("a", "1")]);
    let (pipe, settings) = (site.beside("pipe"), site.beside("settings"));
    sh(&format!("mkfifo -m 644 {}", pipe.display()));
    let bad = format!("server {{ root {}/live; directio 4m; }}", text(&site.mnt));
    fs::write(&settings, bad).unwrap();
    let words = |file: &Path| format!("nginx: master process nginx -c {}", text(file));
    let mut impostors = vec![
        Impostor::new(&site, &words(&pipe), false),
        Impostor::new(&site, &words(&settings), false),
        Impostor::new(&site, "nginx: worker process", false),
        Impostor::new(&site, &words(&pipe), true),
    ];
    let doctor = |site: &Site| {
        let command = site.command(["doctor"]).stdout(Stdio::piped()).spawn();
        let mut child = command.unwrap();
        let mut has_ended = || child.try_wait().unwrap().is_some();
        let started = std::time::Instant::now();
        while !has_ended() {
            if started.elapsed() > std::time::Duration::from_secs(30) {
                child.kill().ok();
                panic!("doctor waits for a pipe");
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        stdout(&child.wait_with_output().unwrap())
    };
    assert!(!doctor(&site).contains("WRONG"), "{}", doctor(&site));
    // Nor does one who may not see the mount.
    site.umount();
    site.mount(&["--no-allow-other"]);
    assert!(!doctor(&site).contains("WRONG nginx"), "{}", doctor(&site));
    assert!(!doctor(&site).contains("user nobody"), "{}", doctor(&site));
    // Root's own words are believed.
    site.umount();
    site.mount(&[]);
    impostors.push(Impostor::new(&site, &words(&settings), true));
    mentions(&doctor(&site), &["WRONG nginx", "directio 4m"]);
    drop(impostors);
}

/// The report of a command, and whether it exits as one without findings.
fn report(command: &mut Command) -> (Value, bool) {
    let out = command.output().unwrap();
    let report: Value =
        serde_json::from_str(&stdout(&out)).unwrap_or_else(|_| panic!("{}", stderr(&out)));
    assert_eq!(out.status.success(), report["healthy"] == true);
    (report, out.status.success())
}

/// The checks of this name; one for each store, or one for the machine.
fn checks<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    let all = report["checks"].as_array().unwrap().iter();
    all.filter(|check| check["name"] == name).collect()
}

/// The one check of this name that is about this store.
fn check_of<'a>(report: &'a Value, name: &str, store: &Path) -> &'a Value {
    let mut found = checks(report, name);
    found.retain(|check| check["store"] == text(store));
    assert_eq!(found.len(), 1, "{name}: {report}");
    found[0]
}

/// `doctor` of all stores that the machine names.
fn of_the_machine() -> Command {
    let mut command = Command::new(DEPLOYFS);
    command
        .arg("doctor")
        .env_remove("DEPLOYFS_STORE")
        .current_dir("/");
    command
}

#[test]
fn an_ordinary_user_reads_which_checks_could_not_look_and_that_sudo_can() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    site.umount();
    site.mount(&["--control-group", "nogroup"]);
    let _nginx = Nginx::serve_with(&site.path("live"), "directio 4m;");
    let (seen, is_well) = report(nobody(&mut site.command(["doctor", "--json"])));
    assert!(is_well, "{seen}");
    for (name, words) in [
        ("nginx", "nginx.conf"),
        ("workers", "nginx"),
        ("binds-of-live", "processes of others"),
        ("locks", "processes of others"),
        ("left-behind", "processes of others"),
        ("daemon", "which file process"),
    ] {
        let check = checks(&seen, name)[0];
        let unchecked = check["unchecked"]
            .as_str()
            .unwrap_or_else(|| panic!("{check}"));
        mentions(unchecked, &[words, "'sudo deployfs doctor'"]);
    }
    assert_ne!(checks(&seen, "nginx")[0]["seen"], "none serves a mount");
    let said = stdout(&nobody(&mut site.command(["doctor"])).output().unwrap());
    assert!(!said.contains("ok    nginx "), "{said}");
    mentions(&said, &["?     nginx ", "not checked: ", "ok    space "]);
    // Root could look.
    let (seen, _) = report(&mut site.command(["doctor", "--json"]));
    for check in seen["checks"].as_array().unwrap() {
        assert_eq!(check["unchecked"], Value::Null, "{check}");
    }
    mentions(
        &checks(&seen, "nginx")[0]["findings"].to_string(),
        &["directio"],
    );
}

#[test]
fn without_a_store_each_store_that_is_mounted_is_checked_and_findings_name_it() {
    let _calm = with_others();
    let (bad, good) = (
        Site::live_with(&[("a", "1")]),
        Site::live_with(&[("a", "1")]),
    );
    set_mode(&bad.store.join("staging"), 0o711);
    let (seen, _) = report(of_the_machine().arg("--json"));
    let finding = &check_of(&seen, "owner", &bad.store)["findings"][0];
    mentions(finding["what"].as_str().unwrap(), &["0711"]);
    for name in [
        "owner", "space", "clock", "index", "deploys", "daemon", "visible",
    ] {
        let check = check_of(&seen, name, &good.store);
        assert_eq!(check["findings"], serde_json::json!([]), "{check}");
    }
    mentions(
        &seen["stores"].to_string(),
        &[text(&bad.store), text(&good.store)],
    );
    let said = stdout(&of_the_machine().output().unwrap());
    let store = format!("'{}': ", bad.store.display());
    let lines = said.lines().filter(|line| line.contains(&store));
    assert!(
        lines.clone().any(|line| line.starts_with("WRONG owner ")),
        "{said}"
    );
    assert!(
        lines.clone().any(|line| line.starts_with("ok    clock ")),
        "{said}"
    );
}

#[test]
fn a_store_without_rights_or_of_an_ordinary_user_is_named_as_not_checked() {
    let _calm = with_others();
    let site = Site::live_with(&[("a", "1")]);
    let (seen, _) = report(nobody(of_the_machine().arg("--json")));
    let stores = checks(&seen, "stores")[0]["unchecked"].as_str().unwrap();
    mentions(stores, &["'sudo deployfs doctor'"]);
    site.umount();
    sh(&format!("chown -R 65534:65534 {}", site.store.display()));
    site.mount(&[]);
    let (seen, _) = report(of_the_machine().arg("--json"));
    let stores = checks(&seen, "stores")[0]["unchecked"].as_str().unwrap();
    mentions(stores, &["ordinary user", "deployfs --store"]);
    assert!(!seen["stores"].to_string().contains(text(&site.store)));
}

#[test]
fn where_nothing_names_a_store_it_says_which_checks_are_left_out() {
    let _calm = with_others();
    // Only in a mount namespace of its own is nothing mounted.
    let script = "grep ' - fuse.deployfs ' /proc/self/mountinfo | cut -d' ' -f5 | tac | while read -r path; do umount -i -l -c \"$path\"; done; \
                  exec \"$0\" doctor --json";
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "bash",
            "-c",
            script,
            DEPLOYFS,
        ])
        .env_remove("DEPLOYFS_STORE")
        .current_dir("/");
    let (seen, _) = report(&mut command);
    assert_eq!(seen["stores"], serde_json::json!([]));
    let unchecked = checks(&seen, "stores")[0]["unchecked"].as_str().unwrap();
    mentions(
        unchecked,
        &["owner, space, clock, index", "/etc/fstab", "--store PATH"],
    );
    assert!(checks(&seen, "space").is_empty());
}

#[test]
fn a_missing_fusermount_is_named_to_an_ordinary_user_who_would_mount() {
    let _calm = with_others();
    let site = Site::unmounted();
    sh(&format!("chown -R 65534:65534 {}", site.store.display()));
    let fusermount = |path: &str| {
        let mut command = site.command(["doctor", "--json"]);
        let (seen, _) = report(nobody(command.env("PATH", path)));
        checks(&seen, "fusermount")[0].clone()
    };
    let missing = fusermount("/nonexistent");
    assert_eq!(missing["findings"][0]["mend"], "apt install fuse3");
    assert_eq!(
        fusermount("/usr/bin:/bin")["findings"],
        serde_json::json!([])
    );
    // Root mounts without it.
    sh(&format!("chown -R 0:0 {}", site.store.display()));
    let mut command = site.command(["doctor", "--json"]);
    let (seen, _) = report(command.env("PATH", "/nonexistent"));
    assert_eq!(
        checks(&seen, "fusermount")[0]["findings"],
        serde_json::json!([])
    );
}

#[test]
fn a_daemon_whose_program_was_replaced_is_named_until_it_is_started_again() {
    let _calm = with_others();
    let site = Site::unmounted();
    let installed = site.beside("deployfs");
    let install = || {
        let new = site.beside("new");
        fs::copy(DEPLOYFS, &new).unwrap();
        fs::rename(&new, &installed).unwrap();
    };
    install();
    let mount = || {
        let mut command = Command::new(&installed);
        let out = command
            .args(["mount", text(&site.store), text(&site.mnt)])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
    };
    mount();
    assert_healthy(&site);
    install();
    let (what, mend) = finding(&site, "daemon");
    mentions(&what, &["replaced", text(&installed), text(&site.store)]);
    mentions(
        &mend,
        &["deployfs umount ", "systemctl restart deployfs@NAME"],
    );
    let command = mend.split('#').next().unwrap();
    sh(&command
        .replace("deployfs umount", &format!("{DEPLOYFS} umount"))
        .replace("deployfs mount", &format!("{} mount", installed.display())));
    assert_healthy(&site);
}
