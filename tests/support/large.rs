//! Large stores and folders, made faster than by sealing: what is written is what a store would have written.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use deployfs::model::content::tree_content_id;
use deployfs::model::deploy_file::DeployFile;
use deployfs::model::history::{NO_RECORD, Record, Verb, decode_line, encode_line};
use deployfs::model::report::Meta;
use deployfs::model::{Blob, ChannelName, ChunkId, DeployId, Entry, Name, Node, Tree};
use deployfs::store::Store;

/// Folders of each of [`many_deploys`], and files in each folder.
const FOLDERS: usize = 10;
const FILES: usize = 10;

/// The end of a store's history that nobody has open, to be written on.
pub struct History {
    file: BufWriter<File>,
    seq: u64,
    prev: String,
    last_mtime: u64,
    /// The deploys that it has sealed.
    pub sealed: Vec<Record>,
}

impl History {
    /// Reads the history of a store.
    pub fn of(store: &Path) -> Self {
        let path = store.join("history");
        let mut history = History {
            file: BufWriter::new(OpenOptions::new().append(true).open(&path).unwrap()),
            seq: 0,
            prev: NO_RECORD.to_owned(),
            last_mtime: 0,
            sealed: Vec::new(),
        };
        for line in fs::read_to_string(&path).unwrap().lines() {
            let (record, sum) = decode_line(line.as_bytes()).unwrap();
            (history.seq, history.prev, history.last_mtime) = (record.seq, sum, record.last_mtime);
            if record.verb == Verb::Seal {
                history.sealed.push(record);
            }
        }
        history
    }

    /// Appends a record about a deploy, with what `change` makes of it.
    pub fn add(&mut self, verb: Verb, deploy: Option<DeployId>, change: impl FnOnce(&mut Record)) {
        let mut record = Record {
            seq: self.seq + 1,
            time: 1_700_000_000 + self.seq,
            actor: "alice".into(),
            verb,
            channel: None,
            deploy,
            content: None,
            txn: None,
            until: None,
            overrides: None,
            message: String::new(),
            meta: Meta::new(),
            last_mtime: self.last_mtime,
            prev: self.prev.clone(),
        };
        change(&mut record);
        self.last_mtime = record.last_mtime;
        let (line, sum) = encode_line(&record);
        self.file.write_all(&line).unwrap();
        (self.seq, self.prev) = (record.seq, sum);
    }

    /// Appends records until there are so many: seals of the first two deploys again, with messages of so many bytes, activations,
    /// and a channel that is set and removed.
    pub fn lengthen(&mut self, records: u64, message: usize) {
        let (one, two) = (self.sealed[0].clone(), self.sealed[1].clone());
        let message = "m".repeat(message);
        while self.seq < records {
            let of = if self.seq.is_multiple_of(2) {
                &one
            } else {
                &two
            };
            let live = |record: &mut Record| record.channel = Some(ChannelName::live());
            let preview = |record: &mut Record| record.channel = Some("preview".parse().unwrap());
            match self.seq % 6 {
                0 | 1 => self.add(Verb::Seal, of.deploy, |record| {
                    record.content = of.content;
                    record.message.clone_from(&message);
                }),
                2 | 3 => self.add(Verb::Activate, of.deploy, live),
                4 => self.add(Verb::Activate, of.deploy, preview),
                _ => self.add(Verb::Close, None, preview),
            }
        }
    }

    /// Writes out what was appended. The hint at the last record becomes a record that is there.
    pub fn finish(mut self) {
        self.file.flush().unwrap();
    }
}

/// Adds so many deploys of a hundred small files in ten folders to a store that nobody has open. Each differs from the one before
/// in one file. Every tenth has been live.
pub fn many_deploys(path: &Path, count: usize) {
    let store = Store::open(path).unwrap();
    let mut history = History::of(path);
    let mut texts: Vec<String> = (0..FOLDERS * FILES)
        .map(|n| format!("page {n}\n"))
        .collect();
    let mut folders: Vec<Option<Entry>> = vec![None; FOLDERS];
    for number in 0..count {
        let second = 1_600_000_000 + number as u64;
        let changed = number % texts.len();
        texts[changed] = format!("page {changed} of version {number}\n");
        let mark = store.mark();
        for (folder, made) in folders.iter_mut().enumerate() {
            if folder == changed / FILES || made.is_none() {
                let texts = &texts[folder * FILES..][..FILES];
                *made = Some(made_folder(&store, folder, texts, second));
            }
        }
        let root = Tree::new(folders.iter().flatten().cloned().collect());
        let file = DeployFile {
            content: tree_content_id(&root),
            root: stored(&store, &root.encode()),
            root_mtime: second,
            files: texts.len() as u64,
            directories: 1 + FOLDERS as u64,
            symlinks: 0,
            bytes: texts.iter().map(|text| text.len() as u64).sum(),
            sealed_at: second,
            sealed_by: "alice".into(),
        };
        if number % 500 == 499 || number == count - 1 {
            store.sync_packs(mark).unwrap();
        }
        let id = file.id();
        fs::write(path.join("deploys").join(id.to_string()), file.encode()).unwrap();
        history.add(Verb::Seal, Some(id), |record| {
            record.content = Some(file.content);
            record.last_mtime = second;
            record.message = format!("build {number}");
        });
        if number % 10 == 0 {
            history.add(Verb::Activate, Some(id), |record| {
                record.channel = Some(ChannelName::live());
            });
        }
    }
    history.finish();
}

fn made_folder(store: &Store, number: usize, texts: &[String], mtime: u64) -> Entry {
    let entry = |name: String, mode, node| Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        mode,
        mtime,
        node,
    };
    let file = |(at, text): (usize, &String)| {
        let blob = stored(store, text.as_bytes());
        entry(format!("page-{at}.html"), 0o444, Node::File(blob))
    };
    let tree = Tree::new(texts.iter().enumerate().map(file).collect());
    let node = Node::Dir {
        content: tree_content_id(&tree),
        tree: stored(store, &tree.encode()),
    };
    entry(format!("folder-{number}"), 0o555, node)
}

/// Bytes of one chunk, stored where they are not yet.
fn stored(store: &Store, bytes: &[u8]) -> Blob {
    let id = ChunkId::of(bytes);
    if !store.contains(&id).unwrap() {
        store.append(&store.encode(id, bytes, None)).unwrap();
    }
    Blob::single(bytes)
}

/// Bytes of a line such as `VmHWM:` in a process's status.
pub fn memory_of(pid: i32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|one| one.strip_prefix(line));
    let kibibytes = found.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.trim().parse::<u64>().unwrap() << 10
}
