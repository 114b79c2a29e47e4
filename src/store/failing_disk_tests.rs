//! A disk that fails when it is told to: nothing is acknowledged that is not there, and what was there stays readable.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::index::Index;
use super::journal::Journal;
use super::packs::Limits;
use super::{Disk, HostDisk, Store, StoreError};
use crate::model::{Blob, ChunkId};

/// Fails the operation (`append`, `sync`, `reserve` …) on paths with this start, from the moment it is told to.
struct FailingDisk {
    disk: HostDisk,
    fails: Mutex<Option<(&'static str, &'static str)>>,
    syncs: Mutex<Vec<String>>,
}

impl FailingDisk {
    fn check(&self, operation: &str, path: &str) -> io::Result<()> {
        match *self.fails.lock().unwrap() {
            Some((what, start)) if what == operation && path.starts_with(start) => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn fail(&self, what: Option<(&'static str, &'static str)>) {
        *self.fails.lock().unwrap() = what;
    }
}

impl Disk for FailingDisk {
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.check("append", path) {
            // As a full disk does: some of it fits.
            self.disk.append(path, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.disk.append(path, bytes)
    }
    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.check("read_at", path)?;
        self.disk.read_at(path, offset, len)
    }
    fn sync(&self, path: &str) -> io::Result<()> {
        self.syncs.lock().unwrap().push(path.to_owned());
        self.check("sync", path)?;
        self.disk.sync(path)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check("rename", from)?;
        self.disk.rename(from, to)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(dir)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        self.disk.truncate(path, len)
    }
    fn punch(&self, path: &str, offset: u64, len: u64) -> io::Result<()> {
        self.disk.punch(path, offset, len)
    }
    fn reserve(&self, path: &str, bytes: u64) -> io::Result<()> {
        self.disk.reserve(path, bytes)
    }
}

struct Bench {
    folder: TempDir,
    disk: Arc<FailingDisk>,
    store: Store,
}

fn open(root: &Path) -> (Arc<FailingDisk>, Store) {
    let disk = Arc::new(FailingDisk {
        disk: HostDisk::new(root.to_owned(), true),
        fails: Mutex::default(),
        syncs: Mutex::default(),
    });
    let index = Index::new(root.join("index"));
    let store = Store::open_on(disk.clone(), root, index, Limits::default()).unwrap();
    (disk, store)
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        Store::init(&root, "root", 1).unwrap();
        let (disk, store) = open(&root);
        Bench {
            folder,
            disk,
            store,
        }
    }

    fn reopen(self) -> Self {
        let Bench { folder, store, .. } = self;
        drop(store);
        let (disk, store) = open(&folder.path().join("store"));
        Bench {
            folder,
            disk,
            store,
        }
    }

    fn put(&self, text: &str) -> Result<ChunkId, StoreError> {
        let id = ChunkId::of(text.as_bytes());
        if !self.store.contains(&id)? {
            let chunk = self.store.encode(id, text.as_bytes(), None);
            self.store.append(&chunk)?;
        }
        Ok(id)
    }

    fn read(&self, id: &ChunkId) -> Result<String, StoreError> {
        let bytes = self.store.read_chunk(id)?;
        Ok(String::from_utf8(bytes).unwrap())
    }
}

#[test]
fn p4_a_failed_pack_write_or_sync_fails_the_seal_and_loses_nothing_that_was_synced() {
    for operation in ["append", "sync"] {
        let bench = Bench::new();
        let mark = bench.store.mark();
        let safe = bench.put("safe").unwrap();
        bench.store.sync_packs(mark).unwrap();

        let mark = bench.store.mark();
        let lost = bench.put("lost").unwrap();
        bench.disk.fail(Some((operation, "packs/")));
        assert!(bench.store.sync_packs(mark).is_err(), "{operation}");
        let tried = bench.disk.syncs.lock().unwrap().len();
        bench.disk.fail(None);
        assert!(
            bench.store.sync_packs(mark).is_err(),
            "{operation}: the seal is lost for good"
        );
        let syncs = bench.disk.syncs.lock().unwrap().len();
        assert_eq!(syncs, tried, "{operation}: a failed sync is not retried");
        assert!(!bench.store.contains(&lost).unwrap(), "{operation}");
        assert_eq!(bench.read(&safe).unwrap(), "safe", "{operation}");

        let mark = bench.store.mark();
        let again = bench.put("lost").unwrap();
        bench.store.sync_packs(mark).unwrap();
        assert_eq!(bench.read(&again).unwrap(), "lost", "{operation}");
        let bench = bench.reopen();
        assert_eq!(bench.read(&safe).unwrap(), "safe", "{operation}");
        assert_eq!(bench.read(&again).unwrap(), "lost", "{operation}");
    }
}

#[test]
fn p4_a_seal_fails_if_a_reader_s_write_lost_its_chunks() {
    let bench = Bench::new();
    let mark = bench.store.mark();
    let id = bench.put("a chunk of the seal").unwrap();
    bench.disk.fail(Some(("append", "packs/")));
    // Reading what is not written yet writes it first.
    assert!(bench.read(&id).is_err());
    bench.disk.fail(None);
    let refused = bench.put("another chunk of the same seal");
    assert!(
        matches!(refused, Err(StoreError::PackLost(_))),
        "{refused:?}"
    );
    let refused = bench.store.sync_packs(mark);
    assert!(
        matches!(refused, Err(StoreError::PackLost(_))),
        "{refused:?}"
    );
}

#[test]
fn p4_after_a_failed_history_write_nothing_is_taken_until_the_store_is_opened_again() {
    for operation in ["append", "sync"] {
        let bench = Bench::new();
        let record =
            || crate::model::history::tests::record(0, crate::model::history::Verb::Init, None, "");
        bench.disk.fail(Some((operation, "history")));
        let failed = bench.store.record(record()).unwrap_err();
        // A record that was written whole may be there after a restart.
        let is_open = matches!(failed, StoreError::NotConfirmed(_));
        assert_eq!(is_open, operation == "sync", "{failed:?}");
        bench.disk.fail(None);
        let refused = bench.store.record(record());
        assert!(matches!(refused, Err(StoreError::Stopped)), "{refused:?}");
        let bench = bench.reopen();
        bench.store.record(record()).unwrap();
    }
}

#[test]
fn p4_a_header_without_its_payload_is_not_taken_for_a_chunk_after_a_crash() {
    let bench = Bench::new();
    let mark = bench.store.mark();
    let (one, two) = (
        bench.put("chunk one").unwrap(),
        bench.put("chunk two").unwrap(),
    );
    bench.store.sync_packs(mark).unwrap();
    let path = bench.folder.path().join("store/packs/000001.pack");
    let mut bytes = std::fs::read(&path).unwrap();
    let payload = bytes.len() - "chunk two".len();
    bytes[payload..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    // A crash before all of it was synced.
    let note = bench.folder.path().join("store/cache/synced");
    std::fs::remove_file(note).unwrap();
    let bench = bench.reopen();
    assert_eq!(bench.read(&one).unwrap(), "chunk one");
    assert!(!bench.store.contains(&two).unwrap());
    bench.put("chunk two").unwrap();
    assert_eq!(bench.read(&two).unwrap(), "chunk two");
}

#[test]
fn p4_what_was_synced_is_not_read_when_the_store_opens_and_comes_back_with_its_content_if_it_is_damaged()
 {
    let bench = Bench::new();
    let mark = bench.store.mark();
    let two = bench.put("chunk two").unwrap();
    bench.store.sync_packs(mark).unwrap();
    let path = bench.folder.path().join("store/packs/000001.pack");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let bench = bench.reopen();
    assert!(bench.store.contains(&two).unwrap());
    assert!(!bench.store.holds(&two).unwrap());
    bench.put("chunk two").unwrap();
    assert_eq!(bench.read(&two).unwrap(), "chunk two");
}

#[test]
fn p4_what_is_taken_back_after_it_was_synced_counts_as_synced_no_more() {
    let bench = Bench::new();
    let mark = bench.store.mark();
    bench.put("chunk one").unwrap();
    bench.store.sync_packs(mark).unwrap();
    let mark = bench.store.mark();
    bench.put("chunk two").unwrap();
    bench.store.sync_packs(mark).unwrap();
    let note = bench.folder.path().join("store/cache/synced");
    assert!(note.exists());
    bench.store.discard(mark);
    assert!(!note.exists());
}

#[test]
fn a_chunk_that_leans_on_another_is_read_with_it_and_never_leans_on_one_that_does() {
    let bench = Bench::new();
    let base = "words that the pages have in common, ".repeat(50);
    let page = |number: usize| format!("{base}{number} {}", "own words ".repeat(number));
    let mut before: Option<ChunkId> = None;
    for number in 0..6 {
        let text = page(number);
        let id = ChunkId::of(text.as_bytes());
        let chunk = bench.store.encode(id, text.as_bytes(), before.as_ref());
        if number > 0 {
            let first = ChunkId::of(page(0).as_bytes());
            assert_eq!(chunk.header.dictionary(), Some(first), "{number}");
            assert!(
                chunk.payload.len() < 60,
                "{number}: {}",
                chunk.payload.len()
            );
        }
        bench.store.append(&chunk).unwrap();
        assert_eq!(bench.read(&id).unwrap(), text);
        before = Some(id);
    }
}

#[test]
fn a_trained_dictionary_is_found_again_and_its_hint_may_be_lost() {
    let bench = Bench::new();
    let pages = super::compress::tests::pages(400);
    bench.store.train_dictionary(&pages).unwrap();
    assert!(bench.store.has_dictionary());
    let mark = bench.store.mark();
    let page = &pages[7];
    let id = ChunkId::of(page);
    let chunk = bench.store.encode(id, page, None);
    assert!(chunk.header.dictionary().is_some());
    bench.store.append(&chunk).unwrap();
    bench.store.sync_packs(mark).unwrap();
    let bench = bench.reopen();
    assert!(bench.store.has_dictionary());
    assert_eq!(&bench.store.read_chunk(&id).unwrap(), page);
    let mut bench = bench;
    for hint in ["rubbish", &ChunkId::of(b"no such chunk").to_string()] {
        std::fs::write(bench.store.root().join("cache/dictionary"), hint).unwrap();
        bench = bench.reopen();
        assert!(!bench.store.has_dictionary(), "{hint}");
    }
    assert_eq!(&bench.store.read_chunk(&id).unwrap(), page);
}

/// A chunk of noise, so long that it does not compress away.
fn put_noise(bench: &Bench, seed: u8, len: usize) -> ChunkId {
    let mut raw = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut raw);
    let id = ChunkId::of(&raw);
    let chunk = bench.store.encode(id, &raw, None);
    bench.store.append(&chunk).unwrap();
    id
}

#[test]
fn what_a_seal_appended_in_vain_is_taken_back_in_any_stage() {
    for synced in [false, true] {
        for before in [false, true] {
            // Over 16 MiB a pack is finished when it is synced.
            for len in [1000, 17 << 20] {
                let bench = Bench::new();
                let kept = before.then(|| {
                    let mark = bench.store.mark();
                    let id = put_noise(&bench, 1, 500);
                    bench.store.sync_packs(mark).unwrap();
                    id
                });
                bench.store.fill_index();
                let bytes = bench.store.pack_bytes();
                let mark = bench.store.mark();
                let vain = put_noise(&bench, 2, len);
                if synced {
                    bench.store.sync_packs(mark).unwrap();
                }
                bench.store.discard(mark);
                let case = format!("synced {synced}, before {before}, {len} bytes");
                let finished = before && synced && len > 16 << 20;
                if !finished {
                    assert_eq!(bench.store.pack_bytes(), bytes, "{case}");
                    assert!(!bench.store.contains(&vain).unwrap(), "{case}");
                }
                let mark = bench.store.mark();
                let next = put_noise(&bench, 3, 700);
                bench.store.sync_packs(mark).unwrap();
                let bench = bench.reopen();
                bench.store.fill_index();
                for id in kept.iter().chain([&next]) {
                    assert!(bench.store.read_chunk(id).is_ok(), "{case}");
                }
            }
        }
    }
}

#[test]
fn a_dictionary_goes_with_the_seal_that_trained_it() {
    let bench = Bench::new();
    let mark = bench.store.mark();
    let pages = super::compress::tests::pages(400);
    bench.store.train_dictionary(&pages).unwrap();
    bench.store.discard(mark);
    assert!(!bench.store.has_dictionary());
    let bench = bench.reopen();
    assert!(!bench.store.has_dictionary());
    bench.store.train_dictionary(&pages).unwrap();
    assert!(bench.store.has_dictionary());
}

#[test]
fn gc_keeps_the_copy_of_a_chunk_that_another_leans_on() {
    for leaning_copy_first in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        Store::init(&root, "root", 1).unwrap();
        let limits = Limits {
            seal_finish_chunks: 2,
            ..Limits::default()
        };
        let disk = Arc::new(HostDisk::new(root.clone(), true));
        let store = Store::open_on(disk, &root, Index::none(), limits).unwrap();
        let page = |number: usize| {
            let common = "words that the pages have in common, ".repeat(50);
            format!("{common}{number} {}", "own words ".repeat(number)).into_bytes()
        };
        let add = |number: usize, like: Option<usize>| {
            let id = ChunkId::of(&page(number));
            let like = like.map(|like| ChunkId::of(&page(like)));
            let chunk = store.encode(id, &page(number), like.as_ref());
            assert_eq!(chunk.header.dictionary(), like);
            store.append(&chunk).unwrap();
        };
        let seal = |chunks: &[(usize, Option<usize>)]| {
            let mark = store.mark();
            chunks.iter().for_each(|&(number, like)| add(number, like));
            store.sync_packs(mark).unwrap();
        };
        // Chunk 1 stands in two packs, once by itself and once leaning on chunk 9, which nobody else needs.
        seal(&[(9, None), (8, None)]);
        let copies = [(1, Some(9)), (1, None)];
        let (first, second) = if leaning_copy_first { (0, 1) } else { (1, 0) };
        seal(&[copies[first], (7, None)]);
        if leaning_copy_first {
            seal(&[copies[second], (2, Some(1))]);
        } else {
            seal(&[(2, Some(1)), (6, None)]);
            seal(&[copies[second], (5, None)]);
        }
        let mut gc = store.gc(store.list_packs()).unwrap();
        gc.keep_file(&Blob::single(&page(2))).unwrap();
        while gc.sweep(Duration::from_secs(1)).unwrap() {}
        gc.finish();
        let leaning = ChunkId::of(&page(2));
        assert_eq!(store.read_chunk(&leaning).unwrap(), page(2));
    }
}

#[test]
fn a_second_copy_of_a_chunk_does_not_lean_on_the_first() {
    let bench = Bench::new();
    let text = "the same words again and again, ".repeat(50);
    let id = bench.put(&text).unwrap();
    let again = bench.store.encode(id, text.as_bytes(), Some(&id));
    assert_eq!(again.header.dictionary(), None);
}

#[test]
fn a_record_torn_by_a_full_disk_is_cut_off_while_the_disk_is_full() {
    let Bench {
        folder,
        disk,
        store,
    } = Bench::new();
    drop(store);
    let path = folder.path().join("store/history");
    let whole = std::fs::read(&path).unwrap();
    let torn = [&whole[..], &whole[..whole.len() / 2]].concat();
    std::fs::write(&path, torn).unwrap();
    disk.fail(Some(("append", "history.torn-")));

    let (mut journal, tail) = Journal::open(disk.clone()).unwrap();
    journal.cut(&tail.unwrap()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    disk.fail(None);
    let (_, tail) = Journal::open(disk).unwrap();
    assert!(tail.is_none());
}
