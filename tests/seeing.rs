//! What an operator sees: status, metrics, logs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use deployfs::model::report::{FolderRequest, Request, SealOptions};

use crate::support::*;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn status_tells_on_one_screen_what_is_live_and_what_it_takes() {
    let site = Site::new();
    let shared = "s".repeat(50_000);
    let one = site.seal(&[("shared", &shared), ("page", "one")]);
    let two = site.seal(&[("shared", &shared), ("page", "two+")]);
    site.activate(&one);
    site.activate(&two);
    assert_eq!(site.read("page"), "two+");
    let status = site.json(["status"]);
    assert_eq!(
        (&status["live"], &status["previous"]),
        (&two.into(), &one.into())
    );
    assert_eq!(
        (number(&status["live_files"]), number(&status["live_bytes"])),
        (2, 50_004)
    );
    assert_eq!(
        (number(&status["files"]), number(&status["logical_bytes"])),
        (4, 100_007)
    );
    // The shared file once, both pages, both root trees.
    let unique = number(&status["unique_bytes"]);
    assert!((50_007..51_000).contains(&unique), "{unique}");
    assert_eq!(number(&status["chunks"]), 5);
    let packs = fs::read_dir(site.store.join("packs")).unwrap();
    let stored: u64 = packs
        .map(|pack| pack.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(number(&status["pack_bytes"]), stored);
    assert_eq!(number(&status["records"]["activate"]), 2);
    assert!(number(&status["caches"]["trees_misses"]) > 0);
    assert!(number(&status["caches"]["nodes"]) > 0);
    assert!(number(&status["disk_free_bytes"]) > 0);
    let since = number(&status["live_since"]);
    assert!(number(&status["mounted_since"]) <= since);
    site.ok(["channel", "set", "preview", "live"]);
    let screen = site.ok(["status"]);
    // What is live, and next how much that is.
    let mut lines = screen.lines().skip_while(|line| !line.starts_with("live "));
    assert!(
        lines.nth(1).unwrap().ends_with("2 files, 48.8 KiB"),
        "{screen}"
    );
    assert!(screen.lines().count() <= 24, "{screen}");
    mentions(
        &screen,
        &[
            status["live_by"].as_str().unwrap(),
            "97.7 KiB",
            "names held",
        ],
    );
}

#[test]
fn status_is_cheap_with_very_many_deploys() {
    let deploys = count("DEPLOYFS_TEST_DEPLOYS", 200);
    let site = Site::new();
    let folder = site.beside("build");
    write_files(&folder, &[("same", "same"), ("page", "")]);
    for number in 0..deploys {
        fs::write(folder.join("page"), number.to_string()).unwrap();
        site.ask(&Request::Deploy(FolderRequest {
            dir: folder.clone(),
            from: None,
            delete: Vec::new(),
            dry_run: false,
            no_cache: false,
            options: SealOptions::default(),
        }));
    }
    let quickest = |ask: &dyn Fn()| {
        let times = (0..5).map(|_| {
            let started = Instant::now();
            ask();
            started.elapsed()
        });
        times.min().unwrap()
    };
    let with = quickest(&|| drop(site.ask(&Request::Status)));
    let status = site.json(["status"]);
    assert_eq!(number(&status["deploys"]), deploys as u64);
    assert_eq!(number(&status["files"]), 2 * deploys as u64);
    site.umount();
    let without = quickest(&|| drop(site.ok(["status"])));
    println!("status of {deploys} deploys: {with:?} from the daemon, {without:?} without one");
    assert!(with < Duration::from_millis(50), "{with:?}");
    assert!(without < Duration::from_millis(1000), "{without:?}");
}

fn ask(mut stream: impl Read + Write, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // A server that has refused may reset the connection behind its answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn metrics_at(socket: &Path) -> String {
    let stream = UnixStream::connect(socket).unwrap();
    let answer = ask(stream, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", page.len())));
    page.to_owned()
}

fn value(page: &str, sample: &str) -> u64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} in {page}"))
        .parse()
        .unwrap()
}

#[test]
fn the_readme_lists_the_metrics_that_are_given_and_no_other() {
    let site = Site::unmounted();
    let socket = site.beside("metrics.sock");
    site.mount(&["--metrics", text(&socket)]);
    site.activate(&site.seal(&[("index.html", "x")]));
    let page = metrics_at(&socket);
    let given: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .collect();
    let readme = include_str!("../README.md");
    let listed: BTreeSet<&str> = readme
        .split('`')
        .filter(|word| word.starts_with("deployfs_") && word.len() > "deployfs_".len())
        .collect();
    assert_eq!(given, listed);
    let status = site.json(["status"]);
    let fields: BTreeSet<&str> = status
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let (_, seeing) = readme.split_once("\n## Seeing it\n").unwrap();
    let (table, _) = seeing.split_once("\nFor Prometheus").unwrap();
    let first_cells = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let told: BTreeSet<&str> = first_cells
        .flat_map(|cell| cell.split(['`', ',', ' ']))
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(told, fields);
}

#[test]
fn metrics_follow_what_happens_and_their_socket_goes_with_the_mount() {
    let site = Site::unmounted();
    let socket = site.beside("metrics.sock");
    // One that a daemon left behind when it was killed.
    drop(UnixListener::bind(&socket).unwrap());
    site.mount(&["--metrics", text(&socket)]);
    assert_eq!(value(&metrics_at(&socket), "deployfs_deploys"), 0);
    let id = site.seal(&[("index.html", "x")]);
    site.activate(&id);
    site.read("index.html");
    let page = metrics_at(&socket);
    assert_eq!(value(&page, "deployfs_deploys"), 1);
    assert_eq!(
        value(&page, &format!("deployfs_live_info{{deploy_id=\"{id}\"}}")),
        1
    );
    assert_eq!(value(&page, "deployfs_flips_total"), 1);
    assert!(value(&page, "deployfs_upcalls_total{kind=\"lookup\"}") > 0);
    site.umount();
    assert!(!socket.exists());
}

#[test]
fn metrics_are_given_on_loopback_ports_only_and_never_in_place_of_a_file() {
    let site = Site::unmounted();
    for outside in ["0.0.0.0:9144", "[::]:9144", "10.0.0.1:9144", "9144"] {
        let out = site.try_mount(&["--metrics", outside]);
        mentions(&refusal(&out, 2), &["127.0.0.1:PORT"]);
        assert!(!is_mounted(&site.mnt));
    }
    let file = site.beside("precious");
    fs::write(&file, "precious").unwrap();
    let out = site.try_mount(&["--metrics", text(&file)]);
    mentions(&refusal(&out, 1), &["precious", "something else is there"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(!is_mounted(&site.mnt));
    let taken = site.beside("taken");
    let _listener = UnixListener::bind(&taken).unwrap();
    let out = site.try_mount(&["--metrics", text(&taken)]);
    mentions(&refusal(&out, 1), &["another program listens there"]);
    site.mount(&["--metrics", "127.0.0.1:0"]);
    let log = fs::read_to_string(site.store.join("daemon.log")).unwrap();
    let (_, at) = log.rsplit_once("metrics are given at '").unwrap();
    let address = at.split('\'').next().unwrap();
    let answer = ask(
        TcpStream::connect(address).unwrap(),
        b"GET /metrics HTTP/1.0\n\n",
    );
    assert!(answer.contains("\ndeployfs_deploys 0\n"), "{answer}");
}

#[test]
fn p10_hostile_clients_of_the_metrics_are_cut_short() {
    let site = Site::unmounted();
    let socket = site.beside("metrics.sock");
    site.mount(&["--metrics", text(&socket)]);
    let connect = || UnixStream::connect(&socket).unwrap();
    for (request, status) in [
        (&b"POST /metrics HTTP/1.1\r\n\r\n"[..], "405"),
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", "404"),
        (b"\xff\xfe\x00\r\n\r\n", "405"),
        (b"\r\n\r\n", "405"),
        (&[b'a'; 20_000], "431"),
    ] {
        let answer = ask(connect(), request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    // As many as are served at once send a byte now and then, and hold out no longer for it.
    let started = Instant::now();
    let mut slow: Vec<UnixStream> = (0..8).map(|_| connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /").unwrap();
    }
    let busy = ask(connect(), b"");
    assert!(
        busy.is_empty() || busy.starts_with("HTTP/1.1 503 "),
        "{busy}"
    );
    wait_for("others to be served", || {
        for stream in &mut slow {
            let _ = stream.write_all(b"x");
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut stream = connect();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200 ")
    });
    assert!(started.elapsed() > Duration::from_secs(3), "they were held");
    let status = format!("/proc/{}/status", site.daemon_pid());
    let status = fs::read_to_string(status).unwrap();
    let threads = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))
        .unwrap();
    assert!(threads.trim().parse::<u32>().unwrap() < 40, "{threads}");
    site.activate(&site.seal(&[("index.html", "x")]));
}

#[test]
fn a_log_in_json_is_one_object_a_line_to_the_last_words() {
    let site = Site::unmounted();
    site.mount(&["--log-format", "json"]);
    site.umount();
    let log = site.store.join("daemon.log");
    let lines = fs::read_to_string(&log).unwrap();
    assert!(lines.lines().count() >= 2, "{lines}");
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["level", "message", "target", "time"]);
    }
    let out = site.run(["show", "nothing", "--log-format=json"]);
    let said: serde_json::Value = serde_json::from_str(stderr(&out).trim_end()).unwrap();
    mentions(said["message"].as_str().unwrap(), &["nothing"]);
    // A daemon that does not start says why through its log.
    fs::write(site.mnt.join("in the way"), "").unwrap();
    let out = site.try_mount(&["--log-format", "json"]);
    mentions(&refusal(&out, 1), &[text(&site.mnt)]);
}

#[test]
fn more_is_logged_when_asked_for() {
    let site = Site::unmounted();
    let quiet = site.run(["list"]);
    assert_eq!(stderr(&quiet), "");
    let stage = site.stage("a", &[("a", "a")]);
    assert!(stage.exists());
    let mut loud = site.command(["seal", "a", "-vvv"]);
    let said = stderr(&loud.output().unwrap());
    assert!(said.contains("DEBUG") || said.contains("TRACE"), "{said}");
    let mut by_variable = site.command(["list"]);
    let out = by_variable.env("RUST_LOG", "trace").output().unwrap();
    let mut not = site.command(["list"]);
    let none = not
        .env("RUST_LOG", "trace")
        .env("DEPLOYFS_LOG", "off")
        .output()
        .unwrap();
    assert!(out.status.success() && stderr(&none).is_empty());
}
