//! Exports that are well made and lie: each is refused, and the store has nothing of it.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

use super::Deployfs;
use super::portable::{FrameWriter, Head};
use crate::model::blob::{ChunkRef, encode_list};
use crate::model::content::tree_content_id;
use crate::model::report::{Answer, Caller, ImportRequest, Meta, Request, SealOptions};
use crate::model::tree::SYMLINK_MODE;
use crate::model::{Blob, ChunkId, ContentId, Entry, Layout, Name, Node, Tree};

/// An export in the making.
#[derive(Clone)]
struct Export {
    head: Head,
    trees: Vec<Vec<u8>>,
    chunks: Vec<(ChunkId, Vec<u8>)>,
}

fn entry(name: &str, node: Node) -> Entry {
    let mode = match node {
        Node::File(_) => 0o444,
        Node::Dir { .. } => 0o555,
        Node::Symlink(_) => SYMLINK_MODE,
    };
    Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        mode,
        mtime: 1_700_000_000,
        node,
    }
}

fn file(name: &str, raw: &[u8]) -> Entry {
    entry(name, Node::File(Blob::single(raw)))
}

fn dir(name: &str, tree: &Tree) -> Entry {
    let node = Node::Dir {
        content: tree_content_id(tree),
        tree: Blob::single(&tree.encode()),
    };
    entry(name, node)
}

fn chunk(raw: &[u8]) -> (ChunkId, Vec<u8>) {
    (ChunkId::of(raw), raw.to_vec())
}

impl Export {
    /// One whose last tree is the root.
    fn of(trees: &[&Tree], chunks: &[&[u8]]) -> Self {
        let trees: Vec<Vec<u8>> = trees.iter().map(|tree| tree.encode()).collect();
        let root = trees.last().unwrap();
        Export {
            head: Head {
                store: "another".into(),
                content: tree_content_id(&Tree::decode(root).unwrap()),
                root: ContentId::of(root),
                root_mtime: 1_700_000_000,
                sealed_at: 1_700_000_000,
                sealed_by: "somebody".into(),
                message: String::new(),
                meta: Meta::new(),
            },
            trees,
            chunks: chunks.iter().map(|raw| chunk(raw)).collect(),
        }
    }

    fn write(&self) -> File {
        let mut out = Vec::new();
        let mut frames = FrameWriter::new(&mut out).unwrap();
        frames.head(&self.head).unwrap();
        for tree in &self.trees {
            frames.tree(tree).unwrap();
        }
        for (id, raw) in &self.chunks {
            frames.chunk(id, raw).unwrap();
        }
        frames.end().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&out).unwrap();
        file.rewind().unwrap();
        file
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    flow: Deployfs,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        Deployfs::init(&store, &caller()).unwrap();
        Bench {
            flow: Deployfs::open(&store).unwrap(),
            _folder: folder,
        }
    }

    fn import(&self, export: &Export) -> Result<String, String> {
        let request = Request::Import(ImportRequest {
            max_entries: 1000,
            max_bytes: 8 << 20,
            options: SealOptions::default(),
        });
        let stream = Some(OwnedFd::from(export.write()));
        let cancel = AtomicBool::new(false);
        match self
            .flow
            .run_with(&request, stream, &caller(), &|_| {}, &cancel)
        {
            Ok(Answer::Sealed(report)) => Ok(report.deploy_id.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.message),
        }
    }

    fn refuses(&self, export: &Export, words: &str) {
        let bytes = self.flow.store.pack_bytes();
        let said = self.import(export).unwrap_err();
        assert!(said.contains(words), "'{words}' is not in: {said}");
        assert_eq!(self.flow.list(), []);
        assert_eq!(self.flow.store.pack_bytes(), bytes, "{words}: taken back");
    }
}

fn caller() -> Caller {
    Caller {
        name: "tester".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    }
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A file of these chunks that says it has this id.
fn large(id: ContentId, parts: &[Vec<u8>]) -> Entry {
    let chunks: Vec<ChunkRef> = parts
        .iter()
        .map(|raw| ChunkRef {
            id: ChunkId::of(raw),
            len: raw.len() as u32,
        })
        .collect();
    let node = Node::File(Blob {
        id,
        len: parts.iter().map(|raw| raw.len() as u64).sum(),
        layout: Layout::List(chunks.into()),
    });
    entry("large", node)
}

#[test]
fn p10_what_the_trees_do_not_say_or_say_wrong_is_refused() {
    let bench = Bench::new();
    let below = Tree::new(vec![file("a", b"content of a")]);
    let root = Tree::new(vec![dir("d", &below), file("b", b"b")]);
    let good = Export::of(&[&below, &root], &[b"content of a", b"b"]);
    let with = |change: &dyn Fn(&mut Export)| {
        let mut export = good.clone();
        change(&mut export);
        export
    };
    bench.refuses(
        &with(&|e| e.chunks.push(chunk(b"stowaway"))),
        "no file in it has",
    );
    bench.refuses(&with(&|e| e.chunks.push(chunk(b"b"))), "comes twice");
    bench.refuses(&with(&|e| drop(e.chunks.pop())), "is not in it");
    bench.refuses(&with(&|e| e.chunks[0].1[0] ^= 1), "does not hash to its id");
    bench.refuses(
        &with(&|e| drop(e.trees.remove(0))),
        "folder 'd' is not in it",
    );
    bench.refuses(
        &with(&|e| e.trees.push(Tree::default().encode())),
        "not part of its site",
    );
    bench.refuses(&with(&|e| e.trees[0].push(0)), "cannot be read");
    bench.refuses(
        &with(&|e| e.head.root = ContentId::of(b"x")),
        "root folder is not in it",
    );
    bench.refuses(
        &with(&|e| e.head.content = ContentId::of(b"x")),
        "another content id",
    );
    let lying = Tree::new(vec![entry(
        "d",
        Node::Dir {
            content: ContentId::of(b"x"),
            tree: Blob::single(&below.encode()),
        },
    )]);
    bench.refuses(&Export::of(&[&below, &lying], &[]), "another content id");
    let mut short = Blob::single(b"b");
    short.len = 2;
    let short = Tree::new(vec![entry("s", Node::File(short))]);
    bench.refuses(&Export::of(&[&short], &[b"b"]), "another length");
    assert!(bench.import(&good).is_ok());
}

#[test]
fn p5_a_file_of_several_chunks_must_hash_as_a_whole() {
    let bench = Bench::new();
    let parts = [noise(1, 200_000), noise(2, 70_000)];
    let raw: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let swapped = [parts[1].clone(), parts[0].clone()].concat();
    let lying = Tree::new(vec![large(ContentId::of(&swapped), &parts)]);
    bench.refuses(&Export::of(&[&lying], &raw), "does not hash to it");
    let honest = Tree::new(vec![large(ContentId::of(&parts.concat()), &parts)]);
    assert!(bench.import(&Export::of(&[&honest], &raw)).is_ok());
}

#[test]
fn p10_a_small_file_that_unpacks_to_a_huge_site_is_refused() {
    let bench = Bench::new();
    // Each folder has the one below it ten times: 10^12 files in twelve folders.
    let mut trees = vec![Tree::new(vec![file("x", b"x")])];
    for _ in 0..12 {
        let below = trees.last().unwrap();
        let names = (0..10).map(|number| dir(&number.to_string(), below));
        trees.push(Tree::new(names.collect()));
    }
    let all: Vec<&Tree> = trees.iter().collect();
    bench.refuses(&Export::of(&all, &[b"x"]), "--max-entries");
    // A chain so deep that no path can name its end.
    let mut trees = vec![Tree::new(vec![file("x", b"x")])];
    for _ in 0..200 {
        let below = dir(&"long".repeat(6), trees.last().unwrap());
        trees.push(Tree::new(vec![below]));
    }
    let all: Vec<&Tree> = trees.iter().collect();
    bench.refuses(&Export::of(&all, &[b"x"]), "4095 bytes");
    // So deep that whoever walks down it would run out of stack, also where each half is not.
    let mut trees = vec![Tree::new(vec![file("x", b"x")])];
    for _ in 0..300 {
        let below = dir("d", trees.last().unwrap());
        let mut entries = vec![below];
        if trees.len() == 250 {
            // Looked at first, and then no more.
            entries.push(dir("a", &trees[200]));
        }
        trees.push(Tree::new(entries));
    }
    let all: Vec<&Tree> = trees.iter().collect();
    bench.refuses(&Export::of(&all, &[b"x"]), "more than 256 folders");
    // One chunk a hundred times is a file of gigabytes.
    let part = noise(1, 1 << 20);
    let parts = vec![part.clone(); 16];
    let big = Tree::new(vec![large(ContentId::of(b"big"), &parts)]);
    bench.refuses(&Export::of(&[&big], &[&part]), "--max-bytes");
    // Cut into single bytes, each of which would take memory.
    let crumbs: Vec<Vec<u8>> = (0..16).map(|byte| vec![byte]).collect();
    let crumbs = Tree::new(vec![large(ContentId::of(b"crumbs"), &crumbs)]);
    bench.refuses(&Export::of(&[&crumbs], &[]), "impossible way");
    let list = encode_list(&[1, 2].map(|byte| ChunkRef {
        id: ChunkId::of(&[byte]),
        len: 1,
    }));
    let listed = Tree::new(vec![entry(
        "listed",
        Node::File(Blob {
            id: ContentId::of(b"listed"),
            len: 2,
            layout: Layout::ListAt(ChunkId::of(&list)),
        }),
    )]);
    bench.refuses(&Export::of(&[&listed], &[&list]), "impossible way");
}

#[test]
fn p7_a_stranger_that_gives_itself_out_as_a_replica_cannot_take_seconds_of_the_future() {
    let bench = Bench::new();
    let mut tree = file("a", b"a");
    tree.mtime = 1 << 60;
    let tree = Tree::new(vec![tree]);
    let mut export = Export::of(&[&tree], &[b"a"]);
    export.head.store = bench.flow.store.uuid().to_owned();
    export.head.root_mtime = 1 << 61;
    bench.import(&export).unwrap();
    assert!(bench.flow.last_mtime() <= super::now() + 10);
}
