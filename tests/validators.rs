//! What browsers and caches keep: no validator of a web server on `live` is ever stale, whatever is deployed or rolled back.
//!
//! nginx's ETag is the mtime's second and the size, its If-Modified-Since wants the exact second: both come from the mount.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::*;

/// What a browser holds of one path.
#[derive(Debug, Clone)]
struct Held {
    path: String,
    etag: String,
    last_modified: String,
    body: Vec<u8>,
}

/// Fetches a path as for the first time.
fn fetch(http: &mut Http, path: &str) -> Held {
    let response = http.get(path);
    assert_eq!(response.status, 200, "{path}");
    Held {
        path: path.to_owned(),
        etag: response.etag().to_owned(),
        last_modified: response.last_modified().to_owned(),
        body: response.body,
    }
}

/// Every conditional request that a client can make with what it holds.
struct Asked {
    if_none_match: Response,
    if_modified_since: Response,
    both: Response,
    head_if_none_match: Response,
    head_if_modified_since: Response,
    range_if_etag: Response,
    range_if_date: Response,
}

const RANGE: (&str, &str) = ("Range", "bytes=1-2");

fn ask(http: &mut Http, held: &Held) -> Asked {
    let (etag, date) = (held.etag.as_str(), held.last_modified.as_str());
    let (path, none_match) = (held.path.as_str(), ("If-None-Match", etag));
    let modified_since = ("If-Modified-Since", date);
    Asked {
        if_none_match: http.get_with(path, &[none_match]),
        if_modified_since: http.get_with(path, &[modified_since]),
        both: http.get_with(path, &[none_match, modified_since]),
        head_if_none_match: http.head_with(path, &[none_match]),
        head_if_modified_since: http.head_with(path, &[modified_since]),
        range_if_etag: http.get_with(path, &[RANGE, ("If-Range", etag)]),
        range_if_date: http.get_with(path, &[RANGE, ("If-Range", date)]),
    }
}

impl Asked {
    fn conditional(&self) -> [&Response; 5] {
        [
            &self.if_none_match,
            &self.if_modified_since,
            &self.both,
            &self.head_if_none_match,
            &self.head_if_modified_since,
        ]
    }

    fn ranged(&self) -> [&Response; 2] {
        [&self.range_if_etag, &self.range_if_date]
    }
}

/// The copy is as good as new: 304 to every question, and a range continues it.
fn assert_kept(http: &mut Http, held: &Held) {
    let asked = ask(http, held);
    for response in asked.conditional() {
        assert_eq!(response.status, 304, "{held:?}: {response:?}");
        assert_eq!(response.etag(), held.etag);
    }
    for response in asked.ranged() {
        assert_eq!(response.status, 206, "{held:?}: {response:?}");
        assert_eq!(response.body, held.body[1..3], "{held:?}");
    }
    assert_eq!(http.get(&held.path).body, held.body);
}

/// The copy is out of date: every question is answered with the whole new file under other validators. Returns that file.
fn assert_replaced(http: &mut Http, held: &Held, now: &[u8]) -> Held {
    let asked = ask(http, held);
    for response in asked.conditional().into_iter().chain(asked.ranged()) {
        assert_eq!(response.status, 200, "{held:?}: {response:?}");
        assert_ne!(response.etag(), held.etag, "{held:?}");
        assert_ne!(response.last_modified(), held.last_modified, "{held:?}");
        let length = response.header("content-length");
        assert_eq!(length, Some(now.len().to_string().as_str()), "{held:?}");
    }
    let with_bodies = [&asked.if_none_match, &asked.if_modified_since, &asked.both];
    for response in with_bodies.into_iter().chain(asked.ranged()) {
        assert_eq!(response.body, now, "{held:?}");
    }
    fetch(http, &held.path)
}

#[test]
fn p7_a_freshly_copied_tree_keeps_unchanged_pages_cached_and_replaces_changed_ones() {
    let site = Site::new();
    let build = site.beside("build");
    write_files(
        &build,
        &[
            ("index.html", "home"),
            ("css/site.css", "body {}"),
            ("js/app.js", "version(1)"),
        ],
    );
    site.activate(&site.deploy(&build));
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    let home = fetch(&mut http, "/");
    let css = fetch(&mut http, "/css/site.css");
    let script = fetch(&mut http, "/js/app.js");
    assert_eq!(home.etag, fetch(&mut http, "/index.html").etag);

    // A CI checks everything out anew: other mtimes on every file, one changed.
    let again = site.beside("again");
    sh(&format!("cp -r {} {}", build.display(), again.display()));
    fs::write(again.join("js/app.js"), "version(2)").unwrap();
    for (number, file) in ["index.html", "css/site.css", "js/app.js"]
        .iter()
        .enumerate()
    {
        let file = fs::File::options().write(true).open(again.join(file));
        let other = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 * (number as u64 + 1));
        file.unwrap().set_modified(other).unwrap();
    }
    let staged = site.ok(["create", "two"]);
    sh(&format!("cp -rp {}/. {staged}", again.display()));
    site.activate(&site.ok(["seal", "two"]));

    assert_kept(&mut http, &home);
    assert_kept(&mut http, &css);
    let newer = assert_replaced(&mut http, &script, b"version(2)");
    site.ok(["rollback"]);
    assert_kept(&mut http, &home);
    assert_kept(&mut http, &css);
    assert_kept(&mut http, &script);
    assert_replaced(&mut http, &newer, b"version(1)");
}

#[test]
fn p7_deploys_sealed_within_one_second_never_share_a_validator() {
    let site = Site::new();
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    let mut deploys: Vec<(String, String)> = Vec::new();
    let mut in_second: BTreeMap<i64, u32> = BTreeMap::new();
    // As many as it takes for three to be sealed within one second; their mtimes then run ahead of the clock.
    while in_second.values().all(|sealed| *sealed < 3) {
        assert!(deploys.len() < 200, "no three seals within a second");
        let body = format!("{:03}", deploys.len());
        let id = site.seal(&[("page", &body)]);
        let at = site.json(["show", &id])["sealed_at"].as_i64().unwrap();
        *in_second.entry(at).or_default() += 1;
        site.activate(&id);
        deploys.push((id, body));
    }
    let mut held: Vec<Held> = Vec::new();
    for (id, body) in &deploys {
        site.activate(id);
        for older in &held {
            assert_replaced(&mut http, older, body.as_bytes());
        }
        held.push(fetch(&mut http, "/page"));
        assert_eq!(held.last().unwrap().body, body.as_bytes());
    }
    // Back again through all of them: each one's own copy is good, and no other.
    for (id, body) in deploys.iter().rev() {
        site.activate(id);
        for copy in &held {
            if copy.body == body.as_bytes() {
                assert_kept(&mut http, copy);
            } else {
                assert_replaced(&mut http, copy, body.as_bytes());
            }
        }
    }
}

#[test]
fn p7_contents_that_come_back_and_modes_that_change_never_revive_a_validator_of_other_bytes() {
    let site = Site::new();
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    // The second file makes each a deploy of its own. Contents A → B → A, then A with another mode, then B.
    let steps = [
        ("A", 0o644),
        ("B", 0o644),
        ("A", 0o644),
        ("A", 0o755),
        ("B", 0o644),
    ];
    let mut seen: Vec<(String, Held)> = Vec::new();
    for (number, (bytes, mode)) in steps.iter().enumerate() {
        let name = format!("s{number}");
        let body = bytes.repeat(5);
        let staged = site.stage(&name, &[("page", &body), ("other", &name)]);
        fs::set_permissions(staged.join("page"), fs::Permissions::from_mode(*mode)).unwrap();
        let id = site.ok(["seal", &name]);
        site.activate(&id);
        let served = fetch(&mut http, "/page");
        assert_eq!(served.body, body.as_bytes());
        for (_, older) in &seen {
            assert_replaced(&mut http, older, body.as_bytes());
        }
        seen.push((id, served));
    }
    for (id, own) in &seen {
        site.activate(id);
        assert_kept(&mut http, own);
        for (_, other) in seen.iter().filter(|(_, other)| other.etag != own.etag) {
            assert_replaced(&mut http, other, &own.body);
        }
    }
}

#[test]
fn p7_a_download_across_a_flip_is_the_old_file_whole_and_its_continuation_is_never_spliced() {
    let site = Site::new();
    let (old, new) = (noise(1, 12 << 20), noise(2, 12 << 20));
    let seal = |bytes: &[u8]| {
        let dir = site.beside("big");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file.iso"), bytes).unwrap();
        site.deploy(&dir)
    };
    let (one, two) = (seal(&old), seal(&new));
    site.activate(&one);
    let nginx = Nginx::serve(&site.path("live"));
    let mut slow = nginx.connect();
    let mut under_way = slow.begin("/file.iso", &[]);
    let mut halted = nginx.connect();
    let begun = halted.begin("/file.iso", &[]);
    site.activate(&two);

    // Its reader waited all along: far more than fits into the socket is still to be sent.
    slow.finish(&mut under_way);
    assert!(under_way.body == old, "the old file, whole");
    let next = slow.get("/file.iso");
    assert!(next.body == new, "the new file on the same connection");

    // A download that broke off is taken up again with what is known from its beginning.
    drop(halted);
    let mut resumed = nginx.connect();
    let middle = ("Range", "bytes=4000000-");
    for validator in [begun.etag(), begun.last_modified()] {
        let whole = resumed.get_with("/file.iso", &[middle, ("If-Range", validator)]);
        assert_eq!(whole.status, 200);
        assert!(whole.body == new, "the new file, whole");
    }
    for validator in [next.etag(), next.last_modified()] {
        let rest = resumed.get_with("/file.iso", &[middle, ("If-Range", validator)]);
        assert_eq!(rest.status, 206);
        assert!(rest.body == new[4_000_000..], "the rest of the new file");
    }
    site.ok(["rollback"]);
    let rest = resumed.get_with("/file.iso", &[middle, ("If-Range", begun.etag())]);
    assert_eq!(rest.status, 206);
    assert!(rest.body == old[4_000_000..], "the rest of the old file");
}

/// A site of three pages whose contents are drawn from a few of one length.
fn draw(seed: &mut u64) -> [u8; 3] {
    [(); 3].map(|()| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 33) as u8 % 3
    })
}

const PAGES: [&str; 3] = ["/a", "/b/c", "/b/d"];

fn body(number: u8) -> String {
    format!("content {number}")
}

#[test]
fn p7_no_row_of_deploys_and_rollbacks_makes_anything_ever_held_stale() {
    let site = Site::new();
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    let mut seed = 7;
    let mut held: BTreeMap<(usize, String), Held> = BTreeMap::new();
    let mut deploys: Vec<(String, [u8; 3])> = Vec::new();
    let mut kept = 0;
    for step in 0..count("DEPLOYFS_TEST_VALIDATOR_STEPS", 24) {
        let drawn = draw(&mut seed);
        // Every third step goes back to a deploy that is there, the others make one.
        if step % 3 == 2 {
            let pick = (drawn[0] as usize * 9 + drawn[1] as usize * 3) % deploys.len();
            let again = deploys[pick].clone();
            site.activate(&again.0);
            deploys.push(again);
        } else {
            let [a, b, c] = drawn.map(body);
            let id = site.seal(&[("a", &a), ("b/c", &b), ("b/d", &c)]);
            site.activate(&id);
            deploys.push((id, drawn));
        }
        let live = deploys.last().unwrap().1;
        for (page, path) in PAGES.iter().enumerate() {
            let now = fetch(&mut http, path);
            assert_eq!(now.body, body(live[page]).as_bytes(), "step {step}");
            for ((_, etag), copy) in held.iter().filter(|((of, _), _)| *of == page) {
                let asked = ask(&mut http, copy);
                let says_kept = asked.if_none_match.status == 304;
                assert_eq!(says_kept, *etag == now.etag, "step {step}: {copy:?}");
                if says_kept {
                    assert_kept(&mut http, copy);
                    assert_eq!(copy.body, now.body, "step {step}: stale");
                    kept += 1;
                } else {
                    assert_replaced(&mut http, copy, &now.body);
                }
            }
            held.insert((page, now.etag.clone()), now);
        }
    }
    assert!(kept > 0, "some copies outlived a deploy");
}

#[test]
fn p7_a_web_server_that_keeps_files_open_never_sends_old_bytes_under_a_new_etag() {
    let site = Site::new();
    // Same sizes throughout; the third has the first one's bytes again, the fourth another mode.
    let mut deploys = Vec::new();
    for (number, (bytes, mode)) in [("A", 0o644), ("B", 0o644), ("A", 0o644), ("A", 0o755)]
        .iter()
        .enumerate()
    {
        let name = format!("s{number}");
        let staged = site.stage(&name, &[("page", &bytes.repeat(9000)), ("x", &name)]);
        fs::set_permissions(staged.join("page"), fs::Permissions::from_mode(*mode)).unwrap();
        let id = site.ok(["seal", &name]);
        site.activate(&id);
        deploys.push(id);
    }
    // A server without that cache tells which bytes belong to which ETag.
    let plain = Nginx::serve(&site.path("deploys"));
    let mut http = plain.connect();
    let mut bytes_of: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for id in &deploys {
        let held = fetch(&mut http, &format!("/{id}/page"));
        let known = bytes_of.insert(held.etag, held.body.clone());
        assert!(known.is_none_or(|known| known == held.body));
    }
    assert!(bytes_of.len() >= 3, "{:?}", bytes_of.keys());

    let caching = "open_file_cache max=1000 inactive=60s; open_file_cache_valid 1s;";
    let nginx = Nginx::serve_with(&site.path("live"), caching);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let mut http = nginx.connect();
                let (bytes_of, done) = (&bytes_of, &done);
                scope.spawn(move || {
                    let mut answers = 0;
                    while !done.load(Ordering::Relaxed) {
                        let response = http.get("/page");
                        assert_eq!(response.status, 200);
                        let right = &bytes_of[response.etag()];
                        assert!(response.body == *right, "other bytes under an old ETag");
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        let mut http = nginx.connect();
        for id in [0, 1, 2, 3, 1, 0].map(|step: usize| &deploys[step]) {
            site.activate(id);
            // Within its second nginx may still answer the deploy before, whole; then it looks again.
            let etag = mtime_etag(&site.live("page"));
            wait_for("the new page", || http.get("/page").etag() == etag);
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

/// nginx's ETag of a file.
fn mtime_etag(path: &Path) -> String {
    let meta = fs::metadata(path).unwrap();
    format!("\"{:x}-{:x}\"", meta.mtime(), meta.len())
}
