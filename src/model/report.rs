//! What people ask for and what they are answered: the plain data that crosses the control socket and stands in `--json`.
//!
//! Sizes are bytes, times whole seconds since 1970. The field names are an interface: scripts read them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ids::{ChunkId, ContentId, DeployId};
use super::name::{ChannelName, StagingName};

/// Free `KEY=VALUE` facts a deploy carries, such as a git revision.
pub type Meta = BTreeMap<String, String>;

/// Who asks, as the kernel vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// User name, or the number where there is no name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All supplementary group ids.
    pub groups: Vec<u32>,
}

/// What may differ from seal to seal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SealOptions {
    /// Why this deploy was made.
    pub message: String,
    /// Free facts.
    pub meta: Meta,
    /// Accept a folder without any entry.
    pub allow_empty: bool,
    /// Accept symlinks that are absolute or lead out of the deploy.
    pub allow_external_symlinks: bool,
}

/// `deploy DIR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderRequest {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// Lay the folder over this deploy (an id, a unique prefix, `live` or `previous`).
    pub from: Option<String>,
    /// Paths of that deploy to leave out, relative to its root.
    pub delete: Vec<PathBuf>,
    /// Say what would be new; store and record nothing.
    pub dry_run: bool,
    /// Read every file, also those that look as they did at the last deploy.
    #[serde(default)]
    pub no_cache: bool,
    /// As for a seal.
    pub options: SealOptions,
}

/// `import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The most files, folders and symlinks that it may have.
    pub max_entries: u64,
    /// The most bytes that its files may have.
    pub max_bytes: u64,
    /// As for a seal; an empty message: the export's own.
    pub options: SealOptions,
}

/// The outcome of `export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The deploy's address.
    pub deploy_id: DeployId,
    /// The whole content id of its root.
    pub content_id: ContentId,
    /// Files in the deploy.
    pub files: u64,
    /// Logical size of all files.
    pub bytes: u64,
    /// Distinct chunks written.
    pub chunks: u64,
    /// Raw bytes of those chunks.
    pub unique_bytes: u64,
}

/// `activate ID` and `rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivateRequest {
    /// The deploy: an id, a unique prefix, `live`, `previous` or `@CHANNEL`. None (for a rollback): `previous`.
    pub target: Option<String>,
    /// Only where this deploy is live now (`none`: no deploy is).
    pub if_live: Option<String>,
    /// Pass over a lock.
    pub override_lock: bool,
    /// Say what would be made live instead of what, if everything holds; change and record nothing.
    pub dry_run: bool,
    /// Why.
    pub message: String,
}

/// How far a seal has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files read so far.
    pub files: u64,
    /// Files found by the walk, 0 while it runs.
    pub files_total: u64,
    /// Bytes read so far.
    pub bytes: u64,
    /// Bytes found by the walk, 0 while it runs.
    pub bytes_total: u64,
    /// Bytes appended to packs so far.
    pub new_bytes: u64,
    /// A gc waits until a backup of the store has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_backup: bool,
}

/// The outcome of `backup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The store.
    pub store: PathBuf,
    /// The folder that holds the backup.
    pub backup: PathBuf,
    /// The uuid of both.
    pub uuid: String,
    /// The last record of the history that the backup has.
    pub seq: u64,
    /// The live deploy in it.
    pub live: Option<DeployId>,
    /// Deploys in it.
    pub deploys: u64,
    /// Deploys that it did not have before.
    pub new_deploys: u64,
    /// Chunks that were copied.
    pub chunks: u64,
    /// Bytes that were copied.
    pub bytes: u64,
    /// Bytes of all its packs.
    pub pack_bytes: u64,
    /// Bytes by which its packs shrank, since deploys were removed from the store.
    pub freed_bytes: u64,
    /// Records of it that were found damaged; only where it was checked.
    pub damaged: u64,
    /// Damaged chunks of it that were copied anew.
    pub healed: u64,
}

/// The outcome of `seal` and `deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// The deploy's address.
    pub deploy_id: DeployId,
    /// The whole content id of its root.
    pub content_id: ContentId,
    /// True where a deploy with this content was there already.
    pub existed: bool,
    /// True for a dry run: nothing was recorded.
    pub dry_run: bool,
    /// Files in the deploy.
    pub files: u64,
    /// Directories in the deploy, its root included.
    pub directories: u64,
    /// Symlinks in the deploy.
    pub symlinks: u64,
    /// Logical size of all files.
    pub bytes: u64,
    /// Chunks that no earlier deploy had.
    pub new_chunks: u64,
    /// Raw bytes of those chunks.
    pub new_bytes: u64,
    /// Bytes by which the packs grew.
    pub stored_bytes: u64,
    /// What changed against what was live.
    pub changes: ChangeCounts,
    /// Where the mount shows it; none without a daemon or for a dry run.
    pub deploy_path: Option<PathBuf>,
    /// True where it is live now.
    pub live: bool,
    /// Things the caller should know, such as a staged folder that was kept because it changed after the seal.
    pub warnings: Vec<String>,
}

/// The outcome of `activate` and `rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivateReport {
    /// What is live now.
    pub deploy_id: DeployId,
    /// What was live before.
    pub before: Option<DeployId>,
    /// True where it was live already: recorded, nothing flipped.
    pub unchanged: bool,
    /// Microseconds the mount took to show it; none without a daemon.
    pub flip_micros: Option<u64>,
    /// Things the caller should know, such as a mount that web servers do not see.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One deploy in `list` and `show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployInfo {
    /// Its address.
    pub deploy_id: DeployId,
    /// The whole content id of its root.
    pub content_id: ContentId,
    /// True for what is live now.
    pub live: bool,
    /// The channels but `live` that show it.
    pub channels: Vec<ChannelName>,
    /// When it was first sealed.
    pub sealed_at: u64,
    /// By whom.
    pub sealed_by: String,
    /// The message of its latest seal.
    pub message: String,
    /// The facts of its latest seal.
    pub meta: Meta,
    /// Files in it.
    pub files: u64,
    /// Directories in it, its root included.
    pub directories: u64,
    /// Symlinks in it.
    pub symlinks: u64,
    /// Logical size of all files.
    pub bytes: u64,
    /// Why it cannot be used, if so; then the counts are 0.
    pub problem: Option<String>,
    /// All its seals, oldest first.
    pub seals: Vec<SealInfo>,
    /// When it was made live, oldest first.
    pub activated_at: Vec<u64>,
    /// What changed against what was live, else sealed last, when it was sealed first; only `show` tells.
    pub changes: Option<ChangeCounts>,
    /// Who keeps it from removal, if anybody does.
    pub pinned: Option<PinInfo>,
}

/// Why a deploy is kept from removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinInfo {
    /// Since when.
    pub time: u64,
    /// By whom.
    pub actor: String,
    /// Why.
    pub message: String,
}

/// The outcome of `pin` and `unpin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// Which deploy.
    pub deploy_id: DeployId,
    /// Who keeps it now, if anybody does.
    pub pinned: Option<PinInfo>,
    /// True where there was nothing to do, and nothing was recorded.
    pub unchanged: bool,
}

/// The outcome of `rm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReport {
    /// What was removed.
    pub removed: Vec<DeployId>,
    /// Who has something of it open, and reads on; as far as the command may look.
    #[serde(default)]
    pub open: Vec<OpenIn>,
    /// Processes that the command may not look at.
    #[serde(default)]
    pub unseen: u64,
}

/// A process that has something open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenIn {
    /// Its number.
    pub process: u32,
    /// Whose it is.
    pub user: String,
    /// Its program's name, at most 15 bytes.
    pub command: String,
}

/// `prune`. Where neither `keep` nor `keep_within` is given, the store's `retention.toml` says them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PruneRequest {
    /// So many deploys are kept, those sealed last.
    pub keep: Option<usize>,
    /// Those sealed within so many seconds are kept.
    pub keep_within: Option<u64>,
    /// Those that were live within so many seconds are kept.
    pub keep_live_within: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
    /// Why.
    pub message: String,
}

/// The outcome of `prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// True for a dry run: nothing was removed.
    pub dry_run: bool,
    /// What was removed, oldest seal first.
    pub removed: Vec<DeployId>,
    /// What was kept, oldest seal first.
    pub kept: Vec<KeptDeploy>,
    /// What the gc after it did; none: it did not run.
    pub gc: Option<GcReport>,
}

/// A deploy that `prune` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDeploy {
    /// Which.
    pub deploy_id: DeployId,
    /// `live`, `pinned`, `channel`, `recently-live`, `newest` or `young`.
    pub reason: String,
    /// The reason as a sentence.
    pub why: String,
}

/// The outcome of `du`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// The deploys, newest first.
    pub deploys: Vec<DeployUsage>,
    /// Bytes of all packs.
    pub pack_bytes: u64,
}

/// What a deploy takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployUsage {
    /// Which.
    pub deploy_id: DeployId,
    /// Logical size of all files.
    pub bytes: u64,
    /// Bytes that its chunks take in packs.
    pub stored_bytes: u64,
    /// The part of them that no other deploy has.
    pub unique_bytes: u64,
    /// What removing it alone would let go of: what others lean on stays, what only it leans on goes too.
    pub freed_bytes: u64,
}

/// The outcome of `gc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// True for a dry run: nothing was changed.
    pub dry_run: bool,
    /// Deploys that were kept.
    pub deploys: u64,
    /// Chunks that were kept.
    pub kept_chunks: u64,
    /// Bytes they take in packs.
    pub kept_bytes: u64,
    /// Chunks that nothing needs. Those in packs that are not worth rewriting stay for now.
    pub dropped_chunks: u64,
    /// Packs removed as they were.
    pub packs_dropped: u64,
    /// Packs of which the kept part was written again.
    pub packs_rewritten: u64,
    /// Bytes written again.
    pub copied_bytes: u64,
    /// Bytes by which the packs shrank.
    pub freed_bytes: u64,
}

/// One seal of a deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealInfo {
    /// When.
    pub time: u64,
    /// By whom.
    pub actor: String,
    /// Why.
    pub message: String,
    /// Its facts.
    pub meta: Meta,
}

/// What happened to a path between two deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both, with other bytes, target or kind.
    Modified,
    /// In both, only the mode differs.
    Mode,
}

/// Files and symlinks, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCount {
    /// How many.
    pub files: u64,
    /// Their logical size: the new one, where they are there still.
    pub bytes: u64,
}

/// How much changed from one deploy to another; directories are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// The first deploy; none: there was none, and all is added.
    pub against: Option<DeployId>,
    /// Only in the second.
    pub added: FileCount,
    /// In both, with other bytes or another target.
    pub changed: FileCount,
    /// Only in the first.
    pub removed: FileCount,
    /// In both, only the mode differs.
    pub permissions: FileCount,
}

/// One path that differs between two deploys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffEntry {
    /// Relative to the deploy's root; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The path's bytes in hex, where they are not UTF-8.
    pub path_hex: Option<String>,
    /// What happened to it.
    pub change: Change,
    /// Its size in the first deploy (a file's bytes).
    pub old_size: Option<u64>,
    /// Its size in the second deploy.
    pub new_size: Option<u64>,
}

/// `diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReport {
    /// How much changed.
    pub changes: ChangeCounts,
    /// Every path that differs.
    pub entries: Vec<DiffEntry>,
}

impl DiffEntry {
    /// The path's bytes.
    pub fn raw_path(&self) -> Vec<u8> {
        let digits = self.path_hex.as_deref().unwrap_or_default().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        match &self.path_hex {
            Some(_) => digits.chunks(2).filter_map(byte).collect(),
            None => self.path.clone().into_bytes(),
        }
    }
}

/// A request for a part of the history. Where it is limited to so many entries, an answer may have fewer, but not none if there are
/// any: ask again from there on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// Only what came after this record; 0: all.
    pub after: u64,
    /// Only what is about this channel.
    pub channel: Option<ChannelName>,
    /// Only what came before this record.
    #[serde(default)]
    pub before: Option<u64>,
    /// At most so many entries, the oldest ones.
    #[serde(default)]
    pub oldest: Option<u64>,
    /// At most so many entries, the newest ones.
    #[serde(default)]
    pub newest: Option<u64>,
}

/// One line of `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its place in the history, from 1.
    pub seq: u64,
    /// When.
    pub time: u64,
    /// By whom.
    pub actor: String,
    /// `init`, `seal`, `activate`, `rollback`, `close`, `lock`, `unlock` or `remove`.
    pub verb: String,
    /// The channel that an `activate`, `rollback` or `close` is about; `live` is one.
    pub channel: Option<ChannelName>,
    /// Which deploy, where the verb is about one.
    pub deploy_id: Option<DeployId>,
    /// When a `lock`, or the channel of an `activate`, ends by itself.
    pub until: Option<u64>,
    /// The `seq` of the lock that an `activate` or `rollback` passed over.
    pub overrides: Option<u64>,
    /// Why.
    pub message: String,
    /// Its facts.
    pub meta: Meta,
}

/// What a channel shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// Its name.
    pub name: ChannelName,
    /// Which deploy it shows.
    pub deploy_id: DeployId,
    /// Since when.
    pub since: u64,
    /// Who set it.
    pub by: String,
    /// Why.
    pub message: String,
    /// When it ends by itself.
    pub until: Option<u64>,
    /// Where the mount shows it; none without a daemon.
    pub path: Option<PathBuf>,
    /// Why a web server may not show it under its name.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A lock on what is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// Its place in the history.
    pub seq: u64,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: String,
    /// Since when.
    pub since: u64,
    /// When it ends by itself.
    pub until: Option<u64>,
}

/// A run of the hook `post-activate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookInfo {
    /// When it ended.
    pub time: u64,
    /// The deploy that had been activated.
    pub deploy_id: DeployId,
    /// On which channel.
    pub channel: ChannelName,
    /// Why it failed, if so.
    pub problem: Option<String>,
}

/// `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The store's folder.
    pub store: PathBuf,
    /// The store's uuid.
    pub uuid: String,
    /// Where it is mounted, none without a daemon.
    pub mountpoint: Option<PathBuf>,
    /// The daemon's process id, none without a daemon.
    pub daemon_pid: Option<u32>,
    /// The version of the daemon's program; none without a daemon, and of one that is older than this field.
    #[serde(default)]
    pub daemon_version: Option<String>,
    /// Since when it is mounted, none without a daemon.
    pub mounted_since: Option<u64>,
    /// False where somebody has remounted the superblock read-write (outside the promises); none without a daemon.
    pub mount_read_only: Option<bool>,
    /// False where the mount is in a mount namespace that the machine's first process does not share; none without a daemon, or
    /// where that cannot be told.
    #[serde(default)]
    pub mount_visible: Option<bool>,
    /// The change that is recorded and that the mount does not show yet, since it waits for a lock; none without a daemon.
    #[serde(default)]
    pub stuck: Option<StuckNotice>,
    /// What is live.
    pub live: Option<DeployId>,
    /// Since when.
    pub live_since: Option<u64>,
    /// Who made it live.
    pub live_by: Option<String>,
    /// What `rollback` would go to.
    pub previous: Option<DeployId>,
    /// All channels but `live`, by name.
    pub channels: Vec<ChannelInfo>,
    /// The lock that holds now.
    pub lock: Option<LockInfo>,
    /// The last run of the hook `post-activate` by this daemon; none without a daemon.
    pub hook: Option<HookInfo>,
    /// Files in the live deploy.
    pub live_files: Option<u64>,
    /// Logical size of all files in the live deploy.
    pub live_bytes: Option<u64>,
    /// How many deploys there are.
    pub deploys: u64,
    /// Files in all deploys together.
    pub files: u64,
    /// What all deploys would take if each were a copy.
    pub logical_bytes: u64,
    /// Chunks in the packs, each of another content.
    pub chunks: u64,
    /// Their bytes before compression.
    pub unique_bytes: u64,
    /// Those that are pinned.
    pub pinned: Vec<DeployId>,
    /// Folders in staging.
    pub staging: Vec<String>,
    /// Bytes of all packs: what is stored.
    pub pack_bytes: u64,
    /// Bytes that are free on the store's disk.
    pub disk_free_bytes: Option<u64>,
    /// Records in the history by verb.
    pub records: BTreeMap<String, u64>,
    /// `ready`, `building` or `unavailable: …`.
    pub index: String,
    /// The last mtime given to what was new in a deploy, never given again.
    #[serde(default)]
    pub last_mtime: u64,
    /// Upcalls by kind, with `total` (all but forgets) and `flips`; empty without a daemon.
    pub upcalls: BTreeMap<String, u64>,
    /// Hits, misses and bytes of the daemon's caches, and `nodes`: names that the kernel holds; empty without a daemon.
    pub caches: BTreeMap<String, u64>,
    /// How many reads through the mount have failed since the mount.
    pub errors_total: u64,
    /// The last of them, newest last.
    pub errors: Vec<String>,
    /// Deploys that are recorded and cannot be read: visitors of them get an error.
    #[serde(default)]
    pub unreadable: Vec<UnreadableDeploy>,
    /// Chunks that could not be read and have not come anew since.
    #[serde(default)]
    pub suspects: Vec<Suspect>,
    /// The scrub that runs, else the last one since the daemon began.
    #[serde(default)]
    pub scrub: Option<ScrubReport>,
}

/// How a deploy that cannot be read is mended.
pub const UNREADABLE_REMEDY: &str = "activate another deploy; 'deployfs fsck' says what is damaged, and sealing the same content again heals it";

/// A deploy that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableDeploy {
    /// Which.
    pub deploy_id: DeployId,
    /// The channels that show it; `live` is one.
    pub channels: Vec<ChannelName>,
    /// What is wrong.
    pub problem: String,
}

impl UnreadableDeploy {
    /// What is so, for whom.
    pub fn sentence(&self) -> String {
        let shown: Vec<&str> = self.channels.iter().map(ChannelName::as_str).collect();
        let what = match shown.is_empty() {
            true => format!("deploy {}", self.deploy_id),
            false => format!(
                "deploy {}, which '{}' shows,",
                self.deploy_id,
                shown.join("', '")
            ),
        };
        format!("{what} cannot be read: {}", self.problem)
    }
}

/// A change that the mount is to show and that waits for a folder's lock in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckNotice {
    /// Which change.
    pub what: String,
    /// Since when, whole seconds since 1970.
    pub since: u64,
    /// Who holds the lock, as far as it can be seen.
    pub holders: Vec<LockHolder>,
    /// Processes that could not be looked at for want of rights.
    pub unseen: u64,
}

/// A process that holds the lock of a folder of the mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Its number.
    pub process: u32,
    /// Whose it is.
    pub user: String,
    /// Its program's name, at most 15 bytes.
    pub command: String,
    /// The folder, as that process sees it.
    pub folder: PathBuf,
    /// The FUSE filesystem that it waits for: a folder in /sys/fs/fuse/connections.
    pub fuse_connection: Option<u32>,
}

impl LockHolder {
    /// Who holds what.
    pub fn sentence(&self) -> String {
        format!(
            "process {} ({}, of {}) has been listing '{}' without an end",
            self.process,
            self.command,
            self.user,
            self.folder.display()
        )
    }

    /// The command, for root, that ends it.
    pub fn remedy(&self) -> String {
        match self.fuse_connection {
            Some(number) => format!(
                "echo 1 > /sys/fs/fuse/connections/{number}/abort; kill -9 {}",
                self.process
            ),
            None => format!("kill -9 {}", self.process),
        }
    }
}

/// A chunk that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its id.
    pub chunk: ChunkId,
    /// The file it should be in, relative to the store.
    pub file: String,
    /// Where its record starts there.
    pub offset: u64,
    /// What the reader was told.
    pub what: String,
    /// Since when it is known, whole seconds since 1970.
    pub since: u64,
}

/// A reading of all packs in the background.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// When it began, whole seconds since 1970.
    pub began: u64,
    /// When it ended; none: it runs.
    pub ended: Option<u64>,
    /// False where it was interrupted.
    pub complete: bool,
    /// Records read so far.
    pub chunks: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// What `fsck --repair` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    /// What was mended, one sentence each, with file and offset.
    pub mended: Vec<String>,
    /// What is still wrong, with file or id.
    pub left: Vec<String>,
}

/// `verify` and `fsck`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Deploys checked.
    pub deploys: u64,
    /// Distinct trees and chunk lists read.
    pub objects: u64,
    /// Distinct chunks looked at.
    pub chunks: u64,
    /// Bytes of chunk data read and hashed.
    pub bytes_read: u64,
    /// What is wrong, one sentence each, with the file or id; empty where all is well.
    pub problems: Vec<String>,
    /// What is odd but lacks in no deploy, such as bytes that a crash has left.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One request to the control socket, and what the command line runs itself where no daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// A new staging folder; none: a name is made.
    Create {
        /** Its name. */
        name: Option<StagingName>,
    },
    /// Make a staging folder an immutable deploy.
    Seal {
        /** Which folder. */
        name: StagingName,
        /** How. */
        options: SealOptions,
    },
    /// Throw a staging folder away.
    Abort {
        /** Which folder. */
        name: StagingName,
    },
    /// Seal a folder anywhere, without a copy.
    Deploy(FolderRequest),
    /// Make a deploy live.
    Activate(ActivateRequest),
    /// Make an earlier deploy live.
    Rollback(ActivateRequest),
    /// Let a channel show a deploy.
    SetChannel {
        /** Which channel, not `live`. */
        name: ChannelName,
        /** An id, a prefix, `live`, `previous` or `@CHANNEL`. */
        target: String,
        /** When it ends by itself. */
        until: Option<u64>,
        /** Why. */
        message: String,
    },
    /// Take a channel away.
    CloseChannel {
        /** Which channel. */
        name: ChannelName,
        /** Why. */
        message: String,
    },
    /// All channels but `live`, by name.
    Channels,
    /// Ask that what is live stays so.
    Lock {
        /** Why. */
        reason: String,
        /** When it ends by itself. */
        until: Option<u64>,
    },
    /// Take the lock back.
    Unlock {
        /** Why. */
        message: String,
    },
    /// Keep a deploy from removal.
    Pin {
        /** An id, a prefix, `live` or `previous`. */
        target: String,
        /** Why. */
        message: String,
    },
    /// No longer keep a deploy from removal.
    Unpin {
        /** An id, a prefix, `live` or `previous`. */
        target: String,
        /** Why. */
        message: String,
    },
    /// Remove deploys: all of them or none.
    Remove {
        /** Ids, prefixes or `previous`. */
        targets: Vec<String>,
        /** Why. */
        message: String,
        /** Also what was live recently. */
        #[serde(default)]
        now: bool,
    },
    /// Remove what is not worth keeping.
    Prune(PruneRequest),
    /// What deploys take; none: all of them.
    Usage {
        /** Ids, prefixes, `live` or `previous`. */
        targets: Vec<String>,
    },
    /// Give back the space of what was removed.
    Gc {
        /** Only say what would go. */
        dry_run: bool,
    },
    /// All deploys, newest first.
    List,
    /// One deploy.
    Show {
        /** An id, a prefix, `live` or `previous`. */
        target: String,
    },
    /// What changed from `a` to `b`.
    Diff {
        /** The first; `none`: all of the second is added. */
        a: String,
        /** The second. */
        b: String,
    },
    /// The history, oldest first.
    Log(LogRequest),
    /// The state of store and mount.
    Status,
    /// Read a deploy (none: all) to the last byte.
    Verify {
        /** Which. */
        target: Option<String>,
    },
    /// Write a deploy to the stream that comes with the request.
    Export {
        /** Which. */
        target: String,
    },
    /// Take in a deploy from the stream that comes with the request.
    Import(ImportRequest),
    /// Check the store.
    Fsck {
        /** Read all chunks too. */
        read_data: bool,
    },
    /// Read all packs, slowly.
    Scrub {
        /** Bytes a second; none: as fast as it goes. */
        rate: Option<u64>,
    },
    /// End the daemon, unmounting.
    Shutdown,
}

impl Request {
    /// True for a request that changes neither the store nor the mount, whatever becomes of it.
    pub fn reads_only(&self) -> bool {
        match self {
            Request::List
            | Request::Channels
            | Request::Show { .. }
            | Request::Diff { .. }
            | Request::Log(_)
            | Request::Status
            | Request::Verify { .. }
            | Request::Export { .. }
            | Request::Usage { .. }
            | Request::Fsck { .. }
            | Request::Scrub { .. } => true,
            Request::Create { .. }
            | Request::Seal { .. }
            | Request::Abort { .. }
            | Request::SetChannel { .. }
            | Request::CloseChannel { .. }
            | Request::Import(_)
            | Request::Lock { .. }
            | Request::Unlock { .. }
            | Request::Pin { .. }
            | Request::Unpin { .. }
            | Request::Remove { .. }
            | Request::Gc { .. }
            | Request::Shutdown => false,
            Request::Activate(request) | Request::Rollback(request) => request.dry_run,
            Request::Deploy(request) => request.dry_run,
            Request::Prune(request) => request.dry_run,
        }
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// `create`: the folder, absolute.
    Staging(PathBuf),
    /// `seal`, `deploy`, `import`.
    Sealed(SealReport),
    /// `export`.
    Exported(ExportReport),
    /// `activate`, `rollback`.
    Activated(ActivateReport),
    /// `channel set`: the channel; `channel rm`: what it was.
    Channel(ChannelInfo),
    /// `channel list`.
    Channels(Vec<ChannelInfo>),
    /// `lock`: the lock; `unlock`: what it was.
    Lock(LockInfo),
    /// `pin`, `unpin`.
    Pinned(PinReport),
    /// `rm`.
    Removed(RemoveReport),
    /// `prune`.
    Pruned(PruneReport),
    /// `du`.
    Usage(UsageReport),
    /// `gc`.
    Gc(GcReport),
    /// `list`.
    Deploys(Vec<DeployInfo>),
    /// `show`.
    Deploy(DeployInfo),
    /// `diff`.
    Diff(DiffReport),
    /// `log`.
    Log(Vec<LogEntry>),
    /// `status`.
    Status(Box<StatusReport>),
    /// `verify`, `fsck`.
    Check(CheckReport),
    /// `scrub`.
    Scrubbed(ScrubReport),
    /// `abort`, `shutdown`.
    Done,
}

/// Why a request was not carried out; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Refused or failed: exit code 1.
    Failed,
    /// A precondition (`--if-live`, a lock, `--check`) did not hold: exit code 3.
    Precondition,
    /// Recorded durably, but the mount could not be flipped: exit code 4.
    NotFlipped,
    /// Not known whether it was carried out: exit code 5.
    Unknown,
}

/// A request that was not carried out, or of which that is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort.
    pub kind: FailureKind,
    /// What happened, to what, and what to do next.
    pub message: String,
}
