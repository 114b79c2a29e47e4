//! Pinning and removing deploys. A removal is recorded first, durably; then the deploy's file goes, then the mount is told.
//! What its bytes took is given back by `gc`.

use super::error::DeployError;
use super::ingest::Watch;
use super::{Deployfs, now};
use crate::model::DeployId;
use crate::model::history::Verb;
use crate::model::report::{
    Caller, KeptDeploy, PinReport, PruneReport, PruneRequest, RemoveReport,
};
use crate::model::retention::{Reason, Retention, in_use};
use crate::store::RETENTION;

impl Deployfs {
    /// `pin`.
    pub(super) fn pin(
        &self,
        target: &str,
        message: &str,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<PinReport, DeployError> {
        let _one = self.one_change_for(watch)?;
        let id = self.find(target)?;
        let record = self.draft_record(Verb::Pin, id, message, caller);
        self.store.record(record)?;
        Ok(self.pin_report(id, false))
    }

    /// `unpin`.
    pub(super) fn unpin(
        &self,
        target: &str,
        message: &str,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<PinReport, DeployError> {
        let _one = self.one_change_for(watch)?;
        let id = self.find(target)?;
        let unchanged = self.pin_report(id, true);
        if unchanged.pinned.is_none() {
            return Ok(unchanged);
        }
        let record = self.draft_record(Verb::Unpin, id, message, caller);
        self.store.record(record)?;
        Ok(self.pin_report(id, false))
    }

    fn pin_report(&self, deploy_id: DeployId, unchanged: bool) -> PinReport {
        let deploy = |ledger: &crate::model::ledger::Ledger| {
            let deploy = ledger.deploys().get(&deploy_id);
            deploy.and_then(|deploy| deploy.pinned.clone())
        };
        PinReport {
            deploy_id,
            pinned: self.store.with_ledger(deploy),
            unchanged,
        }
    }

    /// `rm`.
    pub(super) fn remove(
        &self,
        targets: &[String],
        message: &str,
        also_recently_live: bool,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<RemoveReport, DeployError> {
        let _one = self.one_change_for(watch)?;
        let mut ids = Vec::new();
        for target in targets {
            let id = self.find(target)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        // A file that is not understood must not stand in the way of a takedown.
        let retention = match also_recently_live {
            true => None,
            false => Some(self.retention()?),
        };
        let reason = |&id: &DeployId| {
            let reason = match &retention {
                Some(retention) => self.reason_now(retention, id),
                None => self.store.with_ledger(|ledger| in_use(ledger, id)),
            };
            Some((id, reason?))
        };
        let kept: Vec<(DeployId, Reason)> = ids.iter().filter_map(reason).collect();
        if !kept.is_empty() {
            return Err(DeployError::Kept(kept));
        }
        let mut told = Ok(());
        for (count, &id) in ids.iter().enumerate() {
            let removed = self.remove_one(id, message, caller);
            told = told.and(removed.map_err(|error| error.after_removing(&ids[..count]))?);
        }
        told.map(|()| RemoveReport {
            removed: ids,
            ..RemoveReport::default()
        })
    }

    /// What the store's `retention.toml` says, else the default.
    fn retention(&self) -> Result<Retention, DeployError> {
        let Some(text) = self.store.retention_text()? else {
            return Ok(Retention::default());
        };
        Retention::parse(&text).map_err(|what| DeployError::RetentionFile {
            path: self.store.root().join(RETENTION),
            what,
        })
    }

    /// `prune`.
    pub(super) fn prune(
        &self,
        request: &PruneRequest,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<PruneReport, DeployError> {
        let retention = self.asked_retention(request)?;
        let plan = self
            .store
            .with_ledger(|ledger| retention.plan(ledger, now()));
        let mut report = PruneReport {
            dry_run: request.dry_run,
            ..PruneReport::default()
        };
        let mut told = Ok(());
        for (id, mut reason) in plan {
            let so_far = |error: DeployError| match request.dry_run {
                true => error,
                false => error.after_removing(&report.removed),
            };
            watch.check().map_err(so_far)?;
            if reason.is_none() && !request.dry_run {
                // One by one: an activation waits for one of them at most, and is seen by the next.
                let _one = self.one_change();
                reason = self.reason_now(&retention, id);
                if reason.is_none() && self.exists(id) {
                    let removed = self.remove_one(id, &request.message, caller);
                    told = told.and(removed.map_err(so_far)?);
                }
            }
            match reason {
                None => report.removed.push(id),
                Some(reason) => report.kept.push(KeptDeploy {
                    deploy_id: id,
                    reason: reason.word().into(),
                    why: reason.to_string(),
                }),
            }
        }
        told.map(|()| report)
    }

    /// The flags, over what the store's file or the default says.
    fn asked_retention(&self, request: &PruneRequest) -> Result<Retention, DeployError> {
        let mut retention = self.retention()?;
        if request.keep.is_some() || request.keep_within.is_some() {
            retention.keep = request.keep;
            retention.keep_within = request.keep_within;
        }
        if let Some(seconds) = request.keep_live_within {
            retention.keep_live_within = seconds;
        }
        if retention.keep.is_none() && retention.keep_within.is_none() {
            return Err(DeployError::KeepWhat(self.store.root().join(RETENTION)));
        }
        Ok(retention)
    }

    fn reason_now(&self, retention: &Retention, id: DeployId) -> Option<Reason> {
        self.store
            .with_ledger(|ledger| retention.protects(ledger, id, now()))
    }

    fn exists(&self, id: DeployId) -> bool {
        self.store
            .with_ledger(|ledger| ledger.deploys().contains_key(&id))
    }

    /// Removes a deploy that nothing keeps; the inner error: it is removed, but the mount could not be told. With
    /// [`Deployfs::one_change`] held.
    fn remove_one(
        &self,
        id: DeployId,
        message: &str,
        caller: &Caller,
    ) -> Result<Result<(), DeployError>, DeployError> {
        let record = self.draft_record(Verb::Remove, id, message, caller);
        self.note_removal(id);
        self.store.record(record)?;
        self.store.drop_deploy_file(id);
        Ok(self.tell(&format!("removal of {id}"), |mounted| mounted.removed(id)))
    }
}
