//! What a fuzzer and a campaign try on each decoder: any bytes at all, with their checksum put right where there is one, so that
//! what lies behind it is reached too. Each trial panics where a promise is broken; other rooms add the decoders that they keep.

use super::blob::{ChunkRef, decode_list, encode_list};
use super::deploy_file::DeployFile;
use super::history::{NO_RECORD, Record, Verb, decode_line, encode_line};
use super::ids::{ChunkId, ContentId, DeployId};
use super::moment::moment;
use super::name::{ChannelName, Name, StagingName};
use super::report::Meta;
use super::retention::{Retention, age, parse_age};
use super::tree::{Entry, MODE_MASK, Node, SYMLINK_MODE, Tree};
use super::{Blob, Layout, SealedTree};

/// A decoder under trial.
pub struct Decoder {
    /// The name of its fuzz target.
    pub name: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Decodes these bytes; panics where what was decoded is not the same once encoded and decoded again.
    pub check: fn(&[u8]),
    /// The longest thing in bytes that it takes by design, whatever it was given.
    pub fixed_memory: usize,
}

impl Decoder {
    /// One that takes no more memory than what it was given asks for.
    pub fn plain(name: &'static str, seeds: fn() -> Vec<Vec<u8>>, check: fn(&[u8])) -> Self {
        Decoder {
            name,
            seeds,
            check,
            fixed_memory: 0,
        }
    }
}

/// The decoders of this room.
pub fn decoders() -> Vec<Decoder> {
    vec![
        Decoder::plain("tree", trees, tree),
        Decoder::plain("chunk-list", chunk_lists, chunk_list),
        Decoder::plain("deploy-file", deploy_files, deploy_file),
        Decoder::plain("history-line", history_lines, history_line),
        Decoder::plain("words", words, word),
        Decoder::plain("retention", retentions, retention),
    ]
}

fn tree(bytes: &[u8]) {
    let tree = Tree::decode(bytes);
    match SealedTree::new(bytes.to_vec()) {
        Ok(sealed) => {
            let tree = tree.expect("both forms of a tree take the same bytes");
            assert_eq!(tree.encode(), bytes, "a tree's encoding is not canonical");
            assert_eq!(sealed.decode(), tree);
            for entry in tree.entries() {
                assert_eq!(sealed.get(entry.name.as_bytes()).as_ref(), Some(entry));
            }
        }
        Err(error) => assert_eq!(tree.err(), Some(error)),
    }
}

fn trees() -> Vec<Vec<u8>> {
    let entry = |name: &str, mode, node| Entry {
        name: Name::new(name.as_bytes()).expect("a name"),
        mode,
        mtime: 1_700_000_000,
        node,
    };
    let list = Blob {
        id: ContentId::of(b"both"),
        len: 3,
        layout: Layout::List(chunks(2).into()),
    };
    let long = Blob {
        id: ContentId::of(b"long"),
        len: 1 << 33,
        layout: Layout::ListAt(ChunkId::of(b"list")),
    };
    let dir = Node::Dir {
        content: ContentId::of(b"folder"),
        tree: Blob::single(b"tree"),
    };
    let link = Node::Symlink(b"../to".as_slice().into());
    let all = Tree::new(vec![
        entry("single", 0o444, Node::File(Blob::single(b"x"))),
        entry("list", MODE_MASK, Node::File(list)),
        entry("long", 0o400, Node::File(long)),
        entry("link", SYMLINK_MODE, link),
        entry("dir", MODE_MASK, dir),
    ]);
    vec![Tree::default().encode(), all.encode()]
}

/// Chunks of 1, 2, 3… bytes.
fn chunks(count: u32) -> Vec<ChunkRef> {
    let chunk = |len: u32| ChunkRef {
        id: ChunkId::of(&len.to_le_bytes()),
        len,
    };
    (1..=count).map(chunk).collect()
}

/// Eight bytes for the length that the list is for, then the list.
fn chunk_list(bytes: &[u8]) {
    if let Some((len, list)) = bytes.split_first_chunk::<8>()
        && let Ok(chunks) = decode_list(list, u64::from_le_bytes(*len))
    {
        assert_eq!(encode_list(&chunks), list);
    }
}

fn chunk_lists() -> Vec<Vec<u8>> {
    let list = |count: u32| {
        let len = u64::from(count * (count + 1) / 2);
        [len.to_le_bytes().to_vec(), encode_list(&chunks(count))].concat()
    };
    vec![list(0), list(20)]
}

fn deploy_file(bytes: &[u8]) {
    let json = bytes.split(|&byte| byte == b'\n').next().unwrap_or(bytes);
    let whole = format!("\nblake3 {}\n", blake3::hash(json).to_hex());
    for bytes in [bytes, &[json, whole.as_bytes()].concat()] {
        if let Ok(file) = DeployFile::decode(bytes) {
            assert_eq!(DeployFile::decode(&file.encode()), Ok(file));
        }
    }
}

fn deploy_files() -> Vec<Vec<u8>> {
    let file = |root| DeployFile {
        content: ContentId::of(b"content"),
        root,
        root_mtime: 1_700_000_000,
        files: 3,
        directories: 2,
        symlinks: 1,
        bytes: 70,
        sealed_at: 1_700_000_001,
        sealed_by: "root".into(),
    };
    let list = Blob {
        id: ContentId::of(b"root"),
        len: 6,
        layout: Layout::List(chunks(3).into()),
    };
    vec![file(Blob::single(b"tree")).encode(), file(list).encode()]
}

fn history_line(bytes: &[u8]) {
    const KEY: &[u8] = b",\"sum\":\"";
    let body = match bytes.windows(KEY.len()).rposition(|part| part == KEY) {
        Some(at) => &bytes[..at],
        None => bytes,
    };
    let sum = blake3::hash(body).to_hex();
    let whole = [body, KEY, sum.as_bytes(), b"\"}"].concat();
    for line in [bytes, &whole] {
        if let Ok((record, _)) = decode_line(line) {
            let (mut again, _) = encode_line(&record);
            again.pop();
            assert_eq!(decode_line(&again).expect("our own line").0, record);
        }
    }
}

fn history_lines() -> Vec<Vec<u8>> {
    let record = |verb| Record {
        seq: 7,
        time: 1_700_000_000,
        actor: "root".into(),
        verb,
        channel: Some(ChannelName::live()),
        deploy: Some(DeployId::of(&ContentId::of(b"content"))),
        content: Some(ContentId::of(b"content")),
        txn: Some("t".into()),
        until: Some(1_800_000_000),
        overrides: Some(3),
        message: "why".into(),
        meta: Meta::from([("commit".into(), "1f".into())]),
        last_mtime: 1_700_000_000,
        prev: NO_RECORD.into(),
    };
    let line = |verb| {
        let (mut line, _) = encode_line(&record(verb));
        line.pop();
        line
    };
    vec![line(Verb::Seal), line(Verb::Activate), line(Verb::Lock)]
}

/// Names, ids, time spans and times.
fn word(bytes: &[u8]) {
    if let Ok(name) = Name::new(bytes) {
        assert_eq!(name.as_bytes(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(id) = text.parse::<DeployId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<ContentId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(name) = text.parse::<StagingName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(name) = text.parse::<ChannelName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(seconds) = parse_age(text) {
        assert_eq!(parse_age(&age(seconds)), Ok(seconds));
    }
    moment(text, 1_700_000_000).ok();
}

fn words() -> Vec<Vec<u8>> {
    let content = ContentId::of(b"content");
    [
        &DeployId::of(&content).to_string(),
        &content.to_string(),
        "v2-staging",
        "preview.1",
        "30d",
        "2026-07-01T12:00:00Z",
        "index.html",
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec()
}

fn retention(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        Retention::parse(text).ok();
    }
}

fn retentions() -> Vec<Vec<u8>> {
    let all =
        "keep = 20\nkeep-within = \"30d\"\nkeep-recently-live = 3\nkeep-live-within = \"2w\"\n";
    vec![all.into(), b"# nothing\n".to_vec()]
}
