//! Which deploys are kept and why: a function of the history, the clock and what was asked for.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::ids::DeployId;
use super::ledger::{Ledger, Sealed};

/// What keeps deploys from `prune`. The last two also keep them from `rm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many deploys are kept, those sealed last.
    pub keep: Option<usize>,
    /// Deploys sealed within so many seconds are kept.
    pub keep_within: Option<u64>,
    /// So many deploys are kept of those that were live, the last ones; the live one counts. With any, also what `rollback`
    /// goes to.
    pub keep_recently_live: usize,
    /// Deploys that were live within so many seconds are kept.
    pub keep_live_within: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            keep: None,
            keep_within: None,
            keep_recently_live: 5,
            keep_live_within: 86_400,
        }
    }
}

/// `retention.toml` in the store.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RetentionFile {
    keep: Option<usize>,
    keep_within: Option<Age>,
    keep_recently_live: Option<usize>,
    keep_live_within: Option<Age>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Age(u64);

impl TryFrom<String> for Age {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        parse_age(&text).map(Age)
    }
}

/// Why a deploy is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is live.
    Live,
    /// Somebody has pinned it.
    Pinned {
        /** Who. */
        actor: String,
        /** Why. */
        message: String,
    },
    /// A channel shows it.
    Shown(String),
    /// It is among the last that were live.
    RecentlyLive(usize),
    /// It was live within so many seconds.
    LiveWithin(u64),
    /// It is what `rollback` goes to.
    Previous,
    /// It is among the last that were sealed.
    Newest(usize),
    /// It was sealed within so many seconds.
    Young(u64),
}

impl Reason {
    /// One word for scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::Live => "live",
            Reason::Pinned { .. } => "pinned",
            Reason::Shown(_) => "channel",
            Reason::RecentlyLive(_) | Reason::LiveWithin(_) | Reason::Previous => "recently-live",
            Reason::Newest(_) => "newest",
            Reason::Young(_) => "young",
        }
    }

    /// What to do for it to go all the same.
    pub fn remedy(&self) -> &'static str {
        match self {
            Reason::Live => "activate another one first",
            Reason::Pinned { .. } => "'deployfs unpin' it first",
            Reason::Shown(_) => "set that channel to another one, or remove the channel, first",
            Reason::RecentlyLive(_) | Reason::Previous => {
                "wait until others have been live, lower 'keep-recently-live' in the store's retention.toml, or take it down with 'deployfs rm --now'"
            }
            Reason::LiveWithin(_) => {
                "wait, lower 'keep-live-within' in the store's retention.toml, or take it down with 'deployfs rm --now'"
            }
            Reason::Newest(_) | Reason::Young(_) => "keep fewer, or 'deployfs rm' it",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Live => write!(f, "it is live"),
            Reason::Pinned { actor, message } if message.is_empty() => {
                write!(f, "it is pinned by {actor}")
            }
            Reason::Pinned { actor, message } => write!(f, "it is pinned by {actor}: {message}"),
            Reason::Shown(channel) => write!(f, "channel '{channel}' shows it"),
            Reason::RecentlyLive(count) => write!(f, "it is among the last {count} that were live"),
            Reason::LiveWithin(seconds) => write!(f, "it was live within {}", age(*seconds)),
            Reason::Previous => write!(f, "it is what 'rollback' goes to"),
            Reason::Newest(count) => write!(f, "it is among the last {count} that were sealed"),
            Reason::Young(seconds) => write!(f, "it was sealed within {}", age(*seconds)),
        }
    }
}

/// Why a deploy must stay as long as nothing else is done first: it is live, pinned, or shown by a channel.
pub fn in_use(ledger: &Ledger, id: DeployId) -> Option<Reason> {
    if ledger.live() == Some(id) {
        return Some(Reason::Live);
    }
    if let Some(pin) = ledger.deploys().get(&id).and_then(|d| d.pinned.as_ref()) {
        return Some(Reason::Pinned {
            actor: pin.actor.clone(),
            message: pin.message.clone(),
        });
    }
    let channel = ledger.shown_by(id).next()?;
    Some(Reason::Shown(channel.to_string()))
}

impl Retention {
    /// Reads the text of a `retention.toml`; what it does not name is as by default.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: RetentionFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let default = Retention::default();
        let seconds = |age: Option<Age>| age.map(|Age(seconds)| seconds);
        Ok(Retention {
            keep: file.keep,
            keep_within: seconds(file.keep_within),
            keep_recently_live: file
                .keep_recently_live
                .unwrap_or(default.keep_recently_live),
            keep_live_within: seconds(file.keep_live_within).unwrap_or(default.keep_live_within),
        })
    }

    /// Why a deploy must stay, whoever asks for its removal; none: it may go.
    pub fn protects(&self, ledger: &Ledger, id: DeployId, now: u64) -> Option<Reason> {
        in_use(ledger, id).or_else(|| self.was_recently_live(ledger, id, now))
    }

    fn was_recently_live(&self, ledger: &Ledger, id: DeployId, now: u64) -> Option<Reason> {
        if self.keep_recently_live > 0 && ledger.previous() == Some(id) {
            return Some(Reason::Previous);
        }
        let mut recent = ledger.were_live().take(self.keep_recently_live);
        if recent.any(|was| was.id == id) {
            return Some(Reason::RecentlyLive(self.keep_recently_live));
        }
        let until = ledger.live_until(id)?;
        let recent = is_within(until, self.keep_live_within, now);
        recent.then_some(Reason::LiveWithin(self.keep_live_within))
    }

    /// Every deploy, oldest seal first, and why it is kept; none: it goes.
    pub fn plan(&self, ledger: &Ledger, now: u64) -> Vec<(DeployId, Option<Reason>)> {
        let by_seal: BTreeMap<u64, (DeployId, &Sealed)> = ledger
            .deploys()
            .iter()
            .map(|(&id, deploy)| (deploy.last_seal, (id, deploy)))
            .collect();
        let count = by_seal.len();
        let verdict = |(at, (id, deploy)): (usize, (DeployId, &Sealed))| {
            let newest = || {
                let keep = self.keep.filter(|&keep| count - at <= keep)?;
                Some(Reason::Newest(keep))
            };
            let young = || {
                let within = self.keep_within?;
                is_within(last_sealed(deploy), within, now).then_some(Reason::Young(within))
            };
            let reason = self.protects(ledger, id, now);
            (id, reason.or_else(newest).or_else(young))
        };
        by_seal.into_values().enumerate().map(verdict).collect()
    }
}

/// The clock may have been set back: what lies ahead is young.
fn is_within(time: u64, seconds: u64, now: u64) -> bool {
    now.saturating_sub(time) < seconds
}

fn last_sealed(deploy: &Sealed) -> u64 {
    deploy.seals.last().map_or(0, |seal| seal.time)
}

const UNITS: [(char, u64); 5] = [
    ('w', 604_800),
    ('d', 86_400),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];

/// Seconds as `30d`, in the largest unit that gives a whole number.
pub fn age(seconds: u64) -> String {
    let fits = |(_, unit): &&(char, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
    match UNITS.iter().find(fits) {
        Some((letter, unit)) => format!("{}{letter}", seconds / unit),
        None => "0s".into(),
    }
}

/// The seconds of `30d`, `12h`, `2w`, `90m` or `45s`.
pub fn parse_age(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("'{text}' is no time span: give a number and a unit, such as 30d, 12h or 2w");
    let letter = text.chars().last().ok_or_else(wrong)?;
    let (_, unit) = UNITS
        .iter()
        .find(|(known, _)| *known == letter)
        .ok_or_else(wrong)?;
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(*unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::history::Verb::{self, Activate, Pin, Rollback, Seal};
    use crate::model::history::tests::record;
    use crate::model::ids::ContentId;

    const DAY: u64 = 86_400;

    fn id(name: &str) -> DeployId {
        DeployId::of(&ContentId::of(name.as_bytes()))
    }

    /// A history in which each step happens in the hour of its number.
    fn story(steps: &[(Verb, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (hour, (verb, name)) in (1..).zip(steps) {
            let mut next = record(hour, *verb, Some(id(name)), ledger.last_sum());
            next.content = Some(ContentId::of(name.as_bytes()));
            next.time = hour * 3600;
            ledger.apply(&next, format!("{hour:064}"), 0).unwrap();
        }
        ledger
    }

    fn nothing_kept() -> Retention {
        Retention {
            keep_recently_live: 0,
            keep_live_within: 0,
            ..Retention::default()
        }
    }

    fn gone(retention: Retention, ledger: &Ledger, now: u64) -> Vec<DeployId> {
        let plan = retention.plan(ledger, now);
        plan.into_iter()
            .filter_map(|(id, reason)| reason.is_none().then_some(id))
            .collect()
    }

    #[test]
    fn the_live_and_the_pinned_stay_whatever_is_asked() {
        let ledger = story(&[
            (Seal, "a"),
            (Seal, "b"),
            (Seal, "c"),
            (Activate, "a"),
            (Pin, "c"),
        ]);
        assert_eq!(gone(nothing_kept(), &ledger, 900 * DAY), [id("b")]);
        let reason = nothing_kept().protects(&ledger, id("c"), 0).unwrap();
        assert_eq!(reason.to_string(), "it is pinned by root");
    }

    #[test]
    fn what_a_channel_shows_stays_and_is_not_what_was_live() {
        let mut ledger = story(&[(Seal, "a"), (Seal, "b"), (Seal, "c"), (Activate, "c")]);
        let mut next = record(5, Activate, Some(id("a")), ledger.last_sum());
        next.channel = Some("preview".parse().unwrap());
        ledger.apply(&next, "5".into(), 0).unwrap();
        assert_eq!(gone(nothing_kept(), &ledger, 900 * DAY), [id("b")]);
        let reason = nothing_kept().protects(&ledger, id("a"), 0).unwrap();
        assert_eq!(reason.to_string(), "channel 'preview' shows it");
        assert_eq!(ledger.were_live().count(), 1);
    }

    #[test]
    fn the_last_five_that_were_live_stay_by_default() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let steps: Vec<(Verb, &str)> = names
            .iter()
            .flat_map(|name| [(Seal, *name), (Activate, *name)])
            .collect();
        let ledger = story(&steps);
        assert_eq!(
            gone(Retention::default(), &ledger, 900 * DAY),
            [id("a"), id("b")]
        );
        let soon = 14 * 3600 + 3600;
        assert_eq!(
            gone(Retention::default(), &ledger, soon),
            [],
            "within a day"
        );
    }

    #[test]
    fn what_rollback_goes_to_stays() {
        let ledger = story(&[
            (Seal, "a"),
            (Seal, "b"),
            (Seal, "c"),
            (Activate, "a"),
            (Activate, "b"),
            (Activate, "c"),
            (Rollback, "b"),
        ]);
        let last_two = Retention {
            keep_recently_live: 2,
            keep_live_within: 0,
            ..Retention::default()
        };
        assert_eq!(gone(last_two, &ledger, 900 * DAY), []);
        let reason = last_two.protects(&ledger, id("a"), 900 * DAY);
        assert_eq!(reason, Some(Reason::Previous));
    }

    #[test]
    fn so_many_and_so_young_are_kept_counted_by_their_last_seal() {
        let ledger = story(&[(Seal, "a"), (Seal, "b"), (Seal, "c"), (Seal, "a")]);
        let keep = |keep, keep_within| Retention {
            keep,
            keep_within,
            ..nothing_kept()
        };
        let now = 5 * 3600;
        assert_eq!(gone(keep(Some(1), None), &ledger, now), [id("b"), id("c")]);
        assert_eq!(
            gone(keep(None, Some(2 * 3600 + 1)), &ledger, now),
            [id("b")]
        );
        assert_eq!(gone(keep(Some(9), None), &ledger, now), []);
        assert_eq!(gone(keep(Some(0), None), &ledger, now).len(), 3);
        assert_eq!(
            gone(keep(None, Some(1)), &ledger, 0),
            [],
            "the clock went back"
        );
    }

    #[test]
    fn the_file_is_read_and_a_wrong_key_or_value_is_refused_by_name() {
        let text =
            "keep = 20\nkeep-within = \"30d\"\nkeep-recently-live = 3\nkeep-live-within = \"2w\"";
        let all = Retention {
            keep: Some(20),
            keep_within: Some(30 * DAY),
            keep_recently_live: 3,
            keep_live_within: 14 * DAY,
        };
        assert_eq!(Retention::parse(text), Ok(all));
        assert_eq!(Retention::parse("# none\n"), Ok(Retention::default()));
        for (wrong, named) in [
            ("kepe = 3", "kepe"),
            ("keep = -1", "keep = -1"),
            ("keep = \"three\"", "keep = \"three\""),
            ("keep-within = \"soon\"", "'soon' is no time span"),
            ("keep-within = 30", "keep-within = 30"),
            ("keep = 3\nkeep = 4", "duplicate"),
            ("[live]", "live"),
        ] {
            let error = Retention::parse(wrong).unwrap_err();
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn spans_of_time_are_a_number_and_a_unit() {
        for (text, seconds) in [
            ("30d", 30 * DAY),
            ("2w", 14 * DAY),
            ("90m", 5400),
            ("0s", 0),
        ] {
            assert_eq!(parse_age(text), Ok(seconds));
            assert_eq!(parse_age(&age(seconds)), Ok(seconds));
        }
        for text in [
            "",
            "d",
            "30",
            "-1d",
            "1.5d",
            "30 d",
            "1y",
            "99999999999999999999d",
            "9999999999999999d",
            "3ä",
        ] {
            let error = parse_age(text).unwrap_err();
            assert!(error.contains("such as 30d"), "{error}");
        }
    }

    /// The processor time of this thread, in seconds.
    fn processor_time() -> f64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    }

    #[test]
    fn a_plan_takes_time_in_proportion_to_the_deploys() {
        let time_of = |deploys: u64| {
            let mut ledger = Ledger::default();
            for number in 0..deploys {
                let content = ContentId::of(&number.to_le_bytes());
                for verb in [Seal, Activate] {
                    let (seq, id) = (ledger.next_seq(), DeployId::of(&content));
                    let mut next = record(seq, verb, Some(id), ledger.last_sum());
                    next.content = Some(content);
                    ledger.apply(&next, format!("{seq:064}"), 0).unwrap();
                }
            }
            let started = processor_time();
            let plan = nothing_kept().plan(&ledger, 900 * DAY);
            assert_eq!(plan.len() as u64, deploys);
            processor_time() - started
        };
        let (few, many) = (time_of(500), time_of(8_000));
        // Sixteen times as many: the square would be 256 times as much.
        assert!(many < 80.0 * few.max(0.001), "{few} s and {many} s");
    }
}
