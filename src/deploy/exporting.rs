//! Deploys that are being exported: gc keeps them to the end of the export, also where somebody removes them.

use std::sync::PoisonError;

use super::Deployfs;
use super::error::DeployError;
use crate::model::deploy_file::DeployFile;
use crate::model::{Blob, DeployId};
use crate::sync::{Mutex, MutexGuard};

/// The deploys that are being exported, with their trees; one that is exported twice at a time is there twice.
#[derive(Default)]
pub struct Exporting(Mutex<Vec<(DeployId, Blob)>>);

impl Exporting {
    /// All of them. A gc asks after it has read the ledger.
    pub fn roots(&self) -> Vec<(DeployId, Blob)> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, Vec<(DeployId, Blob)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A deploy that no gc frees until this is dropped.
pub struct Exported<'a> {
    exporting: &'a Exporting,
    /// Its id.
    pub id: DeployId,
    /// Its facts.
    pub file: DeployFile,
}

impl Drop for Exported<'_> {
    fn drop(&mut self) {
        let mut all = self.exporting.all();
        let is_this = |one: &(DeployId, Blob)| (one.0, &one.1) == (self.id, &self.file.root);
        if let Some(at) = all.iter().position(is_this) {
            all.swap_remove(at);
        }
    }
}

impl Deployfs {
    /// Finds a deploy, and holds it against gc.
    pub(super) fn hold_for_export(&self, target: &str) -> Result<Exported<'_>, DeployError> {
        // Under one lock: a gc that misses the deploy in the ledger finds it here.
        let mut all = self.exporting.all();
        let id = self.find(target)?;
        let file = self.store.deploy_file(id)?;
        all.push((id, file.root.clone()));
        Ok(Exported {
            exporting: &self.exporting,
            id,
            file,
        })
    }
}
