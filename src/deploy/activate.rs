//! Making a deploy live: record first, durably; then flip what is mounted; then answer.

use std::time::Instant;

use super::Deployfs;
use super::error::DeployError;
use super::hook::Flipped;
use super::ingest::Watch;
use crate::model::ChannelName;
use crate::model::history::{Record, Verb};
use crate::model::report::{ActivateReport, ActivateRequest, Caller};

impl Deployfs {
    /// `activate` and `rollback`.
    pub(super) fn make_live(
        &self,
        verb: Verb,
        request: &ActivateRequest,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<ActivateReport, DeployError> {
        let _one = self.one_change_for(watch)?;
        let id = self.find(request.target.as_deref().unwrap_or("previous"))?;
        let before = self.store.with_ledger(|ledger| ledger.live());
        if let Some(expected) = &request.if_live {
            let holds = match expected.as_str() {
                "none" => before.is_none(),
                target => before.is_some() && self.find(target).ok() == before,
            };
            if !holds {
                return Err(DeployError::NotLive {
                    expected: expected.clone(),
                    live: before,
                });
            }
        }
        let overrides = self.pass_lock(request)?;
        // Read before anything is recorded: a deploy that cannot be shown must not become live.
        let root = self.root_of(id)?;
        self.content_tree(&root.tree)?;
        let unchanged = before == Some(id);
        let mut report = ActivateReport {
            deploy_id: id,
            before,
            unchanged,
            flip_micros: None,
            warnings: Vec::new(),
        };
        if request.dry_run {
            return Ok(report);
        }
        self.store.record(Record {
            channel: Some(ChannelName::live()),
            overrides,
            ..self.draft_record(verb, id, &request.message, caller)
        })?;
        self.tell(&format!("activation of {id}"), |mounted| {
            let started = Instant::now();
            mounted.flip(&ChannelName::live(), &root)?;
            report.flip_micros = Some(started.elapsed().as_micros() as u64);
            Ok(())
        })?;
        if !unchanged {
            self.announce(Flipped {
                verb,
                channel: ChannelName::live(),
                deploy: id,
                before,
                actor: caller.name.clone(),
                message: request.message.clone(),
            });
        }
        Ok(report)
    }
}
