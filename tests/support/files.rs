//! Making, reading and comparing files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes `(path, text)`; a path that ends in `@` is a symlink to the text, one that ends in `/` a folder.
pub fn write_files(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let full = dir.join(path.trim_end_matches(['@', '/']));
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        match path.bytes().last() {
            Some(b'@') => symlink(text, &full).unwrap(),
            Some(b'/') => fs::create_dir_all(&full).unwrap(),
            _ => fs::write(&full, text).unwrap(),
        }
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A file mapped into memory, to be read only.
pub struct Mapped {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    /// Maps a whole file, which must not be empty.
    pub fn of(file: &File) -> Self {
        let len = file.metadata().unwrap().len() as usize;
        // SAFETY: a new mapping at an address that the kernel chooses; the descriptor is open.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Mapped { start, len }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long and lives as long as self; deployed files never change.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    /// Lets go of its pages, so that they are asked of the file again.
    pub fn forget(&self) {
        // SAFETY: the range is our own mapping, which is shared and clean: reading it again gives the file's bytes.
        let answer = unsafe { libc::madvise(self.start, self.len, libc::MADV_DONTNEED) };
        assert_eq!(answer, 0, "{}", io::Error::last_os_error());
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no slice outlives self.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Drops a file's pages from the kernel's cache, where they are not mapped.
pub fn forget_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// The names in a folder, sorted.
pub fn names(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// What an entry is, for comparisons: kind, permission bits, size, mtime, and a hash of its bytes, or its target.
pub type Fact = (char, u32, u64, i64, String);

/// Everything below a folder, by path relative to it.
pub fn facts(dir: &Path) -> BTreeMap<Vec<u8>, Fact> {
    let mut found = BTreeMap::new();
    collect(dir, dir, &mut found);
    found
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<Vec<u8>, Fact>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let (kind, content) = if meta.is_dir() {
            collect(root, &path, found);
            ('d', String::new())
        } else if meta.is_symlink() {
            (
                'l',
                fs::read_link(&path).unwrap().to_string_lossy().into_owned(),
            )
        } else if meta.is_file() {
            (
                'f',
                blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string(),
            )
        } else {
            ('?', format!("{:?}", meta.file_type()))
        };
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        found.insert(
            name.to_vec(),
            (kind, meta.mode() & 0o7777, size, meta.mtime(), content),
        );
    }
}

/// Facts without modes and mtimes: what a deploy must have in common with the folder it was made from.
pub fn contents(dir: &Path) -> BTreeMap<Vec<u8>, (char, u64, String)> {
    facts(dir)
        .into_iter()
        .map(|(path, (kind, _, size, _, content))| (path, (kind, size, content)))
        .collect()
}

/// Runs a program that must succeed; what it printed.
pub fn sh(command: &str) -> String {
    let out = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

/// Compiles C for `LD_PRELOAD`, into this folder.
pub fn library(folder: &Path, source: &str) -> PathBuf {
    let (text, library) = (folder.join("preload.c"), folder.join("preload.so"));
    fs::write(&text, source).unwrap();
    sh(&format!(
        "cc -shared -fPIC -o {} {}",
        library.display(),
        text.display()
    ));
    library
}

/// Makes a file of zeros that takes no space, however long: what takes long to read.
pub fn write_holes(path: &Path, len: u64) {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
}

/// Writes a file of [`noise`].
pub fn write_noise(path: &Path, seed: u64, len: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, noise(seed, len)).unwrap();
}
