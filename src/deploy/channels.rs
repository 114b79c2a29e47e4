//! Channels: named pointers beside `live`, each a folder of the mount, flipped and recorded as `live` is.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};

use super::error::DeployError;
use super::hook::Flipped;
use super::ingest::Watch;
use super::{Deployfs, now};
use crate::model::ChannelName;
use crate::model::history::{Record, Verb};
use crate::model::ledger::TargetError;
use crate::model::report::{Caller, ChannelInfo};

/// Whose name stands in the history where a channel's time is over.
const ITSELF: &str = "deployfs";
/// A clock may be set meanwhile: no wait for the end of a channel is longer.
const LONGEST_WAIT: u64 = 60;

/// Wakes the thread that takes channels away, when there is a new end to wait for.
#[derive(Default)]
pub struct Expiry(OnceLock<Sender<()>>);

impl Deployfs {
    /// `channel set`.
    pub(super) fn set_channel(
        &self,
        name: &ChannelName,
        target: &str,
        until: Option<u64>,
        message: &str,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<ChannelInfo, DeployError> {
        if name.is_live() {
            return Err(DeployError::LiveChannel(target.to_owned()));
        }
        if let Some(until) = until.filter(|&until| until <= now()) {
            return Err(DeployError::EndIsOver(until));
        }
        let _one = self.one_change_for(watch)?;
        let id = self.find(target)?;
        let before = self.store.with_ledger(|ledger| ledger.shown(name));
        // As for `live`: what cannot be shown is not recorded.
        let root = self.root_of(id)?;
        self.content_tree(&root.tree)?;
        self.store.record(Record {
            channel: Some(name.clone()),
            until,
            ..self.draft_record(Verb::Activate, id, message, caller)
        })?;
        if let Some(thread) = self.expiry.0.get().filter(|_| until.is_some()) {
            // It ends with the daemon.
            thread.send(()).ok();
        }
        self.tell(&format!("channel '{name}' to {id}"), |mounted| {
            mounted.flip(name, &root)
        })?;
        if before != Some(id) {
            self.announce(Flipped {
                verb: Verb::Activate,
                channel: name.clone(),
                deploy: id,
                before,
                actor: caller.name.clone(),
                message: message.to_owned(),
            });
        }
        self.channel(name)
    }

    /// `channel rm`.
    pub(super) fn close_channel(
        &self,
        name: &ChannelName,
        message: &str,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<ChannelInfo, DeployError> {
        if name.is_live() {
            return Err(DeployError::LiveChannel("ID".into()));
        }
        let _one = self.one_change_for(watch)?;
        let shown = self.channel(name)?;
        self.close(self.draft_record(Verb::Close, None, message, caller), name)?;
        Ok(shown)
    }

    /// `channel list`.
    pub(super) fn channels(&self) -> Vec<ChannelInfo> {
        self.store
            .with_ledger(|ledger| ledger.channels_at(now()).cloned().collect())
    }

    fn channel(&self, name: &ChannelName) -> Result<ChannelInfo, DeployError> {
        let found = self
            .store
            .with_ledger(|ledger| ledger.channels().get(name).cloned());
        Ok(found.ok_or_else(|| TargetError::NoChannel(name.to_string()))?)
    }

    fn close(&self, record: Record, name: &ChannelName) -> Result<(), DeployError> {
        self.store.record(Record {
            channel: Some(name.clone()),
            ..record
        })?;
        self.tell(&format!("the end of channel '{name}'"), |mounted| {
            mounted.closed(name)
        })
    }

    /// Takes every channel away whose time is over, and records that. A disk that takes no record must not keep what is live
    /// from being served.
    pub(super) fn close_or_log(&self) {
        if let Err(error) = self.close_what_is_over() {
            log::error!("a channel whose time is over cannot be taken away: {error}");
        }
    }

    fn close_what_is_over(&self) -> Result<(), DeployError> {
        let _one = self.one_change();
        let over: Vec<ChannelName> = self.store.with_ledger(|ledger| {
            let is_over = |shown: &&ChannelInfo| shown.until.is_some_and(|until| until <= now());
            let over = ledger.channels().values().filter(is_over);
            over.map(|shown| shown.name.clone()).collect()
        });
        for name in over {
            let itself = Caller {
                name: ITSELF.into(),
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            };
            self.close(
                self.draft_record(Verb::Close, None, "its time is over", &itself),
                &name,
            )?;
        }
        Ok(())
    }

    /// From now on a thread takes channels away when their time is over.
    pub fn close_channels_in_time(self: &Arc<Self>) -> io::Result<()> {
        let (wake, woken) = unbounded();
        let flow = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("expiry".into())
            .spawn(move || {
                while let Some(wait) = flow.upgrade().map(|flow| flow.close_and_wait()) {
                    if woken.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                        break;
                    }
                }
            })?;
        self.expiry.0.set(wake).ok();
        Ok(())
    }

    /// How long until the next look.
    fn close_and_wait(&self) -> Duration {
        self.close_or_log();
        let next = self.store.with_ledger(|ledger| {
            ledger
                .channels()
                .values()
                .filter_map(|shown| shown.until)
                .min()
        });
        let wait = next.map_or(LONGEST_WAIT, |until| until.saturating_sub(now()));
        Duration::from_secs(wait.clamp(1, LONGEST_WAIT))
    }
}
