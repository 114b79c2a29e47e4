//! Folders to deploy: small, alike, with what sites are made of; and the folder that a simulated store's staging lies in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::super::staging::{FROZEN, REMOVING};
use crate::store::{SEALING, STAGING};

/// Paths and what is there: a file's bytes, or `-> ` and a symlink's target.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A folder that can be deployed.
pub struct Source {
    pub dir: PathBuf,
    pub files: Arc<Files>,
}

/// All of them, made once.
pub struct Sources {
    _folder: TempDir,
    pub good: Vec<Source>,
    /// Refused, once all that is in them has been stored.
    pub bad: Vec<Source>,
}

impl Sources {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, files: Files| {
            let dir = folder.path().join(name);
            fs::create_dir(&dir).unwrap();
            for (path, bytes) in &files {
                put(&dir.join(path), bytes);
            }
            let files = Arc::new(files);
            Source { dir, files }
        };
        let good = (0..9).map(|number| make(&format!("good-{number}"), site(number)));
        let good = good.collect();
        let bad = (0..3).map(|number| {
            let mut files = site(20 + number);
            files.insert("out@".into(), b"-> /etc/passwd".into());
            make(&format!("bad-{number}"), files)
        });
        let bad = bad.collect();
        Sources {
            _folder: folder,
            good,
            bad,
        }
    }
}

/// Some files are the same in all sites, some differ a little, some wholly; in every third one is so long that it is cut.
fn site(number: u64) -> Files {
    let page = |words: &str| format!("<p>{}</p>", words.repeat(40));
    let mut files = Files::from([
        ("same.txt".into(), b"the same in all".into()),
        ("empty".into(), Vec::new()),
        ("index.html".into(), format!("{number}").into_bytes()),
        (
            "a/page.html".into(),
            format!("{}{number}", page("words of a page ")).into_bytes(),
        ),
        (
            "a/b/deep.js".into(),
            format!("{}{}", page("deep "), number % 3).into_bytes(),
        ),
        ("a/link@".into(), b"-> page.html".into()),
        ("noise".into(), noise(number, 700)),
    ]);
    if number.is_multiple_of(3) {
        files.insert("large".into(), noise(number / 6, 150_000 + number as usize));
    }
    if number % 4 == 1 {
        files.remove("a/b/deep.js");
    }
    files
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match bytes.strip_prefix(b"-> ") {
        Some(target) => symlink(String::from_utf8_lossy(target).as_ref(), path).unwrap(),
        None => fs::write(path, bytes).unwrap(),
    }
}

/// What is in a folder.
fn files_in(dir: &Path) -> Files {
    fn walk(dir: &Path, below: &str, files: &mut Files) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = format!("{below}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                walk(&entry.path(), &format!("{path}/"), files);
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                files.insert(path, format!("-> {}", target.display()).into_bytes());
            } else {
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut files = Files::new();
    walk(dir, "", &mut files);
    files
}

/// What lies on the host's disk of a store whose other files are simulated: the lock and the staging folders.
pub struct Root(TempDir);

impl Root {
    pub fn new() -> Self {
        // In memory where that goes: nothing here is to survive.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let root = Root(tempfile::tempdir_in(place).unwrap());
        fs::create_dir_all(root.staging().join(SEALING)).unwrap();
        root
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn index(&self) -> PathBuf {
        self.path().join("index")
    }

    fn staging(&self) -> PathBuf {
        self.path().join(STAGING)
    }

    /// The only staging folder that is there, by its path in `staging`.
    pub fn staged(&self) -> Option<String> {
        staged_below(&self.staging())
    }

    /// Makes a staging folder of these files the only one.
    pub fn stage(&self, name: Option<&str>, files: &Files) {
        while let Some(old) = self.staged() {
            fs::remove_dir_all(self.staging().join(old)).unwrap();
        }
        if let Some(name) = name {
            for (path, bytes) in files {
                put(&self.staging().join(name).join(path), bytes);
            }
        }
    }

    /// True where there is a staging folder, reached by its name, that holds these files.
    pub fn has_staged(&self, files: &Files) -> bool {
        self.staged().is_some_and(|name| {
            !name.starts_with(FROZEN) && files_in(&self.staging().join(name)) == *files
        })
    }
}

/// See [`Root::staged`].
pub fn staged_below(staging: &Path) -> Option<String> {
    let names = fs::read_dir(staging).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // What is sealed goes meanwhile.
        .filter(|name| name != SEALING && !name.starts_with(REMOVING))
        .collect();
    // One that is reached by its name first.
    names.sort_by_key(|name| name.starts_with(FROZEN));
    names.into_iter().next()
}
