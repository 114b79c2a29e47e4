//! Sealed content as the mount shows it: whole and right for every name, size, kind and way of reading.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::Dir;

use crate::support::*;

const MIB: usize = 1 << 20;
/// Files up to this size are one chunk.
const ONE_CHUNK: usize = 128 * 1024;
const CROWD: usize = 100_000;

#[test]
fn a_folder_of_100_000_entries_is_listed_whole_and_each_name_is_found() {
    let site = Site::new();
    let source = site.beside("source");
    let crowd = source.join("crowd");
    fs::create_dir_all(&crowd).unwrap();
    let name = |number: usize| format!("{number:05}-{}", "x".repeat(number % 40));
    for number in 0..CROWD {
        fs::write(crowd.join(name(number)), &number.to_string()[..number % 2]).unwrap();
    }
    let id = site.deploy(&source);
    site.activate(&id);
    let expected = names(&crowd);
    assert_eq!(expected.len(), CROWD);
    for view in ["live", &format!("deploys/{id}")] {
        let shown = site.path(view).join("crowd");
        // Once from the daemon, once from the kernel's cache.
        assert!(names(&shown) == expected, "{view}: first listing");
        assert!(names(&shown) == expected, "{view}: second listing");
        for entry in fs::read_dir(&shown).unwrap().step_by(37) {
            let entry = entry.unwrap();
            let meta = fs::metadata(entry.path()).unwrap();
            assert_eq!(entry.ino(), meta.ino());
            assert!(entry.file_type().unwrap().is_file());
        }
        for number in (0..CROWD).step_by(41).chain([CROWD - 1]) {
            let bytes = fs::read(shown.join(name(number))).unwrap();
            assert_eq!(bytes.len(), number % 2, "{}", name(number));
            let missing = shown.join(format!("{}-", name(number)));
            assert!(!missing.exists());
        }
    }
    assert_a_listing_can_be_resumed(&site.live("crowd"));
}

#[test]
fn every_name_size_and_kind_is_shown_as_it_was_sealed() {
    let site = Site::new();
    let source = site.beside("source");
    make_odd_things(&source);
    let id = site.deploy(&source);
    site.activate(&id);
    let live = site.path("live");
    let sealed = contents(&source);
    assert!(sealed == contents(&live), "live differs from its source");
    let by_id = facts(&site.path("deploys").join(&id));
    assert!(by_id == facts(&live), "deploys/ID differs from live");
    for (name, target) in links() {
        let shown = fs::read_link(live.join(OsStr::from_bytes(&name))).unwrap();
        assert!(shown.as_os_str().as_bytes() == target);
    }
    let through = fs::read(live.join("link-to-folder/deep/page")).unwrap();
    assert_eq!(through, b"page");
    assert_eq!(fs::read_dir(live.join("empty-folder")).unwrap().count(), 0);
    assert_eq!(fs::metadata(live.join("empty")).unwrap().len(), 0);
}

#[test]
fn a_large_file_reads_right_at_any_offset_and_in_any_way() {
    let site = Site::new();
    let bytes = noise(64, 64 * MIB + 1);
    let source = site.beside("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), &bytes).unwrap();
    let id = site.deploy(&source);
    site.activate(&id);
    for view in ["live", &format!("deploys/{id}")] {
        let path = site.path(view).join("large");
        let file = File::open(&path).unwrap();
        // From the end to the beginning and across everything, so that reading ahead helps nowhere.
        for (step, at) in (0..bytes.len()).step_by(777_777).enumerate().rev() {
            same_at(&file, &bytes, at, 1 + step * 2_311 % 300_000);
        }
        same_at(&file, &bytes, bytes.len() - 1, 1);
        assert_eq!(file.read_at(&mut [0], bytes.len() as u64).unwrap(), 0);
        forget_pages(&file);
        let mapped = Mapped::of(&file);
        for at in (0..bytes.len()).step_by(1_234_567).rev() {
            assert_eq!(mapped.bytes()[at], bytes[at], "mapped, at {at}");
        }
        assert!(mapped.bytes() == bytes, "mapped, whole");
        drop(mapped);
        forget_pages(&file);
        assert!(fs::read(&path).unwrap() == bytes, "from beginning to end");
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .unwrap();
        same_at(&direct, &bytes, 4096 * 77, 5 * MIB);
        same_at(&direct, &bytes, bytes.len() - 4097, 4097);
    }
}

/// Names of all bytes but `/` and NUL, as long as they may be; sizes at the limits of chunks; links of all sorts.
fn make_odd_things(dir: &Path) {
    let put = |name: &[u8], bytes: &[u8]| {
        let path = dir.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put(b"empty", b"");
    put(b"one", b"1");
    fs::create_dir(dir.join("empty-folder")).unwrap();
    put(b"folder/deep/page", b"page");
    put(&[b'n'; 255], b"a long name");
    put(
        &[&[b'd'; 255][..], b"/", &[b'f'; 255]].concat(),
        b"below one",
    );
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        put(&[b'b', byte, b'e'], &[byte]);
    }
    put("päge 日本 🦀".as_bytes(), b"words");
    put(b" -rf \n $HOME `x` * ", b"blanks and signs");
    for size in [ONE_CHUNK, 2 * ONE_CHUNK, MIB] {
        for size in [size - 1, size, size + 1] {
            put(
                format!("noise-{size}").as_bytes(),
                &noise(size as u64, size),
            );
            put(format!("zeros-{size}").as_bytes(), &vec![0; size]);
        }
    }
    for (name, target) in links() {
        symlink(
            OsStr::from_bytes(&target),
            dir.join(OsStr::from_bytes(&name)),
        )
        .unwrap();
    }
}

/// Symlinks that stay inside: name and target.
fn links() -> Vec<(Vec<u8>, Vec<u8>)> {
    let longest = [b"folder/../".repeat(409), b"empty".to_vec()].concat();
    assert_eq!(longest.len(), 4095, "as long as Linux allows");
    vec![
        (b"link".to_vec(), b"empty".to_vec()),
        (b"link-to-folder".to_vec(), b"folder".to_vec()),
        (b"link-to-link".to_vec(), b"link".to_vec()),
        (b"folder/up".to_vec(), b"../empty".to_vec()),
        (b"link-to-nothing".to_vec(), b"is/not/there".to_vec()),
        (b"link-\xff".to_vec(), b"b\xffe".to_vec()),
        (b"link-longest".to_vec(), longest),
    ]
}

/// Goes back to where a listing was, as `seekdir` does, and finds the same lines.
fn assert_a_listing_can_be_resumed(dir: &Path) {
    let mut listing = Dir::new(File::open(dir).unwrap()).unwrap();
    let names = |listing: &mut Dir| -> Vec<_> {
        let some = listing.take(1000).map(|entry| entry.unwrap());
        some.map(|entry| (entry.file_name().to_owned(), entry.offset()))
            .collect()
    };
    listing
        .by_ref()
        .take(CROWD / 2)
        .for_each(|entry| assert!(entry.is_ok()));
    let first = names(&mut listing);
    let (middle, _) = first.split_at(500);
    listing.seek(middle[499].1).unwrap();
    assert_eq!(names(&mut listing)[..500], first[500..]);
    listing.rewind();
    assert_eq!(listing.by_ref().count(), CROWD + 2);
}

fn same_at(file: &File, bytes: &[u8], at: usize, len: usize) {
    let expected = &bytes[at..bytes.len().min(at + len)];
    let mut read = vec![0; expected.len()];
    file.read_exact_at(&mut read, at as u64).unwrap();
    assert!(read == expected, "{len} bytes at {at}");
}
