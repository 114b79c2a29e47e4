//! `du`: what deploys take, and what their removal would free.

use std::cmp::Reverse;
use std::collections::BTreeSet;

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
        let wanted: BTreeSet<DeployId> = targets
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
            let order = self
                .store
                .with_ledger(|ledger| ledger.deploys().get(&id).map(|deploy| deploy.order));
            if wanted.is_empty() || wanted.contains(&id) {
                numbered.push((Reverse(order), id, file.bytes, number));
            }
        }
        numbered.sort_unstable();
        let taken = usage.taken();
        let deploy = |(_, deploy_id, bytes, number): (_, DeployId, u64, u32)| {
            let taken = taken[number as usize];
            DeployUsage {
                deploy_id,
                bytes,
                stored_bytes: taken.stored,
                unique_bytes: taken.unique,
                freed_bytes: taken.freed,
            }
        };
        let deploys = numbered.into_iter().map(deploy).collect();
        Ok(UsageReport {
            deploys,
            pack_bytes: self.store.pack_bytes(),
        })
    }
}
