//! What the history adds up to: which deploys there are, what is live, where `previous` leads, what the channels show,
//! whether what is live is locked.

use std::collections::BTreeMap;

use super::history::{NO_RECORD, Record, Verb};
use super::ids::{ContentId, DeployId};
use super::name::ChannelName;
use super::report::{ChannelInfo, LockInfo, LogEntry, PinInfo, SealInfo};

/// The state after a history, built by [`Ledger::apply`], record after record.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    records: Vec<Record>,
    last_sum: Option<String>,
    deploys: BTreeMap<DeployId, Sealed>,
    /// The trail of live deploys: an activation adds to it, a rollback walks back along it.
    trail: Vec<DeployId>,
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
    pub seals: Vec<SealInfo>,
    /// When it was made live, oldest first.
    pub activated_at: Vec<u64>,
    /// Who keeps it, if anybody does.
    pub pinned: Option<PinInfo>,
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
    /// Takes the next record, with its own checksum, or says why it cannot be the next and changes nothing.
    pub fn apply(&mut self, record: Record, sum: String) -> Result<(), LedgerError> {
        self.check(&record)?;
        match (record.verb, record.deploy) {
            (Verb::Seal, Some(id)) => self.seal(id, &record),
            (Verb::Activate, Some(id)) => self.activate(id, &record),
            (Verb::Rollback, Some(id)) => self.make_live(id, record.time, Ledger::go_back_to),
            (Verb::Close, _) => self.close(&record),
            (Verb::Lock, _) => self.lock = Some(lock_info(&record)),
            (Verb::Unlock, _) => self.lock = None,
            (Verb::Remove, Some(id)) => self.remove(id),
            (Verb::Pin | Verb::Unpin, Some(id)) => self.pin(id, &record),
            (Verb::Init, _) | (_, None) => {}
        }
        self.records.push(record);
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

    fn seal(&mut self, id: DeployId, record: &Record) {
        let Some(content) = record.content else {
            return;
        };
        let base = self.live().or_else(|| self.latest());
        let deploy = self.deploys.entry(id).or_insert_with(|| Sealed {
            content,
            order: record.seq,
            last_seal: record.seq,
            base,
            seals: Vec::new(),
            activated_at: Vec::new(),
            pinned: None,
        });
        deploy.last_seal = record.seq;
        deploy.seals.push(SealInfo {
            time: record.time,
            actor: record.actor.clone(),
            message: record.message.clone(),
            meta: record.meta.clone(),
        });
    }

    fn activate(&mut self, id: DeployId, record: &Record) {
        match &record.channel {
            Some(name) if !name.is_live() => {
                let shown = channel_info(name.clone(), id, record);
                self.channels.insert(name.clone(), shown);
            }
            Some(_) | None => self.make_live(id, record.time, Ledger::go_to),
        }
    }

    fn close(&mut self, record: &Record) {
        if let Some(name) = &record.channel {
            self.channels.remove(name);
        }
    }

    fn make_live(&mut self, id: DeployId, time: u64, walk: fn(&mut Ledger, DeployId)) {
        if let Some(known) = self.deploys.get_mut(&id) {
            known.activated_at.push(time);
        }
        walk(self, id);
    }

    fn go_to(&mut self, id: DeployId) {
        if self.live() != Some(id) {
            self.trail.push(id);
        }
    }

    fn go_back_to(&mut self, id: DeployId) {
        match self.trail.iter().rposition(|&earlier| earlier == id) {
            Some(at) => self.trail.truncate(at + 1),
            None => self.trail.push(id),
        }
    }

    fn remove(&mut self, id: DeployId) {
        self.deploys.remove(&id);
        self.trail.retain(|&earlier| earlier != id);
        self.trail.dedup();
    }

    fn pin(&mut self, id: DeployId, record: &Record) {
        if let Some(known) = self.deploys.get_mut(&id) {
            known.pinned = (record.verb == Verb::Pin).then(|| PinInfo {
                time: record.time,
                actor: record.actor.clone(),
                message: record.message.clone(),
            });
        }
    }

    /// The number of the next record.
    pub fn next_seq(&self) -> u64 {
        self.records.len() as u64 + 1
    }

    /// What the next record's `prev` must be.
    pub fn last_sum(&self) -> &str {
        self.last_sum.as_deref().unwrap_or(NO_RECORD)
    }

    /// The latest second that any seal has used as an mtime.
    pub fn last_mtime(&self) -> u64 {
        self.records.last().map_or(0, |record| record.last_mtime)
    }

    /// All records, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
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
        self.deploys
            .iter()
            .max_by_key(|(_, deploy)| deploy.order)
            .map(|(&id, _)| id)
    }

    /// What is live.
    pub fn live(&self) -> Option<DeployId> {
        self.trail.last().copied()
    }

    /// What a rollback goes to.
    pub fn previous(&self) -> Option<DeployId> {
        self.trail.len().checked_sub(2).map(|at| self.trail[at])
    }

    /// The record that made the live deploy live.
    pub fn live_record(&self) -> Option<&Record> {
        self.records
            .iter()
            .rev()
            .find(|record| record.channel.as_ref().is_some_and(ChannelName::is_live))
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
        let channels = self.channels.iter();
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
    pub fn were_live(&self) -> Vec<WasLive> {
        let mut found: Vec<WasLive> = Vec::new();
        let mut until = None;
        for record in self.records.iter().rev() {
            let is_live = record.channel.as_ref().is_some_and(ChannelName::is_live);
            let Some(id) = record.deploy.filter(|_| is_live) else {
                continue;
            };
            let sealed_by_then = |deploy: &Sealed| deploy.order < record.seq;
            if self.deploys.get(&id).is_some_and(sealed_by_then)
                && found.iter().all(|later| later.id != id)
            {
                found.push(WasLive { id, until });
            }
            until = Some(record.time);
        }
        found
    }

    /// When the seal of this transaction was recorded, if it was.
    pub fn sealed_at(&self, txn: &str) -> Option<u64> {
        let mut records = self.records.iter().rev();
        records
            .find(|record| record.txn.as_deref() == Some(txn))
            .map(|record| record.time)
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
        let fits = |id: &&DeployId| !target.is_empty() && id.to_string().starts_with(target);
        let matches: Vec<DeployId> = self.deploys.keys().filter(fits).copied().collect();
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
        let mut counts = BTreeMap::new();
        for record in &self.records {
            *counts.entry(record.verb.as_str().to_owned()).or_default() += 1;
        }
        counts
    }

    /// The history as people read it: what came after the record `after`, and, where a channel is given, is about it.
    pub fn log(&self, after: u64, channel: Option<&ChannelName>) -> Vec<LogEntry> {
        let entry = |record: &Record| LogEntry {
            seq: record.seq,
            time: record.time,
            actor: record.actor.clone(),
            verb: record.verb.as_str().to_owned(),
            channel: record.channel.clone(),
            deploy_id: record.deploy,
            until: record.until,
            overrides: record.overrides,
            message: record.message.clone(),
            meta: record.meta.clone(),
        };
        let records = self.records.iter().filter(|record| record.seq > after);
        let records =
            records.filter(|record| channel.is_none() || record.channel.as_ref() == channel);
        records.map(entry).collect()
    }
}

fn channel_info(name: ChannelName, deploy_id: DeployId, record: &Record) -> ChannelInfo {
    ChannelInfo {
        name,
        deploy_id,
        since: record.time,
        by: record.actor.clone(),
        message: record.message.clone(),
        until: record.until,
        path: None,
    }
}

fn lock_info(record: &Record) -> LockInfo {
    LockInfo {
        seq: record.seq,
        reason: record.message.clone(),
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
        ledger.apply(next, sum)
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
        ledger.apply(next, sum)
    }

    #[test]
    fn a_channel_shows_a_deploy_and_leaves_what_is_live_alone() {
        let mut ledger = story(&[(Seal, "a"), (Seal, "b"), (Activate, "a")]);
        let since = ledger.live_record().cloned();
        let preview: ChannelName = "preview".parse().unwrap();
        let set = |record: &mut Record| record.channel = Some("preview".parse().unwrap());
        assert!(
            add_with(&mut ledger, Verb::Close, None, set).is_err(),
            "none is open"
        );
        add_with(&mut ledger, Activate, Some("b"), set).unwrap();
        assert_eq!((ledger.live(), ledger.previous()), (Some(id("a")), None));
        assert_eq!(ledger.live_record().cloned(), since);
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
        assert_eq!(ledger.were_live(), [was("c", None), was("a", Some(7))]);
    }

    #[test]
    fn a_gap_or_a_broken_chain_is_refused_and_changes_nothing() {
        let mut ledger = story(&[(Seal, "a")]);
        let gap = record(3, Activate, Some(id("a")), ledger.last_sum());
        assert_eq!(ledger.apply(gap, String::new()), Err(LedgerError::Chain(3)));
        let other = record(2, Activate, Some(id("a")), NO_RECORD);
        assert_eq!(
            ledger.apply(other, String::new()),
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
}
