//! Locks on what is live: a person's request to the others that it stay so, and how it is passed over.

use super::error::DeployError;
use super::ingest::Watch;
use super::{Deployfs, now};
use crate::model::history::{Record, Verb};
use crate::model::report::{ActivateRequest, Caller, LockInfo};

impl Deployfs {
    /// `lock`. Refused where another lock holds, so that nobody's reason is lost.
    pub(super) fn lock(
        &self,
        reason: &str,
        until: Option<u64>,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<LockInfo, DeployError> {
        if reason.trim().is_empty() {
            return Err(DeployError::NoReason);
        }
        let _one = self.one_change_for(watch)?;
        if let Some(lock) = self.holding_lock() {
            return Err(DeployError::Locked(lock));
        }
        self.store.record(Record {
            until,
            ..self.draft_record(Verb::Lock, None, reason, caller)
        })?;
        self.last_lock().ok_or(DeployError::NotLocked)
    }

    /// `unlock`: anybody who may activate may also take a lock back; the history says who did.
    pub(super) fn unlock(
        &self,
        message: &str,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<LockInfo, DeployError> {
        let _one = self.one_change_for(watch)?;
        let lock = self.holding_lock().ok_or(DeployError::NotLocked)?;
        let record = self.draft_record(Verb::Unlock, None, message, caller);
        self.store.record(record)?;
        Ok(lock)
    }

    /// The number of the lock that the request passes over, if one holds; refused where it does not ask for that.
    pub(super) fn pass_lock(&self, request: &ActivateRequest) -> Result<Option<u64>, DeployError> {
        match self.holding_lock() {
            Some(lock) if !request.override_lock => Err(DeployError::Locked(lock)),
            lock => Ok(lock.map(|lock| lock.seq)),
        }
    }

    fn holding_lock(&self) -> Option<LockInfo> {
        self.store
            .with_ledger(|ledger| ledger.lock_at(now()).cloned())
    }

    fn last_lock(&self) -> Option<LockInfo> {
        self.store.with_ledger(|ledger| ledger.lock().cloned())
    }
}
