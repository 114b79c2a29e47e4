//! `du`: what deploys take, and what their removal would free.

use super::Deployfs;
use super::error::DeployError;
use super::ingest::Watch;
use crate::model::DeployId;
use crate::model::report::{DeployUsage, UsageReport};

impl Deployfs {
    /// `du`; no targets: all deploys, newest first.
    pub(super) fn usage(
        &self,
        targets: &[String],
        watch: &Watch<'_>,
    ) -> Result<UsageReport, DeployError> {
        let wanted: Vec<DeployId> = targets
            .iter()
            .map(|target| self.find(target))
            .collect::<Result<_, _>>()?;
        let packs = {
            let _no_seal = self.no_seal();
            self.store.list_packs()
        };
        let mut usage = self.store.usage(packs)?;
        let mut numbered = Vec::new();
        for (id, file) in self.kept_files()? {
            watch.check()?;
            let uncounted = |cause| DeployError::Uncounted { id, cause };
            let number = usage.add(&file.root).map_err(uncounted)?;
            numbered.push((id, file, number));
        }
        let order = |id: &DeployId| {
            self.store
                .with_ledger(|ledger| ledger.deploys().get(id).map(|deploy| deploy.order))
        };
        numbered.sort_by_key(|(id, ..)| std::cmp::Reverse(order(id)));
        let mut deploys = Vec::new();
        for (id, file, number) in numbered {
            if !wanted.is_empty() && !wanted.contains(&id) {
                continue;
            }
            watch.check()?;
            let uncounted = |cause| DeployError::Uncounted { id, cause };
            let taken = usage.taken(number, &file.root).map_err(uncounted)?;
            deploys.push(DeployUsage {
                deploy_id: id,
                bytes: file.bytes,
                stored_bytes: taken.stored,
                unique_bytes: taken.unique,
                freed_bytes: taken.freed,
            });
        }
        Ok(UsageReport {
            deploys,
            pack_bytes: self.store.pack_bytes(),
        })
    }
}
