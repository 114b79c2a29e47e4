//! Deploys that are recorded and cannot be read: visitors get an error, never an empty folder.

use super::Deployfs;
use super::mounted::Root;
use crate::model::report::UnreadableDeploy;
use crate::model::{ChannelName, DeployId};

impl Deployfs {
    /// What a view shows of a deploy; where its file cannot be read, a folder in which everything is an error.
    pub(super) fn root_or_error(&self, id: DeployId) -> Root {
        self.root_of(id).unwrap_or_else(|error| {
            log::error!("deploy {id} cannot be read, and is shown as an error: {error}");
            let deploys = |ledger: &crate::model::ledger::Ledger| {
                ledger.deploys().get(&id).map_or(0, |deploy| deploy.order)
            };
            Root::unreadable(id, self.store.with_ledger(deploys))
        })
    }

    /// The deploys whose file, or whose root folder where visitors are shown it, cannot be read.
    pub(super) fn unreadable(&self) -> Vec<UnreadableDeploy> {
        let (without_file, shown) = self.store.with_ledger(|ledger| {
            let live = ledger.live().map(|id| (ChannelName::live(), id));
            let channels = ledger.channels().values();
            let channels = channels.map(|shown| (shown.name.clone(), shown.deploy_id));
            let shown: Vec<(ChannelName, DeployId)> = live.into_iter().chain(channels).collect();
            (self.store.without_file(ledger.deploys().keys()), shown)
        });
        let mut ids = without_file;
        ids.extend(shown.iter().map(|(_, id)| *id));
        ids.sort_unstable();
        ids.dedup();
        let problem = |id: DeployId| {
            let root = self.root_of(id).map_err(|error| error.to_string());
            let tree = root.and_then(|root| self.tree_of(&root).map_err(|error| error.to_string()));
            tree.err()
        };
        ids.into_iter()
            .filter_map(|id| {
                let channels = shown.iter().filter(|(_, shown)| *shown == id);
                Some(UnreadableDeploy {
                    problem: problem(id)?,
                    deploy_id: id,
                    channels: channels.map(|(name, _)| name.clone()).collect(),
                })
            })
            .collect()
    }

    fn tree_of(&self, root: &Root) -> Result<(), crate::store::StoreError> {
        use super::mounted::Content;
        self.sealed_tree(&root.tree).map(drop)
    }
}
