//! What `diff`, `show`, `list --meta` and `log --follow` tell of what changed.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

/// Names that are legal and that no line holds as they are.
const ODD: [&[u8]; 5] = [
    b"two\nlines",
    b"q\"uote",
    b"back\\slash",
    b"esc\x1b[31m",
    b"no text\xff\xfe",
];

#[test]
fn paths_of_all_bytes_are_told_apart_in_every_output() {
    for mounted in [true, false] {
        let site = match mounted {
            true => Site::new(),
            false => Site::unmounted(),
        };
        let one = site.seal(&[("plain", "x")]);
        let build = site.beside("build");
        write_files(&build, &[("plain", "x")]);
        for name in ODD {
            fs::write(build.join(OsStr::from_bytes(name)), "1").unwrap();
        }
        let two = site.deploy(&build);
        let mut expected: Vec<Vec<u8>> = ODD.map(<[u8]>::to_vec).into();
        expected.sort();

        let raw = site.run(["diff", &one, &two, "-z"]).stdout;
        let mut found: Vec<Vec<u8>> = raw.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
        assert_eq!(found.pop(), Some(Vec::new()), "each ends in a NUL");
        found.sort();
        assert_eq!(found, expected);

        let lines = site.ok(["diff", &one, &two, "--name-only"]);
        let mut lines: Vec<&str> = lines.lines().collect();
        lines.sort_unstable();
        let quoted = [
            r#""back\\slash""#,
            r#""esc\033[31m""#,
            r#""no text\377\376""#,
            r#""q\"uote""#,
            r#""two\nlines""#,
        ];
        assert_eq!(lines, quoted);
        mentions(
            &site.ok(["diff", &one, &two]),
            &[r#"A "two\nlines"  (1 B)"#],
        );
        assert_eq!(
            site.ok(["show", &two, "--name-only"]),
            site.ok(["diff", &one, &two, "--name-only"])
        );
        assert_eq!(site.run(["show", &two, "-z"]).stdout, raw);

        let entries = site.json(["diff", &one, &two]);
        let no_text: Vec<&Value> = entries
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| !entry["path_hex"].is_null())
            .collect();
        assert_eq!(no_text.len(), 1);
        assert_eq!(no_text[0]["path"], "no text\u{fffd}\u{fffd}");
        assert_eq!(no_text[0]["path_hex"], "6e6f2074657874fffe");
        assert_eq!(entries[4]["path"], "two\nlines");
    }
}

#[test]
fn show_and_diff_answer_what_changed() {
    let site = Site::new();
    let one = site.seal(&[("same", "1"), ("changed", "12"), ("gone/away", "123")]);
    site.activate(&one);
    let two = site.seal(&[("same", "1"), ("changed", "1234"), ("new", "12345")]);
    let counts = json!({
        "against": one,
        "added": { "files": 1, "bytes": 5 },
        "changed": { "files": 1, "bytes": 4 },
        "removed": { "files": 1, "bytes": 3 },
        "permissions": { "files": 0, "bytes": 0 },
    });
    assert_eq!(site.json(["show", &two])["changes"], counts);
    assert_eq!(site.json(["show", &two, "--stat"]), counts);
    assert_eq!(site.json(["diff", &one, &two, "--stat"]), counts);
    let stat = "1 file added (5 B), 1 changed (4 B), 1 removed (3 B)";
    assert_eq!(site.ok(["show", &two, "--stat"]), stat);
    mentions(
        &site.ok(["show", &two]),
        &[&format!("changed    against {one}: {stat}")],
    );
    assert_eq!(
        site.ok(["show", &two, "--name-only"]),
        "changed\ngone\ngone/away\nnew"
    );
    // The first deploy changed everything.
    assert_eq!(site.json(["show", &one])["changes"]["against"], Value::Null);
    assert_eq!(
        site.ok(["show", &one, "--name-only"]),
        "changed\ngone\ngone/away\nsame"
    );
    assert_eq!(
        site.ok(["diff", "none", &one, "--stat"]),
        "3 files added (6 B)"
    );
    // What it is compared with does not move with what is live.
    site.activate(&two);
    assert_eq!(site.json(["show", &two])["changes"], counts);
    refusal(&site.run(["diff", "--stat", "--name-only"]), 2);
    refusal(&site.run(["show", &two, "--json", "-z"]), 2);
}

#[test]
fn a_list_by_facts_has_a_column_for_each() {
    let site = Site::unmounted();
    let mut ids = Vec::new();
    for (number, facts) in [
        ("1", &["branch=main", "git_sha=aaa"][..]),
        ("2", &["branch=topic", "git_sha=bbb"][..]),
        ("3", &[][..]),
    ] {
        site.stage("next", &[("index.html", number)]);
        let meta = facts.iter().flat_map(|fact| ["--meta", fact]);
        ids.push(site.ok(["seal", "next", "-m", "a message"].into_iter().chain(meta)));
    }
    let listed = |args: &[&str]| {
        let deploys = site.json(["list"].into_iter().chain(args.iter().copied()));
        let ids = deploys
            .as_array()
            .unwrap()
            .iter()
            .map(|deploy| deploy["deploy_id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(
        listed(&["--meta", "branch"]),
        [ids[1].clone(), ids[0].clone()]
    );
    assert_eq!(listed(&["--meta", "branch=main"]), [ids[0].clone()]);
    assert_eq!(
        listed(&["--meta", "branch=main", "--meta", "git_sha=bbb"]),
        [""; 0]
    );
    let table = site.ok(["list", "--meta", "branch", "--meta", "git_sha=aaa"]);
    let words: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[0],
        [
            "ID", "SEALED", "BY", "FILES", "SIZE", "branch", "git_sha", "MESSAGE"
        ]
    );
    assert_eq!(
        (words.len(), &words[1][6..]),
        (2, &["main", "aaa", "a", "message"][..])
    );
    refusal(&site.run(["list", "--meta", "=x"]), 2);
}

struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(site: &Site, args: &[&str]) -> Self {
        let mut command = site.command(["log", "--follow"].into_iter().chain(args.iter().copied()));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .all(|line| send.send(line).is_ok())
        });
        Following { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn log_follow_goes_on_across_daemons_and_misses_and_repeats_nothing() {
    let site = Site::new();
    let one = site.seal(&[("index.html", "one")]);
    let all = Following::start(&site, &["--json"]);
    let last = Following::start(&site, &["-n", "1"]);
    let live = Following::start(&site, &["--channel", "live", "-n", "0", "--json"]);
    let verb = |line: String| {
        serde_json::from_str::<Value>(&line).unwrap()["verb"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!([verb(all.next()), verb(all.next())], ["init", "seal"]);
    mentions(&last.next(), &["seal", &one]);

    site.activate(&one);
    assert_eq!(verb(all.next()), "activate");
    site.umount();
    site.ok(["lock", "-m", "without a daemon"]);
    assert_eq!(verb(all.next()), "lock");
    site.mount(&[]);
    site.signal_daemon(libc::SIGKILL);
    site.ok(["unlock"]);
    site.mount(&[]);
    site.ok(["rollback", "--to", &one, "-m", "after it"]);
    assert_eq!([verb(all.next()), verb(all.next())], ["unlock", "rollback"]);
    for words in [
        ["activate", &one],
        ["lock", "without a daemon"],
        ["unlock", "root"],
        ["rollback", "after it"],
    ] {
        mentions(&last.next(), &words);
    }
    assert_eq!(
        [verb(live.next()), verb(live.next())],
        ["activate", "rollback"]
    );
    assert_eq!(site.json(["log", "-n", "2"])[0]["verb"], "unlock");
    assert_eq!(site.ok(["log", "-n", "0"]), "");
}
