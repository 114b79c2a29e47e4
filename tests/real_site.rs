//! Real sites: Debian's documentation packages in two of their versions, staged, served, redeployed under load, rolled back.
//!
//! The packages come from the Debian archive once and stay in target/tmp. Where no archive can be reached these tests fail,
//! unless DEPLOYFS_TEST_NO_ARCHIVE=1 says that this is known.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;

use crate::support::*;

/// Two versions of a real site, older first, each a folder that a web server can serve.
struct Versions {
    old: PathBuf,
    new: PathBuf,
}

/// A documentation package: where its pages are, and packages whose files its symlinks lead to.
struct Package {
    name: &'static str,
    pages: &'static str,
    beside: &'static [&'static str],
}

const POSTGRES: Package = Package {
    name: "postgresql-doc-15",
    pages: "usr/share/doc/postgresql-doc-15/html",
    beside: &[],
};

const PYTHON: Package = Package {
    name: "python3.11-doc",
    pages: "usr/share/doc/python3.11/html",
    beside: &["libjs-jquery", "libjs-underscore"],
};

/// Every page by its path in the site, with its hash.
type Pages = BTreeMap<String, String>;

#[test]
fn a_real_site_is_served_byte_for_byte_flipped_under_load_and_rolled_back() {
    let Some(versions) = fetch(&POSTGRES) else {
        return;
    };
    publish_both(&Site::new(), &versions, "cp -r");
}

#[test]
fn a_real_site_whose_symlinks_lead_outside_is_refused_and_deployed_once_they_are_copied() {
    let Some(versions) = fetch(&PYTHON) else {
        return;
    };
    let site = Site::new();
    let staged = site.ok(["create", "linked"]);
    sh(&format!("cp -r {}/. {staged}", versions.old.display()));
    let said = site.refused(1, ["seal", "linked"]);
    for link in ["_static/jquery.js", "_static/underscore.js"] {
        assert!(said.contains(link), "{said}");
    }
    assert!(said.contains("--allow-external-symlinks"), "{said}");
    assert!(Path::new(&staged).join("index.html").is_file());
    assert_eq!(site.json(["list"]), serde_json::json!([]));
    site.ok(["abort", "linked"]);
    // What a user does about it: copy what the links lead to.
    publish_both(&site, &versions, "cp -rL");
}

#[test]
fn p8_the_next_version_of_a_real_site_costs_what_is_new_in_it() {
    let Some(versions) = fetch(&PYTHON) else {
        return;
    };
    let site = Site::unmounted();
    let deploy = |dir: &Path| {
        let links = "--allow-external-symlinks";
        site.json(["deploy", text(dir), links])
    };
    let number = |report: &serde_json::Value, field: &str| report[field].as_u64().unwrap();
    let first = deploy(&versions.old);
    let second = deploy(&versions.new);
    let old: Vec<String> = b3sums(&versions.old).into_values().collect();
    let changed: u64 = b3sums(&versions.new)
        .iter()
        .filter(|(_, hash)| !old.contains(hash))
        .map(|(path, _)| fs::metadata(versions.new.join(path)).unwrap().len())
        .sum();
    // Beside the changed files, only the trees above them.
    let whole = number(&second, "bytes");
    assert!(changed > 0 && changed < whole, "{changed} of {whole}");
    let new = number(&second, "new_bytes");
    assert!(new <= changed + whole / 100, "{new} for {changed}");
    assert!(number(&second, "stored_bytes") < number(&first, "stored_bytes"));
    // What is there already costs nothing.
    let again = deploy(&versions.old);
    assert_eq!(again["deploy_id"], first["deploy_id"]);
    assert_eq!(number(&again, "new_bytes"), 0);
    assert_eq!(number(&again, "stored_bytes"), 0);
}

/// The whole story of a redeploy.
fn publish_both(site: &Site, versions: &Versions, copy: &str) {
    let (old, new) = (b3sums(&versions.old), b3sums(&versions.new));
    let changed = old
        .iter()
        .filter(|(path, hash)| new.get(*path) != Some(*hash));
    assert!(old.len() > 500 && changed.count() > 0);

    let publish = |name: &str, source: &Path| {
        let staged = site.ok(["create", name]);
        sh(&format!("{copy} {}/. {staged}", source.display()));
        site.ok(["seal", name])
    };
    let one = publish("one", &versions.old);
    site.activate(&one);
    let nginx = Nginx::serve(&site.path("live"));
    assert_eq!(served(&nginx, old.keys()), old);

    let two = publish("two", &versions.new);
    assert_eq!(served(&nginx, old.keys()), old, "sealing changes nothing");
    under_load(&nginx, &old, &new, || site.activate(&two));
    assert_eq!(served(&nginx, new.keys()), new);
    assert_eq!(b3sums(&site.path("live")), new);
    assert_eq!(b3sums(&site.path(&format!("deploys/{one}"))), old);

    under_load(&nginx, &new, &old, || {
        assert_eq!(site.ok(["rollback"]), one);
    });
    assert_eq!(served(&nginx, old.keys()), old);
    let out = site.beside("copied-out");
    sh(&format!(
        "cp -r {} {}",
        site.path("live").display(),
        out.display()
    ));
    assert_eq!(b3sums(&out), old);
    let verified = site.json(["verify"]);
    assert_eq!(verified["problems"], serde_json::json!([]));
}

/// Fetches all these paths; the hash of each answer.
fn served<'a>(nginx: &Nginx, paths: impl Iterator<Item = &'a String>) -> Pages {
    let mut http = nginx.connect();
    paths
        .map(|path| {
            let response = http.get(&format!("/{path}"));
            assert_eq!(response.status, 200, "{path}");
            (path.clone(), hash(&response.body))
        })
        .collect()
}

const BEFORE: u8 = 0;
const CHANGING: u8 = 1;
const AFTER: u8 = 2;

/// Runs `change` while clients fetch pages: every answer is a whole page of one of the two sites; of the second one only
/// once `change` has begun, of it alone once `change` has returned; and no client ever goes back.
fn under_load(nginx: &Nginx, before: &Pages, after: &Pages, change: impl FnOnce()) {
    let paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    let (state, done) = (AtomicU8::new(BEFORE), AtomicBool::new(false));
    let (asked_before, asked_after) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let client = |number: usize| {
        let mut http = nginx.connect();
        let mut moved_on = false;
        for path in paths.iter().cycle().skip(number * paths.len() / 4) {
            if done.load(Ordering::SeqCst) {
                break;
            }
            let at_start = state.load(Ordering::SeqCst);
            let response = http.get(&format!("/{path}"));
            let at_end = state.load(Ordering::SeqCst);
            let found = match response.status {
                200 => Some(hash(&response.body)),
                404 => None,
                other => panic!("{path}: {other}"),
            };
            let is = |pages: &Pages| pages.get(*path) == found.as_ref();
            match (is(before), is(after)) {
                (true, true) => {}
                (true, false) => {
                    assert_ne!(
                        at_start, AFTER,
                        "{path}: the old page after the change returned"
                    );
                    assert!(!moved_on, "{path}: the old page after a new one");
                }
                (false, true) => {
                    assert_ne!(at_end, BEFORE, "{path}: the new page before the change");
                    moved_on = true;
                }
                (false, false) => panic!("{path}: neither the old page nor the new one"),
            }
            match at_start {
                BEFORE => asked_before.fetch_add(1, Ordering::SeqCst),
                AFTER => asked_after.fetch_add(1, Ordering::SeqCst),
                _ => 0,
            };
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| scope.spawn(move || client(number)))
            .collect();
        // A client that has failed must not keep the others waiting.
        let going = || clients.iter().all(|client| !client.is_finished());
        wait_for("requests before the change", || {
            !going() || asked_before.load(Ordering::SeqCst) > 200
        });
        state.store(CHANGING, Ordering::SeqCst);
        change();
        state.store(AFTER, Ordering::SeqCst);
        wait_for("requests after the change", || {
            !going() || asked_after.load(Ordering::SeqCst) > 200
        });
        done.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
    });
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// What the b3sum tool says of every file below a folder, those behind symlinks too.
fn b3sums(dir: &Path) -> Pages {
    let lines = sh(&format!(
        "cd {} && find -L . -type f -print0 | xargs -0 b3sum",
        dir.display()
    ));
    let pages = lines.lines().map(|line| {
        let (hash, path) = line.split_once("  ./").expect("HASH  ./PATH");
        (path.to_owned(), hash.to_owned())
    });
    pages.collect()
}

/// The package's two newest offered versions, unpacked; none where the archive is opted out of.
fn fetch(package: &Package) -> Option<Versions> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _apt = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    let ready = cache.join(package.name);
    if !ready.exists() {
        match download(package, &cache) {
            Ok(unpacked) => fs::rename(unpacked, &ready).unwrap(),
            Err(why) if std::env::var("DEPLOYFS_TEST_NO_ARCHIVE").as_deref() == Ok("1") => {
                say(&format!(
                    "NOT TESTED, because DEPLOYFS_TEST_NO_ARCHIVE=1: {why}"
                ));
                return None;
            }
            Err(why) => panic!(
                "{why}\nThis test deploys real sites from the Debian archive. Where there is none, \
                 DEPLOYFS_TEST_NO_ARCHIVE=1 leaves it out."
            ),
        }
    }
    Some(Versions {
        old: ready.join("old").join(package.pages),
        new: ready.join("new").join(package.pages),
    })
}

/// Downloads and unpacks to a folder with `old` and `new` in it.
fn download(package: &Package, cache: &Path) -> Result<PathBuf, String> {
    let work = cache.join(format!("{}.unfinished", package.name));
    if work.exists() {
        fs::remove_dir_all(&work).unwrap();
    }
    fs::create_dir_all(&work).unwrap();
    // Old lists name versions that the archive no longer has.
    apt(&work, &["apt-get", "update", "-qq"])?;
    let versions = offered(package.name)?;
    let (new, old) = match versions.as_slice() {
        [] => return Err(format!("apt offers no {}", package.name)),
        [only] => (only, only),
        [new, old, ..] => (new, old),
    };
    for (folder, version) in [("old", old), ("new", new)] {
        let version = format!("{}={version}", package.name);
        for name in package.beside.iter().copied().chain([version.as_str()]) {
            unpack(&work, name, folder)?;
        }
    }
    if old == new {
        say(&format!(
            "only one version of {} is offered: the second one is made by editing 1 % of its pages",
            package.name
        ));
        let pages = work.join("new").join(package.pages);
        for path in b3sums(&pages).keys().step_by(100) {
            let page = pages.join(path);
            let mut bytes = fs::read(&page).unwrap();
            bytes.extend_from_slice(b"<!-- edited -->");
            fs::write(&page, bytes).unwrap();
        }
    }
    Ok(work)
}

/// Tells the person at the terminal: unlike `eprintln!`, this is seen of a test that passes too.
fn say(text: &str) {
    let line = format!("{text}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The versions that apt can download, newest first.
fn offered(name: &str) -> Result<Vec<String>, String> {
    let lines = apt(Path::new("/"), &["apt-cache", "madison", name])?;
    let version = |line: &str| line.split('|').nth(1).map(|text| text.trim().to_owned());
    let mut versions: Vec<String> = lines.lines().filter_map(version).collect();
    versions.dedup();
    Ok(versions)
}

/// Downloads a package (`NAME` or `NAME=VERSION`) and unpacks it into a folder.
fn unpack(work: &Path, package: &str, folder: &str) -> Result<(), String> {
    let downloads = work.join("downloads");
    fs::create_dir_all(&downloads).unwrap();
    apt(&downloads, &["apt-get", "download", "-qq", package])?;
    sh(&format!(
        "cd {} && dpkg-deb -x downloads/*.deb {folder} && rm -r downloads",
        work.display()
    ));
    Ok(())
}

/// Runs one of apt's programs; what it printed, or what went wrong.
fn apt(dir: &Path, words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir(dir)
        .output();
    match output {
        Ok(out) if out.status.success() => Ok(stdout(&out)),
        Ok(out) => Err(format!("{}: {}", words.join(" "), stderr(&out).trim())),
        Err(error) => Err(format!("{}: {error}", words.join(" "))),
    }
}
