//! P10: folders that nobody would make on purpose: of great depth, with very many links, with names of all bytes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "a page");

/// Makes so many folders, each in the one before, by names of one byte; a page in the last.
fn dig(dir: &Path, depth: usize) {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(dir, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::from_bits_retain(0o755)).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    openat(&at, "f", flags, Mode::from_bits_retain(0o644)).unwrap();
}

#[test]
fn p10_a_folder_of_10_000_levels_is_refused_and_removed_without_overflow() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE]);
    dig(&dir, 10_000);
    let said = site.refused(1, ["seal", "v2"]);
    mentions(&said, &["d/d/d: it lies within 256 other folders"]);
    assert!(said.len() < 1000, "{} bytes are said", said.len());
    site.ok(["abort", "v2"]);
    let build = site.beside("build");
    fs::create_dir(&build).unwrap();
    dig(&build, 10_000);
    let said = site.refused_whole(1, ["deploy", text(&build)]);
    mentions(&said, &["it lies within 256 other folders"]);
    sh(&format!("rm -rf {}", build.display()));
}

#[test]
fn a_folder_as_deep_as_is_allowed_goes_all_the_way() {
    let site = Site::live_with(&[PAGE]);
    let build = site.beside("build");
    fs::create_dir(&build).unwrap();
    dig(&build, 256);
    let id = site.deploy(&build);
    site.ok(["verify", &id]);
    site.ok(["fsck", "--read-data"]);
    site.ok(["diff", "live", &id]);
    site.ok(["du"]);
    site.ok(["gc"]);
    site.activate(&id);
    let staged = site.stage("v2", &[]);
    dig(&staged, 256);
    assert_eq!(site.ok(["seal", "v2"]), id);
    let again = site.ok(["deploy", text(&build), "--from", "live"]);
    assert_eq!(again, id);
    site.ok([
        "deploy",
        text(&build),
        "--from",
        "live",
        "--delete",
        "d/d/d",
    ]);
    let file = site.beside("file.dpl");
    sh(&format!(
        "{} --store {} export {id} > {}",
        env!("CARGO_BIN_EXE_deployfs"),
        text(&site.store),
        text(&file)
    ));
    let other = Site::unmounted();
    assert_eq!(other.ok(["import", text(&file)]), id);
    other.ok(["fsck", "--read-data"]);
    sh(&format!(
        "tar -C {} -cf {}/deep.tar d",
        text(&build),
        text(&site.beside(""))
    ));
    assert_eq!(
        site.ok(["deploy", "--tar", text(&site.beside("deep.tar"))]),
        id
    );
    // One level more is refused, whichever way it comes.
    let deeper = site.beside("deeper");
    fs::create_dir(&deeper).unwrap();
    dig(&deeper, 257);
    let said = site.refused_whole(1, ["deploy", text(&deeper)]);
    mentions(&said, &["it lies within 256 other folders"]);
    sh(&format!(
        "tar -C {} -cf {} d",
        text(&deeper),
        text(&site.beside("deeper.tar"))
    ));
    let said = site.refused_whole(1, ["deploy", "--tar", text(&site.beside("deeper.tar"))]);
    mentions(&said, &["256"]);
    site.umount();
    site.ok(["fsck", "--repair"]);
}

#[test]
fn very_many_links_are_sealed_as_they_are() {
    let count = count("DEPLOYFS_TEST_LINKS", 20_000);
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE]);
    let links = dir.join("links");
    fs::create_dir(&links).unwrap();
    for number in 0..count {
        let link = links.join(number.to_string());
        match number % 3 {
            0 => fs::hard_link(dir.join("index.html"), link).or_else(|_| {
                fs::copy(dir.join("index.html"), links.join(number.to_string())).map(drop)
            }),
            1 => std::os::unix::fs::symlink("../index.html", link),
            // Through the one before: a chain that ends in a page.
            _ => std::os::unix::fs::symlink((number - 1).to_string(), link),
        }
        .unwrap();
    }
    let id = site.ok(["seal", "v2"]);
    let sealed = site.path(&format!("deploys/{id}/links"));
    assert_eq!(names(&sealed).len(), count);
    for number in [0, 1, 2, count / 2, count - 1] {
        let page = fs::read_to_string(sealed.join(number.to_string())).unwrap();
        assert_eq!(page, PAGE.1, "{number}");
    }
    println!("links: {count} tried, 0 violations");
}

#[test]
fn names_of_all_254_bytes_come_back() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE]);
    for byte in (1..=255u8).filter(|&byte| byte != b'/') {
        let alone: &[u8] = if byte == b'.' { b"..." } else { &[byte] };
        let inside = [b"a".as_slice(), &[byte], b"z"].concat();
        for name in [alone, &inside] {
            fs::write(dir.join(OsStr::from_bytes(name)), [byte]).unwrap();
        }
        let long: Vec<u8> = vec![byte; 255];
        let folder = dir.join(OsStr::from_bytes(&long));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(OsStr::from_bytes(&inside), folder.join("link")).unwrap();
    }
    let staged = contents(&dir);
    assert!(staged.len() >= 254 * 4);
    let id = site.ok(["seal", "v2"]);
    assert_eq!(contents(&site.path(&format!("deploys/{id}"))), staged);
    site.ok(["verify", &id]);
    site.ok(["show", &id, "--json"]);
    site.ok(["diff", "live", &id, "--json"]);
}
