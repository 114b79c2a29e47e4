//! `deploy --tar`: an archive becomes the deploy that its folder would, or is refused whole.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use rustix::fs::{FlockOperation, flock};

use crate::support::*;

const BLOCK: usize = 512;

/// A tar archive, written by hand so that it can be wrong.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, name: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Self {
        self.header(name, kind, link, content.len() as u64);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn header(&mut self, name: &[u8], kind: u8, link: &[u8], size: u64) {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(if kind == b'5' { b"0000755" } else { b"0000644" });
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(block);
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name.as_bytes(), b'0', b"", content.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

fn written(site: &Site, bytes: &[u8]) -> PathBuf {
    let path = site.beside("archive");
    fs::write(&path, bytes).unwrap();
    path
}

/// `deploy --tar -`, started, nothing sent yet.
fn pushing(site: &Site, more: &[&str]) -> Child {
    let args = ["deploy", "--tar", "-"]
        .into_iter()
        .chain(more.iter().copied());
    site.command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn push(site: &Site, bytes: &[u8], more: &[&str]) -> Output {
    let mut child = pushing(site, more);
    // One that refuses early does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap()
}

/// A folder with everything that a site may have.
fn full_folder(site: &Site) -> PathBuf {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = site.beside("build");
    write_files(
        &dir,
        &[
            ("index.html", "a page"),
            ("css/a.css", "a{}"),
            ("empty", ""),
        ],
    );
    let long = "long-".repeat(40);
    write_files(&dir, &[(&format!("{long}/{long}/{long}.html"), "deep")]);
    fs::write(
        dir.join(OsStr::from_bytes(b"caf\xe9 \xff\n'\"\\.txt")),
        "any byte",
    )
    .unwrap();
    symlink("../index.html", dir.join("css/home")).unwrap();
    symlink(format!("{long}/{long}/{long}.html"), dir.join("long-link")).unwrap();
    fs::hard_link(dir.join("index.html"), dir.join("css/same.html")).unwrap();
    fs::create_dir(dir.join("nothing")).unwrap();
    write_noise(&dir.join("large.bin"), 7, 3 << 20);
    fs::set_permissions(dir.join("css/a.css"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(dir.join("nothing"), fs::Permissions::from_mode(0o550)).unwrap();
    fs::set_permissions(dir.join("empty"), fs::Permissions::from_mode(0o4755)).unwrap();
    dir
}

fn tar(dir: &Path, options: &str) -> Vec<u8> {
    use std::process::Command;
    let shell = format!("tar -C '{}' {options}", dir.display());
    let out = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    out.stdout
}

#[test]
fn an_archive_in_any_dialect_and_compression_has_the_id_of_its_folder() {
    let site = Site::new();
    let dir = full_folder(&site);
    let id = site.deploy(&dir);
    for options in [
        "--format=gnu -cf - .",
        "--format=pax -cf - .",
        "--format=gnu -czf - .",
        "--format=posix -cf - . | zstd -c",
    ] {
        let out = push(&site, &tar(&dir, options), &[]);
        assert_eq!(stdout(&out).trim_end(), id, "{options}: {}", stderr(&out));
    }
    site.umount();
    let out = push(&site, &tar(&dir, "-cf - ."), &[]);
    assert_eq!(stdout(&out).trim_end(), id, "{}", stderr(&out));
    assert_eq!(site.json(["list"]).as_array().unwrap().len(), 1);
    assert_eq!(fs::read_dir(site.store.join("staging")).unwrap().count(), 1);
}

#[test]
fn files_without_entries_for_their_folders_are_taken() {
    let site = Site::unmounted();
    let archive = Tar::default()
        .file("a/b/c.html", "x")
        .file("./a/d.html", "y")
        .end();
    let id = site.ok(["deploy", "--tar", text(&written(&site, &archive))]);
    let dir = site.beside("same");
    write_files(&dir, &[("a/b/c.html", "x"), ("a/d.html", "y")]);
    assert_eq!(site.deploy(&dir), id);
}

#[test]
fn one_line_pushes_activates_lays_over_and_tries() {
    let site = Site::live_with(&[("old.html", "old"), ("index.html", "one")]);
    let archive = Tar::default().file("index.html", "two").end();
    let tried = push(&site, &archive, &["--from", "live", "--dry-run"]);
    let tried = stdout(&tried);
    assert_eq!(site.json(["list"]).as_array().unwrap().len(), 1);
    let out = push(
        &site,
        &archive,
        &["--from", "live", "--activate", "-m", "pushed"],
    );
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(stdout(&out), tried);
    assert_eq!(
        (site.read("index.html"), site.read("old.html")),
        ("two".into(), "old".into())
    );
    assert_eq!(site.json(["show", "live"])["message"], "pushed");
}

#[test]
fn an_ordinary_user_pushes_through_a_daemon_of_root_s() {
    let site = Site::unmounted();
    site.mount(&["--control-group", "nogroup"]);
    let archive = Tar::default()
        .entry(b"shut/", b'5', b"", b"")
        .file("shut/page.html", "x")
        .end();
    let path = written(&site, &archive);
    let mut command = site.command(["deploy", "--tar", text(&path), "--activate"]);
    let out = nobody(&mut command).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(site.read("shut/page.html"), "x");
    assert_eq!(site.json(["status"])["staging"], serde_json::json!([]));
}

#[test]
fn p10_what_leads_out_or_is_no_site_is_refused_whole_and_named() {
    let site = Site::live_with(&[("index.html", "a page")]);
    fs::write(site.beside("secret"), "secret").unwrap();
    let page = || Tar::default().file("page.html", "x");
    let absolute = site.beside("planted");
    let pax = |key: &str, value: &str| {
        let body = format!(" {key}={value}\n");
        let len = (1..)
            .find(|len| len.to_string().len() + body.len() == *len)
            .unwrap();
        format!("{len}{body}")
    };
    let cases: Vec<(Tar, &[&str])> = vec![
        (page().file(text(&absolute), "x"), &["planted", "absolute"]),
        (page().file("../planted", "x"), &["../planted", "'..'"]),
        (
            page().file("a/../../planted", "x"),
            &["a/../../planted", "'..'"],
        ),
        (
            page()
                .entry(b"x", b'x', b"", pax("path", "../planted").as_bytes())
                .file("ok", "x"),
            &["../planted", "'..'"],
        ),
        (
            page()
                .entry(b"out", b'2', b"..", b"")
                .file("out/planted", "x"),
            &["out/planted", "below 'out'", "link"],
        ),
        (
            page().entry(b"out", b'2', b"/etc", b""),
            &["out", "/etc", "--allow-external-symlinks"],
        ),
        (
            page().entry(b"out", b'2', b"a/../../x", b""),
            &["out", "leads out"],
        ),
        (
            page().entry(b"hard", b'1', b"../secret", b""),
            &["hard: ", "../secret", "hard link"],
        ),
        (
            page().entry(b"hard", b'1', text(&site.beside("secret")).as_bytes(), b""),
            &["hard: ", "hard link"],
        ),
        (
            page()
                .entry(b"hard", b'1', b"later", b"")
                .file("later", "x"),
            &["hard: ", "later"],
        ),
        (
            page().entry(b"dev/null", b'3', b"", b""),
            &["dev/null", "device"],
        ),
        (page().entry(b"disk", b'4', b"", b""), &["disk", "device"]),
        (
            page().entry(b"pipe", b'6', b"", b""),
            &["pipe", "named pipe"],
        ),
        (page().file("./page.html", "y"), &["page.html", "twice"]),
        (
            page().entry(b"page.html", b'2', b"x", b""),
            &["page.html", "twice"],
        ),
        (
            page().entry(b"page.html", b'5', b"", b""),
            &["page.html", "twice"],
        ),
        (
            page().file("page.html/below", "x"),
            &["page.html/below", "below 'page.html'"],
        ),
        (
            page().entry(b".", b'0', b"", b"x"),
            &["where the folder itself is"],
        ),
    ];
    for (archive, words) in cases {
        let path = written(&site, &archive.end());
        let said = site.refused_whole(1, ["deploy", "--tar", text(&path), "--activate"]);
        mentions(&said, words);
        assert!(!absolute.exists() && !site.store.join("staging/planted").exists());
    }
}

#[test]
fn p10_an_archive_that_ends_early_is_refused_whole_wherever_it_ends() {
    let site = Site::live_with(&[("index.html", "a page")]);
    let dir = site.beside("build");
    write_files(&dir, &[("a.html", "a"), ("b.html", "b")]);
    write_noise(&dir.join("c.bin"), 3, 100_000);
    let plain = tar(&dir, "--format=pax -cf - a.html b.html c.bin");
    let gzip = tar(&dir, "-czf - .");
    let zstd = tar(&dir, "-cf - . | zstd -c");
    let cuts = |archive: &[u8], ends: &[usize]| {
        for &end in ends {
            let path = written(&site, &archive[..end]);
            let said = site.refused_whole(1, ["deploy", "--tar", text(&path)]);
            mentions(&said, &["the archive is refused", "too early"]);
        }
    };
    cuts(&plain, &[7, 512, 700, 1024, 60_000]);
    cuts(&gzip, &[20, 60_000, gzip.len() - 1]);
    cuts(&zstd, &[20, 60_000, zstd.len() - 1]);
    let said = site.refused_whole(1, ["deploy", "--tar", text(&written(&site, b""))]);
    mentions(&said, &["empty"]);
    mentions(
        &site.refused_whole(1, ["deploy", "--tar", text(&written(&site, &[b'x'; 5000]))]),
        &["no tar archive"],
    );
}

#[test]
fn p10_bombs_are_refused_before_they_go_off() {
    let site = Site::live_with(&[("index.html", "a page")]);
    let refused = |archive: &[u8], more: &[&str], words: &[&str]| {
        let path = written(&site, archive);
        let args = ["deploy", "--tar", text(&path)]
            .into_iter()
            .chain(more.iter().copied());
        mentions(&site.refused_whole(1, args), words);
    };
    // It says that it has four gigabytes: whether that is too much is known before the first of them.
    let mut huge = Tar::default();
    huge.header(b"huge.bin", b'0', b"", 1 << 32);
    refused(&huge.0, &["--max-bytes", "4G"], &["huge.bin", "too early"]);
    refused(
        &huge.0,
        &["--max-bytes", "3G"],
        &["huge.bin", "--max-bytes"],
    );
    let links = (0..20).fold(
        Tar::default().file("a", &"x".repeat(1000)),
        |tar, number| tar.entry(format!("b{number}").as_bytes(), b'1', b"a", b""),
    );
    refused(
        &links.clone().end(),
        &["--max-bytes", "10K"],
        &["b9", "--max-bytes"],
    );
    refused(
        &links.end(),
        &["--max-entries", "10"],
        &["b9", "--max-entries"],
    );
    let deep = "d/".repeat(40);
    refused(
        &Tar::default().file(&deep, "").end(),
        &["--max-entries", "30"],
        &["--max-entries"],
    );
    // Ten million zeros behind the end, in some kilobytes.
    let mut padded = Tar::default().file("a", "x").end();
    padded.resize(100 << 20, 0);
    let zeros = written(&site, &padded);
    let packed = site.beside("packed");
    sh(&format!(
        "zstd -q -f -o {} {}",
        packed.display(),
        zeros.display()
    ));
    let said = site.refused_whole(1, ["deploy", "--tar", text(&packed)]);
    mentions(&said, &["after the end of the archive"]);
}

#[test]
fn p10_an_interrupted_push_leaves_nothing_with_a_daemon_and_without() {
    for mounted in [true, false] {
        let site = if mounted {
            Site::new()
        } else {
            Site::unmounted()
        };
        for signal in [libc::SIGINT, libc::SIGHUP] {
            let before = site.state();
            let mut child = pushing(&site, &[]);
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&Tar::default().file("a", "x").0).unwrap();
            let unpacking = || fs::read_dir(site.store.join("staging")).unwrap().count() == 2;
            wait_for("the folder", unpacking);
            kill(child.id() as i32, signal);
            // The stream stays open, and nothing more comes.
            let out = child.wait_with_output().unwrap();
            drop(stdin);
            assert!(!out.status.success());
            assert_eq!(site.state(), before);
        }
    }
}

#[test]
fn what_a_killed_push_leaves_is_removed_by_the_next() {
    let site = Site::new();
    let left = site.stage("unpacking-1700000000-77", &[("a", "x")]);
    let held = site.stage("unpacking-1700000000-78", &[("a", "x")]);
    let other = site.stage("unpacking-soon", &[("a", "x")]);
    let lock = File::open(&held).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let archive = Tar::default().file("a", "x").end();
    assert!(push(&site, &archive, &[]).status.success());
    assert!(!left.exists());
    assert!(held.exists() && other.exists());
}
