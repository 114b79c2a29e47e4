//! What the history adds up to: which deploys there are, what is live, where `previous` leads, what the channels show,
//! whether what is live is locked.

use std::collections::BTreeMap;

use super::history::{NO_RECORD, Record, Verb};
use super::ids::{ContentId, DeployId};
use super::name::ChannelName;
use super::report::{ChannelInfo, LockInfo, PinInfo};

/// The longest text of a pin, a channel or a lock that is kept in memory, in bytes. The history has the whole one.
const TEXT_MAX: usize = 4 << 10;

/// The state after a history, built by [`Ledger::apply`], record after record. Its memory grows with what exists and with how
/// often it was sealed and activated, not with the texts of the history: those are read from the disk when they are asked for.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// How many records there are.
    records: u64,
    by_verb: BTreeMap<Verb, u64>,
    last_sum: Option<String>,
    last_mtime: u64,
    /// The transaction of the last seal, if it had one.
    last_txn: Option<String>,
    deploys: BTreeMap<DeployId, Sealed>,
    /// The deploys that exist, by [`Sealed::order`].
    by_order: BTreeMap<u64, DeployId>,
    /// The deploys that exist and were live, by the `seq` of the last record that made them live.
    by_life: BTreeMap<u64, DeployId>,
    trail: Trail,
    live_since: Option<LiveSince>,
    /// All channels but `live`, those whose time is over too until that is recorded.
    channels: BTreeMap<ChannelName, ChannelInfo>,
    /// The last lock that nobody has taken back; its time may be over.
    lock: Option<LockInfo>,
}

/// What the history knows of a deploy that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The whole content id of its root.
    pub content: ContentId,
    /// `seq` of its first seal (since its last removal).
    pub order: u64,
    /// What was live, else sealed last, when it was sealed first; it may be removed since.
    pub base: Option<DeployId>,
    /// `seq` of its last seal.
    pub last_seal: u64,
    /// All its seals, oldest first.
    pub seals: Vec<SealMark>,
    /// When it was made live, oldest first.
    pub activated_at: Vec<u64>,
    /// Who keeps it, if anybody does.
    pub pinned: Option<PinInfo>,
    /// The last time it was live, if it was.
    life: Option<Life>,
    /// How many channels but `live` show it.
    shown: usize,
}

/// A seal, and where to read the rest of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealMark {
    /// Where its line starts in the history, in bytes.
    pub at: u64,
    /// Whole seconds since 1970.
    pub time: u64,
}

/// The last time that a deploy was live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    /// The `seq` of the record that made it live.
    seq: u64,
    /// When another deploy took its place. `None` if it is live.
    until: Option<u64>,
}

/// Since when the live deploy is live, and who made it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSince {
    /// Whole seconds since 1970.
    pub time: u64,
    /// The actor of the record.
    pub actor: String,
}

/// A deploy that was live, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WasLive {
    /// Which.
    pub id: DeployId,
    /// When the next one took its place; none: it is live.
    pub until: Option<u64>,
}

/// A record that cannot follow what came before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Its number or its `prev` is not the next one.
    #[error("record {0} does not follow the one before it")]
    Chain(u64),
    /// It is about a deploy that does not exist there, or misses a field that its verb needs.
    #[error("record {seq} ({verb}) cannot be: {what}")]
    Senseless {
        /// Its number.
        seq: u64,
        /// Its verb.
        verb: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A text that should name one deploy and does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// `live` before the first activation.
    #[error("nothing is live yet: activate a deploy first")]
    NothingLive,
    /// `@NAME` without such a channel.
    #[error("there is no channel '{0}': 'deployfs channel list' shows them all")]
    NoChannel(String),
    /// `previous` without one.
    #[error("there is no previous deploy to go back to: 'deployfs log' shows what was live when")]
    NothingPrevious,
    /// No deploy starts with it.
    #[error("no deploy has an id that starts with '{0}': 'deployfs list' shows them all")]
    Unknown(String),
    /// More than one deploy starts with it.
    #[error("'{prefix}' is ambiguous, it starts {}: give more digits", list(.matches))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The ids it starts.
        matches: Vec<DeployId>,
    },
}

fn list(ids: &[DeployId]) -> String {
    ids.iter()
        .map(DeployId::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Ledger {
    /// Takes the next record, with its own checksum and the place of its line in the history (bytes from the start), or says why
    /// it cannot be the next and changes nothing.
    pub fn apply(&mut self, record: &Record, sum: String, at: u64) -> Result<(), LedgerError> {
        self.check(record)?;
        match (record.verb, record.deploy) {
            (Verb::Seal, Some(id)) => self.seal(id, record, at),
            (Verb::Activate, Some(id)) => self.activate(id, record),
            (Verb::Rollback, Some(id)) => self.make_live(id, record, Trail::go_back_to),
            (Verb::Close, _) => self.close(record),
            (Verb::Lock, _) => self.lock = Some(lock_info(record)),
            (Verb::Unlock, _) => self.lock = None,
            (Verb::Remove, Some(id)) => self.remove(id),
            (Verb::Pin | Verb::Unpin, Some(id)) => self.pin(id, record),
            (Verb::Init, _) | (_, None) => {}
        }
        self.records += 1;
        *self.by_verb.entry(record.verb).or_default() += 1;
        self.last_mtime = record.last_mtime;
        self.last_sum = Some(sum);
        Ok(())
    }

    /// Says why a record cannot be the next.
    pub fn check(&self, record: &Record) -> Result<(), LedgerError> {
        if record.seq != self.next_seq() || record.prev != self.last_sum() {
            return Err(LedgerError::Chain(record.seq));
        }
        let known = record.deploy.and_then(|id| self.deploys.get(&id));
        let wrong = match record.verb {
            Verb::Init => None,
            Verb::Seal => match (record.deploy, record.content) {
                (Some(id), Some(content)) if id != DeployId::of(&content) => {
                    Some("its deploy id is not the start of its content id")
                }
                (Some(_), Some(content)) => known
                    .is_some_and(|known| known.content != content)
                    .then_some("another deploy has the same id"),
                (None, _) | (_, None) => Some("it has no deploy id or content id"),
            },
            Verb::Activate if record.channel.is_none() => Some("it has no channel"),
            Verb::Rollback if record.channel != Some(ChannelName::live()) => {
                Some("its channel is not 'live'")
            }
            Verb::Close => {
                let open = record
                    .channel
                    .as_ref()
                    .map(|name| self.channels.contains_key(name));
                (open != Some(true)).then_some("there is no such channel")
            }
            Verb::Lock => None,
            Verb::Unlock => self.lock.is_none().then_some("nothing is locked"),
            Verb::Remove if record.deploy.is_some() && self.live() == record.deploy => {
                Some("its deploy is live")
            }
            Verb::Remove if known.is_some_and(|known| known.pinned.is_some()) => {
                Some("its deploy is pinned")
            }
            Verb::Remove
                if record
                    .deploy
                    .is_some_and(|id| self.shown_by(id).next().is_some()) =>
            {
                Some("a channel shows its deploy")
            }
            Verb::Activate | Verb::Rollback | Verb::Remove | Verb::Pin | Verb::Unpin => {
                known.is_none().then_some("its deploy does not exist")
            }
        };
        match wrong {
            Some(what) => Err(LedgerError::Senseless {
                seq: record.seq,
                verb: record.verb.as_str(),
                what,
            }),
            None => Ok(()),
        }
    }

    fn seal(&mut self, id: DeployId, record: &Record, at: u64) {
        let Some(content) = record.content else {
            return;
        };
        self.last_txn.clone_from(&record.txn);
        let base = self.live().or_else(|| self.latest());
        let deploy = self.deploys.entry(id).or_insert_with(|| Sealed {
            content,
            order: record.seq,
            last_seal: record.seq,
            base,
            seals: Vec::with_capacity(1),
            activated_at: Vec::new(),
            pinned: None,
            life: None,
            shown: 0,
        });
        deploy.last_seal = record.seq;
        deploy.seals.push(SealMark {
            at,
            time: record.time,
        });
        self.by_order.insert(deploy.order, id);
    }

    fn activate(&mut self, id: DeployId, record: &Record) {
        match &record.channel {
            Some(name) if !name.is_live() => {
                let shown = channel_info(name.clone(), id, record);
                self.close(record);
                self.channels.insert(name.clone(), shown);
                if let Some(deploy) = self.deploys.get_mut(&id) {
                    deploy.shown += 1;
                }
            }
            Some(_) | None => self.make_live(id, record, Trail::go_to),
        }
    }

    fn close(&mut self, record: &Record) {
        let closed = record
            .channel
            .as_ref()
            .and_then(|name| self.channels.remove(name));
        if let Some(deploy) = closed.and_then(|closed| self.deploys.get_mut(&closed.deploy_id)) {
            deploy.shown -= 1;
        }
    }

    fn make_live(&mut self, id: DeployId, record: &Record, walk: fn(&mut Trail, Step)) {
        let before = self.live().and_then(|before| self.deploys.get_mut(&before));
        if let Some(life) = before.and_then(|before| before.life.as_mut()) {
            life.until = Some(record.time);
        }
        let Some(deploy) = self.deploys.get_mut(&id) else {
            return;
        };
        deploy.activated_at.push(record.time);
        let life = Life {
            seq: record.seq,
            until: None,
        };
        if let Some(earlier) = deploy.life.replace(life) {
            self.by_life.remove(&earlier.seq);
        }
        self.by_life.insert(record.seq, id);
        let order = deploy.order;
        walk(&mut self.trail, Step { id, order });
        self.live_since = Some(LiveSince {
            time: record.time,
            actor: record.actor.clone(),
        });
    }

    fn remove(&mut self, id: DeployId) {
        let Some(removed) = self.deploys.remove(&id) else {
            return;
        };
        self.by_order.remove(&removed.order);
        if let Some(life) = removed.life {
            self.by_life.remove(&life.seq);
            let exists = |step: &Step| exists(&self.deploys, step);
            self.trail.lose(removed.activated_at.len(), exists);
        }
    }

    fn pin(&mut self, id: DeployId, record: &Record) {
        if let Some(known) = self.deploys.get_mut(&id) {
            known.pinned = (record.verb == Verb::Pin).then(|| PinInfo {
                time: record.time,
                actor: record.actor.clone(),
                message: shortened(&record.message),
            });
        }
    }

    /// The number of the next record.
    pub fn next_seq(&self) -> u64 {
        self.records + 1
    }

    /// What the next record's `prev` must be.
    pub fn last_sum(&self) -> &str {
        self.last_sum.as_deref().unwrap_or(NO_RECORD)
    }

    /// The latest second that any seal has used as an mtime.
    pub fn last_mtime(&self) -> u64 {
        self.last_mtime
    }

    /// True where the last seal is that of this transaction.
    pub fn is_last_seal(&self, txn: &str) -> bool {
        self.last_txn.as_deref() == Some(txn)
    }

    /// All deploys that exist.
    pub fn deploys(&self) -> &BTreeMap<DeployId, Sealed> {
        &self.deploys
    }

    /// The pinned deploys.
    pub fn pinned(&self) -> impl Iterator<Item = DeployId> {
        let pinned = self.deploys.iter().filter(|(_, d)| d.pinned.is_some());
        pinned.map(|(&id, _)| id)
    }

    /// The deploy sealed last among those that exist.
    pub fn latest(&self) -> Option<DeployId> {
        self.by_order.last_key_value().map(|(_, &id)| id)
    }

    /// What is live.
    pub fn live(&self) -> Option<DeployId> {
        self.trail.steps.last().map(|step| step.id)
    }

    /// What a rollback goes to.
    pub fn previous(&self) -> Option<DeployId> {
        let live = self.live()?;
        let mut earlier = self.trail.steps.iter().rev().skip(1);
        earlier
            .find(|step| step.id != live && exists(&self.deploys, step))
            .map(|step| step.id)
    }

    /// Since when the live deploy is live.
    pub fn live_since(&self) -> Option<&LiveSince> {
        self.live_since.as_ref()
    }

    /// All channels but `live`, by name. One whose time is over is among them until that is recorded: until then its deploy
    /// is held.
    pub fn channels(&self) -> &BTreeMap<ChannelName, ChannelInfo> {
        &self.channels
    }

    /// The channels whose time is not over at this time, by name.
    pub fn channels_at(&self, now: u64) -> impl Iterator<Item = &ChannelInfo> {
        let runs = move |shown: &&ChannelInfo| shown.until.is_none_or(|until| now < until);
        self.channels.values().filter(runs)
    }

    /// What a channel shows.
    pub fn shown(&self, channel: &ChannelName) -> Option<DeployId> {
        match channel.is_live() {
            true => self.live(),
            false => self.channels.get(channel).map(|shown| shown.deploy_id),
        }
    }

    /// The channels but `live` that show this deploy.
    pub fn shown_by(&self, id: DeployId) -> impl Iterator<Item = &ChannelName> {
        let is_shown = self.deploys.get(&id).is_some_and(|deploy| deploy.shown > 0);
        let channels = is_shown.then_some(&self.channels).into_iter().flatten();
        channels.filter_map(move |(name, shown)| (shown.deploy_id == id).then_some(name))
    }

    /// The lock that nobody has taken back. After its `until` it holds nothing.
    pub fn lock(&self) -> Option<&LockInfo> {
        self.lock.as_ref()
    }

    /// The lock that holds at this time.
    pub fn lock_at(&self, now: u64) -> Option<&LockInfo> {
        let holds = |lock: &&LockInfo| lock.until.is_none_or(|until| now < until);
        self.lock.as_ref().filter(holds)
    }

    /// The deploys that exist and were live, each once, by when they last were: the live one first.
    pub fn were_live(&self) -> impl Iterator<Item = WasLive> {
        let ids = self.by_life.values().rev();
        ids.map(|&id| WasLive {
            id,
            until: self.live_until(id),
        })
    }

    /// When a deploy that was live was replaced. `None` if it is live, or never was.
    pub fn live_until(&self, id: DeployId) -> Option<u64> {
        self.deploys.get(&id)?.life?.until
    }

    /// The deploy that a person means: an id, a unique prefix of one, `live`, `previous` or `@CHANNEL`.
    pub fn find(&self, target: &str) -> Result<DeployId, TargetError> {
        match target {
            "live" => return self.live().ok_or(TargetError::NothingLive),
            "previous" => return self.previous().ok_or(TargetError::NothingPrevious),
            _ => {}
        }
        if let Some(name) = target.strip_prefix('@') {
            return self.find_shown(name);
        }
        let range =
            DeployId::range_of(target).ok_or_else(|| TargetError::Unknown(target.to_owned()))?;
        let matches: Vec<DeployId> = self.deploys.range(range).map(|(&id, _)| id).collect();
        match matches[..] {
            [] => Err(TargetError::Unknown(target.to_owned())),
            [id] => Ok(id),
            _ => Err(TargetError::Ambiguous {
                prefix: target.to_owned(),
                matches,
            }),
        }
    }

    fn find_shown(&self, name: &str) -> Result<DeployId, TargetError> {
        let unknown = || TargetError::NoChannel(name.to_owned());
        let channel: ChannelName = name.parse().map_err(|_| unknown())?;
        match channel.is_live() {
            true => self.live().ok_or(TargetError::NothingLive),
            false => self.shown(&channel).ok_or_else(unknown),
        }
    }

    /// How many records there are of each verb.
    pub fn count_by_verb(&self) -> BTreeMap<String, u64> {
        let counts = self.by_verb.iter();
        counts
            .map(|(verb, &count)| (verb.as_str().to_owned(), count))
            .collect()
    }
}

/// The way that led to the live deploy: an activation adds to it, a rollback walks back along it. A deploy that was removed stays
/// in it, and is passed over, until as much was removed as is left.
#[derive(Debug, Clone, Default)]
struct Trail {
    /// The last one is live.
    steps: Vec<Step>,
    /// At most so many steps are of deploys that were removed.
    lost: usize,
}

/// A deploy on a [`Trail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    id: DeployId,
    /// Tells it from an earlier deploy of the same id that was removed.
    order: u64,
}

impl Trail {
    fn go_to(&mut self, step: Step) {
        if self.steps.last() != Some(&step) {
            self.steps.push(step);
        }
    }

    fn go_back_to(&mut self, step: Step) {
        match self.steps.iter().rposition(|earlier| *earlier == step) {
            Some(at) => self.steps.truncate(at + 1),
            None => self.steps.push(step),
        }
    }

    /// A deploy was removed that was made live so many times.
    fn lose(&mut self, steps: usize, exists: impl Fn(&Step) -> bool) {
        self.lost += steps;
        if self.lost * 2 > self.steps.len() {
            self.steps.retain(exists);
            self.steps.dedup();
            self.lost = 0;
        }
    }
}

fn exists(deploys: &BTreeMap<DeployId, Sealed>, step: &Step) -> bool {
    let deploy = deploys.get(&step.id);
    deploy.is_some_and(|deploy| deploy.order == step.order)
}

/// The text, cut off where it is longer than [`TEXT_MAX`].
fn shortened(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_MAX).rev().find(|&at| text.is_char_boundary(at));
    format!("{}…", &text[..end.unwrap_or(0)])
}

fn channel_info(name: ChannelName, deploy_id: DeployId, record: &Record) -> ChannelInfo {
    ChannelInfo {
        warnings: name.host_warning().into_iter().collect(),
        name,
        deploy_id,
        since: record.time,
        by: record.actor.clone(),
        message: shortened(&record.message),
        until: record.until,
        path: None,
    }
}

fn lock_info(record: &Record) -> LockInfo {
    LockInfo {
        seq: record.seq,
        reason: shortened(&record.message),
        by: record.actor.clone(),
        since: record.time,
        until: record.until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::history::tests::record;

    fn content(name: &str) -> ContentId {
        ContentId::of(name.as_bytes())
    }

    fn id(name: &str) -> DeployId {
        DeployId::of(&content(name))
    }

    fn story(steps: &[(Verb, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (verb, name) in steps {
            add(&mut ledger, *verb, name).unwrap();
        }
        ledger
    }

    fn add(ledger: &mut Ledger, verb: Verb, name: &str) -> Result<(), LedgerError> {
        let mut next = record(ledger.next_seq(), verb, Some(id(name)), ledger.last_sum());
        next.content = Some(content(name));
        let sum = format!("{:064}", next.seq);
        ledger.apply(&next, sum, 0)
    }

    use Verb::{Activate, Pin, Remove, Rollback, Seal, Unpin};

    #[test]
    fn previous_goes_back_and_back_like_a_browser() {
        let seals = [(Seal, "a"), (Seal, "b"), (Seal, "c")];
        let mut ledger = story(&seals);
        for name in ["a", "b", "c"] {
            add(&mut ledger, Activate, name).unwrap();
        }
        assert_eq!(ledger.previous(), Some(id("b")));
        add(&mut ledger, Rollback, "b").unwrap();
        assert_eq!(
            (ledger.live(), ledger.previous()),
            (Some(id("b")), Some(id("a")))
        );
        add(&mut ledger, Rollback, "a").unwrap();
        assert_eq!((ledger.live(), ledger.previous()), (Some(id("a")), None));
        add(&mut ledger, Activate, "c").unwrap();
        assert_eq!(ledger.previous(), Some(id("a")));
    }

    #[test]
    fn activating_what_is_live_adds_nothing_to_the_way_back() {
        let ledger = story(&[
            (Seal, "a"),
            (Seal, "b"),
            (Activate, "a"),
            (Activate, "b"),
            (Activate, "b"),
        ]);
        assert_eq!(ledger.previous(), Some(id("a")));
    }

    #[test]
    fn a_removed_deploy_leaves_the_way_back() {
        let mut ledger = story(&[
            (Seal, "a"),
            (Seal, "b"),
            (Activate, "a"),
            (Activate, "b"),
            (Activate, "a"),
        ]);
        add(&mut ledger, Remove, "b").unwrap();
        assert_eq!((ledger.live(), ledger.previous()), (Some(id("a")), None));
        assert!(
            add(&mut ledger, Remove, "a").is_err(),
            "live cannot be removed"
        );
        assert!(
            add(&mut ledger, Activate, "b").is_err(),
            "a removed one cannot be live"
        );
    }

    /// Adds a record that is changed before.
    fn add_with(
        ledger: &mut Ledger,
        verb: Verb,
        deploy: Option<&str>,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), LedgerError> {
        let mut next = record(ledger.next_seq(), verb, deploy.map(id), ledger.last_sum());
        change(&mut next);
        let sum = format!("{:064}", next.seq);
        ledger.apply(&next, sum, 0)
    }

    #[test]
    fn a_channel_shows_a_deploy_and_leaves_what_is_live_alone() {
        let mut ledger = story(&[(Seal, "a"), (Seal, "b"), (Activate, "a")]);
        let since = ledger.live_since().cloned();
        let preview: ChannelName = "preview".parse().unwrap();
        let set = |record: &mut Record| record.channel = Some("preview".parse().unwrap());
        assert!(
            add_with(&mut ledger, Verb::Close, None, set).is_err(),
            "none is open"
        );
        add_with(&mut ledger, Activate, Some("b"), set).unwrap();
        assert_eq!((ledger.live(), ledger.previous()), (Some(id("a")), None));
        assert_eq!(ledger.live_since().cloned(), since);
        assert!(ledger.deploys()[&id("b")].activated_at.is_empty());
        assert_eq!(ledger.find("@preview"), Ok(id("b")));
        assert_eq!(ledger.find("@live"), Ok(id("a")));
        assert!(add(&mut ledger, Remove, "b").is_err(), "a channel shows it");
        add_with(&mut ledger, Verb::Close, None, set).unwrap();
        assert_eq!(ledger.shown(&preview), None);
        assert!(matches!(
            ledger.find("@preview"),
            Err(TargetError::NoChannel(_))
        ));
        add(&mut ledger, Remove, "b").unwrap();
    }

    #[test]
    fn only_live_is_rolled_back_and_an_activation_names_its_channel() {
        let mut ledger = story(&[(Seal, "a"), (Activate, "a")]);
        let set = |record: &mut Record| record.channel = Some("preview".parse().unwrap());
        assert!(add_with(&mut ledger, Rollback, Some("a"), set).is_err());
        assert!(
            add_with(&mut ledger, Activate, Some("a"), |record| record.channel =
                None)
            .is_err()
        );
    }

    #[test]
    fn a_lock_holds_until_its_time_or_until_it_is_taken_back() {
        let mut ledger = story(&[(Seal, "a")]);
        assert!(
            add_with(&mut ledger, Verb::Unlock, None, |_| {}).is_err(),
            "nothing is locked"
        );
        add_with(&mut ledger, Verb::Lock, None, |record| {
            record.until = Some(2_000_000_000)
        })
        .unwrap();
        assert_eq!(ledger.lock_at(1_999_999_999).map(|lock| lock.seq), Some(2));
        assert_eq!(ledger.lock_at(2_000_000_000), None);
        add_with(&mut ledger, Verb::Lock, None, |_| {}).unwrap();
        assert_eq!(ledger.lock_at(u64::MAX).map(|lock| lock.seq), Some(3));
        add_with(&mut ledger, Verb::Unlock, None, |_| {}).unwrap();
        assert_eq!(ledger.lock(), None);
    }

    #[test]
    fn a_pinned_deploy_cannot_be_removed_until_it_is_unpinned() {
        let mut ledger = story(&[(Seal, "a"), (Seal, "b"), (Activate, "b"), (Pin, "a")]);
        assert!(ledger.deploys()[&id("a")].pinned.is_some());
        assert!(add(&mut ledger, Remove, "a").is_err());
        add(&mut ledger, Unpin, "a").unwrap();
        add(&mut ledger, Remove, "a").unwrap();
        assert!(add(&mut ledger, Pin, "a").is_err(), "it does not exist");
        add(&mut ledger, Seal, "a").unwrap();
        assert_eq!(ledger.deploys()[&id("a")].pinned, None);
    }

    #[test]
    fn who_was_live_when_counts_from_the_seal_on() {
        let ledger = story(&[
            (Seal, "a"),     // 1
            (Seal, "b"),     // 2
            (Seal, "c"),     // 3
            (Activate, "a"), // 4
            (Activate, "b"), // 5
            (Activate, "a"), // 6
            (Activate, "c"), // 7
            (Remove, "b"),   // 8
            (Seal, "b"),     // 9
        ]);
        let was = |name, until: Option<u64>| WasLive {
            id: id(name),
            until: until.map(|seq| 1_700_000_000 + seq),
        };
        assert_eq!(
            ledger.were_live().collect::<Vec<_>>(),
            [was("c", None), was("a", Some(7))]
        );
    }

    #[test]
    fn a_gap_or_a_broken_chain_is_refused_and_changes_nothing() {
        let mut ledger = story(&[(Seal, "a")]);
        let gap = record(3, Activate, Some(id("a")), ledger.last_sum());
        assert_eq!(
            ledger.apply(&gap, String::new(), 0),
            Err(LedgerError::Chain(3))
        );
        let other = record(2, Activate, Some(id("a")), NO_RECORD);
        assert_eq!(
            ledger.apply(&other, String::new(), 0),
            Err(LedgerError::Chain(2))
        );
        assert_eq!(ledger.live(), None);
    }

    #[test]
    fn targets_are_found_by_unique_prefix_or_word() {
        let ledger = story(&[(Seal, "a"), (Seal, "b"), (Activate, "b")]);
        let text = id("a").to_string();
        assert_eq!(ledger.find(&text[..6]), Ok(id("a")));
        assert_eq!(ledger.find("live"), Ok(id("b")));
        assert_eq!(ledger.find("previous"), Err(TargetError::NothingPrevious));
        assert!(matches!(ledger.find(""), Err(TargetError::Unknown(_))));
        assert!(matches!(ledger.find("xyz"), Err(TargetError::Unknown(_))));
        assert_eq!(ledger.latest(), Some(id("b")));
    }

    #[test]
    fn an_ambiguous_prefix_names_its_matches() {
        let names: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let steps: Vec<(Verb, &str)> = names.iter().map(|name| (Seal, name.as_str())).collect();
        let ledger = story(&steps);
        let clash = ledger
            .deploys()
            .keys()
            .map(|id| id.to_string()[..1].to_owned());
        let mut firsts: Vec<String> = clash.collect();
        firsts.sort();
        let twice = firsts.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0].clone();
        let Err(TargetError::Ambiguous { matches, .. }) = ledger.find(&twice) else {
            panic!("'{twice}' starts more than one id");
        };
        assert!(matches.len() > 1);
    }

    /// The same questions, answered from all records at once.
    #[derive(Default)]
    struct Plain {
        records: Vec<Record>,
        trail: Vec<DeployId>,
    }

    impl Plain {
        fn add(&mut self, record: &Record) {
            let id = record.deploy.unwrap();
            match record.verb {
                Activate if self.trail.last() != Some(&id) => self.trail.push(id),
                Rollback => match self.trail.iter().rposition(|&earlier| earlier == id) {
                    Some(at) => self.trail.truncate(at + 1),
                    None => self.trail.push(id),
                },
                Remove => {
                    self.trail.retain(|&earlier| earlier != id);
                    self.trail.dedup();
                }
                _ => {}
            }
            self.records.push(record.clone());
        }

        fn were_live(&self, ledger: &Ledger) -> Vec<WasLive> {
            let mut found: Vec<WasLive> = Vec::new();
            let mut until = None;
            for record in self.records.iter().rev() {
                if !matches!(record.verb, Activate | Rollback) {
                    continue;
                }
                let id = record.deploy.unwrap();
                let sealed_by_then = |deploy: &Sealed| deploy.order < record.seq;
                if ledger.deploys().get(&id).is_some_and(sealed_by_then)
                    && found.iter().all(|later| later.id != id)
                {
                    found.push(WasLive { id, until });
                }
                until = Some(record.time);
            }
            found
        }
    }

    proptest::proptest! {
        #[test]
        fn every_history_gives_the_answers_of_one_that_keeps_all_records(
            steps in proptest::collection::vec((0usize..6, 0usize..6), 1..120)
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let verbs = [Seal, Activate, Activate, Rollback, Remove, Seal];
            let (mut ledger, mut plain) = (Ledger::default(), Plain::default());
            for (verb, name) in steps {
                let (verb, name) = (verbs[verb], names[name]);
                let mut next = record(ledger.next_seq(), verb, Some(id(name)), ledger.last_sum());
                next.content = Some(content(name));
                let sum = format!("{:064}", next.seq);
                if ledger.apply(&next, sum, 0).is_err() {
                    continue;
                }
                plain.add(&next);
                let earlier = plain.trail.len().checked_sub(2).map(|at| plain.trail[at]);
                proptest::prop_assert_eq!(ledger.live(), plain.trail.last().copied());
                proptest::prop_assert_eq!(ledger.previous(), earlier);
                let were_live: Vec<WasLive> = ledger.were_live().collect();
                proptest::prop_assert_eq!(were_live, plain.were_live(&ledger));
                let latest = ledger.deploys().iter().max_by_key(|(_, deploy)| deploy.order);
                proptest::prop_assert_eq!(ledger.latest(), latest.map(|(&id, _)| id));
            }
        }
    }

    #[test]
    fn long_texts_of_pins_channels_and_locks_are_kept_in_part() {
        let long = "ä".repeat(TEXT_MAX);
        let mut ledger = story(&[(Seal, "a")]);
        let set = |record: &mut Record| record.message = long.clone();
        add_with(&mut ledger, Pin, Some("a"), set).unwrap();
        add_with(&mut ledger, Verb::Lock, None, set).unwrap();
        let pin = ledger.deploys()[&id("a")].pinned.clone().unwrap();
        assert_eq!(pin.message.len(), TEXT_MAX + '…'.len_utf8());
        assert!(pin.message.ends_with("ä…"));
        assert_eq!(ledger.lock().unwrap().reason, pin.message);
    }
}
