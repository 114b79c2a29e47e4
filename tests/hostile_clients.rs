//! P10: clients of the control socket that send rubbish, too much, nothing, or go away. They change nothing and hold up nobody.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "a page");
/// How soon a real client must have its answer, program start included.
const AT_ONCE: Duration = Duration::from_secs(2);

fn connect(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(site.store.join("control.sock")).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// What comes back, up to the end of its first line.
fn answer(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

fn told(site: &Site, bytes: &[u8]) -> String {
    let stream = connect(site);
    // Refused before all of it is read, the rest has nowhere to go.
    (&stream).write_all(bytes).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    answer(&stream)
}

fn is_served_at_once(site: &Site) {
    let began = Instant::now();
    site.ok(["status"]);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

#[test]
fn p10_rubbish_and_lines_without_end_are_refused_with_a_word() {
    let site = Site::live_with(&[PAGE]);
    let before = site.state();
    let deep = format!(
        "{{\"v\":1,\"request\":{{\"op\":\"lock\",\"reason\":{}\n",
        "[".repeat(100_000)
    );
    let activate = "{\"v\":1,\"request\":{\"op\":\"activate\",\"target\":[\"live\"]}}\n";
    for (bytes, word) in [
        (b"rubbish\n".to_vec(), "cannot be understood"),
        (b"\n".to_vec(), "cannot be understood"),
        (noise(7, 3000), "cannot be understood"),
        (
            b"{\"v\":2,\"request\":{\"op\":\"status\"}}\n".to_vec(),
            "version 1",
        ),
        (
            b"{\"v\":1,\"request\":{\"op\":\"explode\"}}\n".to_vec(),
            "explode",
        ),
        (
            b"{\"v\":1,\"request\":{\"op\":\"rollback\"".to_vec(),
            "cannot be understood",
        ),
        (activate.into(), "cannot be understood"),
        (deep.into(), "recursion limit"),
        (vec![b'x'; 3 << 20], "a line is too long"),
        (vec![], "no request came"),
    ] {
        let said = told(&site, &bytes);
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(
            said.contains("failure") && said.contains(word),
            "{start}: {said}"
        );
        is_served_at_once(&site);
    }
    assert_eq!(site.state(), before);
}

#[test]
fn p10_a_request_that_stops_in_the_middle_is_refused_with_the_reason() {
    let site = Site::live_with(&[PAGE]);
    let mut stream = connect(&site);
    stream.write_all(b"{\"v\":1,\"request\":").unwrap();
    let said = answer(&stream);
    assert!(said.contains("no whole request came"), "{said}");
    assert!(!said.contains("os error"), "{said}");
}

#[test]
fn p10_clients_who_say_nothing_hold_up_nobody() {
    let site = Site::live_with(&[PAGE]);
    let before = site.state();
    let silent: Vec<UnixStream> = (0..200).map(|_| connect(&site)).collect();
    // Some say a little, and no more.
    for stream in silent.iter().step_by(3) {
        let mut stream = stream;
        stream.write_all(b"{\"v\":1,").ok();
    }
    is_served_at_once(&site);
    let said = answer(&silent[0]);
    assert!(
        said.contains("no request came") && said.contains("try again"),
        "{said}"
    );
    // The last of them is still heard.
    let last = silent.last().unwrap();
    let mut sender = last;
    sender
        .write_all(b"{\"v\":1,\"request\":{\"op\":\"status\"}}\n")
        .unwrap();
    assert!(answer(last).contains("answer"));
    drop(silent);
    is_served_at_once(&site);
    assert_eq!(site.state(), before);
}

#[test]
fn p10_clients_who_go_away_in_the_middle_change_nothing() {
    let site = Site::live_with(&[PAGE]);
    site.seal(&[("index.html", "another page")]);
    let build = site.beside("build");
    for number in 0..20 {
        write_noise(&build.join(format!("f{number}")), number, 1 << 20);
    }
    let before = site.state();
    let requests = [
        "{\"v\":1,\"request\":{\"op\":\"list\"}}\n",
        "{\"v\":1,\"request\":{\"op\":\"log\",\"after\":0}}\n",
        "{\"v\":1,\"request\":{\"op\":\"status\"}}\n",
        "{\"v\":1,\"request\":{\"op\":\"fsck\",\"read_data\":true}}\n",
    ];
    for (number, request) in (0..200).zip(requests.iter().cycle()) {
        let mut stream = connect(&site);
        // Whole, or cut somewhere.
        let len = if number % 2 == 0 {
            request.len()
        } else {
            1 + number % (request.len() - 1)
        };
        stream.write_all(&request.as_bytes()[..len]).unwrap();
    }
    is_served_at_once(&site);
    // A seal whose client goes when it is under way.
    let staged = site.staging("v9");
    site.ok(["create", "v9"]);
    sh(&format!("cp -r {}/. {}", text(&build), text(&staged)));
    // Takes a seal seconds to read, so that it is under way when the client goes.
    write_holes(&staged.join("holes"), 8 << 30);
    let mut stream = connect(&site);
    stream
        .write_all(b"{\"v\":1,\"request\":{\"op\":\"seal\",\"name\":\"v9\",\"options\":{}}}\n")
        .unwrap();
    assert!(answer(&stream).contains("progress"));
    drop(stream);
    wait_for("the staging folder to be given back", || {
        staged.exists() && names(&staged).len() == 21 && site.run(["abort", "v9"]).status.success()
    });
    assert_eq!(site.state(), before);
    is_served_at_once(&site);
}

#[test]
fn p10_a_peer_who_is_not_allowed_is_refused_by_what_the_kernel_says_of_it() {
    let site = Site::live_with(&[PAGE]);
    site.seal(&[("index.html", "another page")]);
    let before = site.state();
    // Somebody has opened the socket to all.
    let socket = site.store.join("control.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let said = as_nobody(|| {
        ["rollback", "shutdown", "status"].map(|op| {
            let request = format!("{{\"v\":1,\"request\":{{\"op\":\"{op}\"}}}}\n");
            told(&site, request.as_bytes())
        })
    });
    for said in said {
        assert!(
            said.contains("user nobody may not control this store"),
            "{said}"
        );
    }
    assert_eq!(site.state(), before);
    is_served_at_once(&site);
}
