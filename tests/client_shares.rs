//! P10: many requests at once, and requests whose client has gone. One user's requests hold up nobody else, what is dropped
//! changes nothing, and a client that cannot know the outcome says so.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use deployfs::model::history::{Record, Verb};
use deployfs::store::Store;

use crate::support::*;

/// How soon a request that waits for nobody is answered, program start included; generous for a loaded machine.
const SOON: Duration = Duration::from_secs(15);
/// A folder that nobody has sealed by then.
const ENDLESS: u64 = 1 << 43;
/// Seals of one user that the daemon works on at once.
const SLOTS: usize = 8;
/// Requests of one user that the daemon takes.
const PER_USER: usize = 128;

fn connect(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(site.store.join("control.sock")).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    stream
}

fn request(site: &Site, request: &str) -> UnixStream {
    let mut stream = connect(site);
    let line = format!("{{\"v\":1,\"request\":{request}}}\n");
    stream.write_all(line.as_bytes()).unwrap();
    stream
}

/// The last line that comes back.
fn answer(stream: &UnixStream) -> String {
    let lines = BufReader::new(stream).lines();
    lines.map(Result::unwrap).last().unwrap_or_default()
}

fn seal_of(name: &str) -> String {
    format!("{{\"op\":\"seal\",\"name\":\"{name}\",\"options\":{{}}}}")
}

/// A mounted site with one deploy before the live one, and staging folders that take for ever to seal, and no time.
fn site() -> Site {
    let site = Site::live_with(&[("index.html", "one")]);
    let two = site.seal(&[("index.html", "two")]);
    site.activate(&two);
    site.umount();
    site.mount(&["--control-group", &NOBODY.to_string()]);
    stage_endless(&site, "endless");
    let small = site.stage("small", &[("index.html", "a small page")]);
    // The one who seals them is their owner.
    for path in [small.clone(), small.join("index.html")] {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    site
}

fn stage_endless(site: &Site, name: &str) {
    let staged = site.stage(name, &[]);
    write_holes(&staged.join("holes"), ENDLESS);
    for path in [staged.join("holes"), staged] {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Seals that fill the slots of their user, each of a folder of its own, and more in line behind them.
fn fill_slots(site: &Site, count: usize) -> Vec<UnixStream> {
    let others: Vec<String> = (1..SLOTS).map(|one| format!("endless-{one}")).collect();
    others.iter().for_each(|name| stage_endless(site, name));
    let names = std::iter::once("endless").chain(others.iter().map(String::as_str));
    let seals = names.chain(std::iter::repeat("endless")).take(count);
    let asked = as_nobody(|| seals.map(|name| request(site, &seal_of(name))).collect());
    let is_read = |name: &str| !site.staging(name).exists();
    wait_for("seals in all slots", || {
        is_under_way(site) && others.iter().all(|name| is_read(name))
    });
    asked
}

fn is_under_way(site: &Site) -> bool {
    !site.staging("endless").exists()
}

/// Runs this command as a member of the control group.
fn as_member(site: &Site, args: &[&str]) -> Output {
    nobody(&mut site.command(args.iter().copied()))
        .output()
        .unwrap()
}

fn verbs(site: &Site) -> Vec<String> {
    let log = site.json(["log"]);
    let records = log.as_array().unwrap().iter();
    records
        .map(|record| record["verb"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn p10_a_user_whose_requests_fill_all_slots_holds_up_neither_others_nor_an_own_rollback() {
    let site = site();
    let before = verbs(&site);
    let mut many = fill_slots(&site, 80);

    let started = Instant::now();
    site.ok(["rollback", "-m", "by root"]);
    site.ok(["status"]);
    assert_eq!(site.read("index.html"), "one");
    let out = as_member(&site, &["lock", "-m", "by the same user"]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());

    // More than a user may have in hand are refused, and not kept waiting. Clients whose request is late on a loaded machine
    // are sent away, so there is no telling how many it takes.
    let said = as_nobody(|| {
        many.extend((many.len()..PER_USER).map(|_| request(&site, &seal_of("endless"))));
        let mut said = String::new();
        wait_for("the refusal of one too many", || {
            said = answer(&request(&site, "{\"op\":\"status\"}"));
            many.push(request(&site, &seal_of("endless")));
            said.contains("failure")
        });
        said
    });
    mentions(&said, &["nobody has 128 requests in hand"]);
    site.ok(["status"]);

    drop(many);
    wait_for("the folder's return", || !is_under_way(&site));
    let after = verbs(&site);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after[before.len()..], ["rollback", "lock"]);
}

#[test]
fn p10_a_request_that_waits_for_a_slot_is_dropped_when_its_client_leaves() {
    let site = site();
    let before = verbs(&site);
    let many = fill_slots(&site, SLOTS);
    let (left, stays) = as_nobody(|| {
        let left = request(&site, &seal_of("small"));
        (
            left,
            request(&site, "{\"op\":\"abort\",\"name\":\"small\"}"),
        )
    });
    drop(left);
    drop(many);
    // It is after those in line.
    mentions(&answer(&stays), &["done"]);
    assert_eq!(verbs(&site), before, "nothing was sealed");
}

#[test]
fn p10_what_a_stopped_daemon_had_not_taken_is_dropped_and_the_client_says_so() {
    let site = site();
    site.ok(["abort", "endless"]);
    let before = site.state();
    let pid = site.daemon_pid();
    kill(pid, libc::SIGSTOP);
    let outs: Vec<Output> = std::thread::scope(|scope| {
        let commands = [
            &["rollback"][..],
            &["channel", "set", "preview", "live"],
            &["seal", "small"],
        ];
        let threads = commands.map(|args| scope.spawn(|| site.run(args.iter().copied())));
        threads.map(|thread| thread.join().unwrap()).into()
    });
    kill(pid, libc::SIGCONT);
    for out in outs {
        let said = refusal(&out, 1);
        mentions(
            &said,
            &[
                "is stopped",
                "had not taken the request",
                "nothing was changed",
            ],
        );
    }
    // In line after all of those.
    site.ok(["status"]);
    assert_eq!(site.state(), before);
}

#[test]
fn a_command_whose_daemon_ends_before_it_answers_exits_with_5_unless_it_only_reads() {
    let site = site();
    write_holes(&site.beside("endless"), ENDLESS);
    let folder: PathBuf = site.beside("folder");
    write_files(&folder, &[("index.html", "a folder")]);
    write_holes(&folder.join("holes"), ENDLESS);
    let commands = [
        (5, vec!["seal", "endless"]),
        (1, vec!["deploy", "--dry-run", text(&folder)]),
    ];
    for (code, args) in commands {
        let pid = site.daemon_pid();
        let client = site
            .command(args.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let is_at_it = || {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let mut open = open
                .flatten()
                .filter_map(|fd| std::fs::read_link(fd.path()).ok());
            open.any(|path| path.ends_with("holes"))
        };
        wait_for("the daemon at work", is_at_it);
        kill(pid, libc::SIGKILL);
        let out = client.wait_with_output().unwrap();
        let said = refusal(&out, code);
        mentions(&said, &["the daemon ended before it answered"]);
        assert_eq!(said.contains("not known whether"), code == 5, "{said}");
        site.mount(&[]);
    }
}

#[test]
fn p10_texts_that_are_too_long_are_refused_and_change_nothing() {
    let site = Site::live_with(&[("index.html", "one")]);
    let id = site.json(["status"])["live"].as_str().unwrap().to_owned();
    let folder = site.beside("folder");
    write_files(&folder, &[("index.html", "a folder")]);
    let long = "m".repeat(65_536);
    let fact = format!("key={}", &long[..5000]);
    let longest = "f".repeat(400);
    for args in [
        &["activate", &id, "-m", &long][..],
        &["rollback", "-m", &long],
        &["channel", "set", "preview", &id, "-m", &long],
        &["lock", "-m", &long],
        &["pin", &id, "-m", &long],
        &["deploy", text(&folder), "-m", &long],
        &["deploy", text(&folder), "--meta", &fact],
        &["show", &longest],
        &["activate", &id, "--if-live", &longest],
    ] {
        let said = site.refused_whole(1, args.iter().copied());
        mentions(&said, &["at most", "bytes"]);
        assert!(said.len() < 500, "{said}");
    }
    // One that does not use the command line has the same answer.
    let before = site.state();
    for raw in [
        format!("{{\"op\":\"lock\",\"reason\":\"{long}\"}}"),
        "{\"op\":\"lock\",\"reason\":\"a\\u0000b\"}".into(),
    ] {
        mentions(&answer(&request(&site, &raw)), &["a reason"]);
    }
    assert_eq!(site.state(), before);
    let fits = "m".repeat(16_384);
    site.ok(["activate", &id, "-m", &fits]);
    assert_eq!(
        site.json(["log"]).as_array().unwrap().last().unwrap()["message"],
        fits.as_str()
    );
}

/// As an older deployfs took it.
fn record_long_texts(site: &Site, long: &str) -> String {
    let id = site.seal(&[("index.html", "one")]);
    let store = Store::open(&site.store).unwrap();
    let record = |verb, channel: Option<&str>| Record {
        seq: 0,
        time: 1_795_453_432,
        actor: "root".into(),
        verb,
        channel: channel.map(|name| name.parse().unwrap()),
        deploy: (verb != Verb::Lock).then(|| id.parse().unwrap()),
        content: None,
        txn: None,
        until: None,
        overrides: None,
        message: long.into(),
        meta: Default::default(),
        last_mtime: store.with_ledger(|ledger| ledger.last_mtime()),
        prev: String::new(),
    };
    let content = store.deploy_file(id.parse().unwrap()).unwrap().content;
    let meta = [("key".to_owned(), long.to_owned())].into();
    let seal = Record {
        content: Some(content),
        meta,
        ..record(Verb::Seal, None)
    };
    store.record(seal).unwrap();
    store.record(record(Verb::Activate, Some("live"))).unwrap();
    store
        .record(record(Verb::Activate, Some("preview")))
        .unwrap();
    store.record(record(Verb::Lock, None)).unwrap();
    store.record(record(Verb::Pin, None)).unwrap();
    id
}

#[test]
fn p10_a_store_with_longer_texts_than_are_taken_today_is_read_shown_exported_and_written() {
    need_fuse();
    let site = Site::unmounted();
    let long = "ä".repeat(200_000);
    let id = record_long_texts(&site, &long);
    for mounted in [false, true] {
        if mounted {
            site.mount(&[]);
        }
        for args in [
            &["log"][..],
            &["log", "--channel", "preview"],
            &["list"],
            &["list", "--meta", "key"],
            &["channel", "list"],
            &["status"],
            &["show", &id],
            &["fsck"],
        ] {
            let out = site.run(args.iter().copied());
            assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        }
        // All of it where a program reads it.
        let log = site.json(["log"]);
        assert_eq!(
            log.as_array().unwrap().last().unwrap()["message"],
            long.as_str()
        );
        let said = site.refused(3, ["activate", &id]);
        mentions(&said, &["is locked"]);
    }
    site.ok(["unlock"]);
    site.activate(&id);
    // Another store takes the deploy, and as much of what is said of it as it may keep.
    let export = site.beside("export");
    let export_to = std::fs::File::create(&export).unwrap();
    let exported = site
        .command(["export", &id])
        .stdout(export_to)
        .status()
        .unwrap();
    assert!(exported.success());
    let other = Site::unmounted();
    let out = other.run(["import", text(&export)]);
    assert!(out.status.success(), "{}", stderr(&out));
    mentions(
        &stderr(&out),
        &["message is longer", "was cut", "not kept: key"],
    );
    let message = other.json(["show", &id])["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.starts_with("ää") && message.len() <= 16_384);
}

#[test]
fn p10_a_member_of_the_control_group_cannot_end_the_site() {
    let site = site();
    let said = refusal(&as_member(&site, &["umount", text(&site.mnt)]), 1);
    mentions(&said, &["nobody may not unmount", "sudo deployfs umount"]);
    let said = as_nobody(|| answer(&request(&site, "{\"op\":\"shutdown\"}")));
    mentions(&said, &["nobody may not unmount"]);
    assert_eq!(site.read("index.html"), "two");
    assert!(is_mounted(&site.mnt));
    for _ in 0..10 {
        site.umount();
        assert!(!is_mounted(&site.mnt), "umount returned before its end");
        site.mount(&["--control-group", &NOBODY.to_string()]);
    }
}
