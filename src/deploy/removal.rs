//! Pinning and removing deploys. A removal is recorded first, durably; then the deploy's file goes, then the mount is told.
//! What its bytes took is given back by `gc`.

use super::error::DeployError;
use super::{Deployfs, now};
use crate::model::DeployId;
use crate::model::history::Verb;
use crate::model::report::{Caller, PinReport, RemoveReport};
use crate::model::retention::{Reason, Retention};
use crate::store::RETENTION;

impl Deployfs {
    /// `pin`.
    pub(super) fn pin(
        &self,
        target: &str,
        message: &str,
        caller: &Caller,
    ) -> Result<PinReport, DeployError> {
        let _one = self.one_change();
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
    ) -> Result<PinReport, DeployError> {
        let _one = self.one_change();
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
        caller: &Caller,
    ) -> Result<RemoveReport, DeployError> {
        let _one = self.one_change();
        let mut ids = Vec::new();
        for target in targets {
            let id = self.find(target)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let retention = self.retention()?;
        let kept: Vec<(DeployId, Reason)> = self.store.with_ledger(|ledger| {
            let reason = |&id: &DeployId| Some((id, retention.protects(ledger, id, now())?));
            ids.iter().filter_map(reason).collect()
        });
        if !kept.is_empty() {
            return Err(DeployError::Kept(kept));
        }
        self.remove_all(&ids, message, caller)?;
        Ok(RemoveReport { removed: ids })
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

    /// Removes deploys that nothing keeps. With [`Deployfs::one_change`] held.
    fn remove_all(
        &self,
        ids: &[DeployId],
        message: &str,
        caller: &Caller,
    ) -> Result<(), DeployError> {
        let mut told = Ok(());
        for &id in ids {
            let record = self.draft_record(Verb::Remove, id, message, caller);
            self.store.record(record)?;
            self.store.drop_deploy_file(id);
            let notice = self.tell(&format!("removal of {id}"), |mounted| mounted.removed(id));
            told = told.and(notice);
        }
        told
    }
}
