//! What a store has acknowledged, and whether it holds to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Deployfs;
use super::super::ingest::Watch;
use super::super::mounted::Content;
use super::sources::Files;
use crate::model::history::Record;
use crate::model::ledger::Ledger;
use crate::model::{Blob, ChannelName, DeployId, Node};

const SET: &str = "activate@preview";
const CLOSED: &str = "close@preview";

/// What a client was told.
#[derive(Clone, Default)]
pub struct Model {
    /// `init` has returned.
    pub made: bool,
    pub deploys: BTreeMap<DeployId, Known>,
    pub live: Option<DeployId>,
    pub pinned: BTreeSet<DeployId>,
    /// By the one channel that there may be.
    pub shown: Option<DeployId>,
    /// Verb and deploy of each record.
    pub log: Vec<(String, Option<DeployId>)>,
    /// Reads fail: a deploy that cannot be read is written anew when its content is sealed again, with other mtimes.
    pub renews: bool,
    /// What has begun and may be recorded, though nobody was told.
    pub doing: Vec<Doing>,
}

/// An acknowledged deploy.
#[derive(Clone)]
pub struct Known {
    /// Its stored root: fixes all below it, mtimes too.
    pub root: Blob,
    pub files: Arc<Files>,
}

/// A change under way.
#[derive(Clone)]
pub enum Doing {
    Seal(Arc<Files>),
    /// From a staging folder.
    SealStaged(Arc<Files>),
    Live(&'static str, DeployId),
    Pin(&'static str, DeployId),
    /// By the channel; none: it is closed.
    Show(Option<DeployId>),
    /// Of any of these.
    Remove(BTreeSet<DeployId>),
}

impl Model {
    /// What the staging folder holds.
    pub fn staged(&self) -> Option<Arc<Files>> {
        self.doing.iter().rev().find_map(|doing| match doing {
            Doing::SealStaged(files) => Some(files.clone()),
            _ => None,
        })
    }

    /// A seal has returned.
    pub fn sealed(
        &mut self,
        flow: &Deployfs,
        id: DeployId,
        files: Arc<Files>,
    ) -> Result<(), String> {
        let root = flow.store.deploy_file(id).map_err(|e| e.to_string())?.root;
        let known = self.deploys.entry(id).or_insert(Known {
            root: root.clone(),
            files,
        });
        if known.root != root && !self.renews {
            return Err(format!(
                "deploy {id} has another root since it was sealed again"
            ));
        }
        known.root = root;
        self.log.push(("seal".into(), Some(id)));
        self.doing.clear();
        Ok(())
    }

    /// A pin has been set or taken back.
    pub fn pinned(&mut self, verb: &str, id: DeployId) {
        match verb {
            "pin" => self.pinned.insert(id),
            _ => self.pinned.remove(&id),
        };
        self.log.push((verb.into(), Some(id)));
        self.doing.clear();
    }

    /// The channel shows this; none: it is closed.
    pub fn shows(&mut self, id: Option<DeployId>) {
        self.shown = id;
        let verb = if id.is_some() { SET } else { CLOSED };
        self.log.push((verb.into(), id));
        self.doing.clear();
    }

    /// A deploy is gone.
    pub fn removed(&mut self, id: DeployId) -> Result<(), String> {
        if [self.live, self.shown].contains(&Some(id)) || self.pinned.contains(&id) {
            return Err(format!("deploy {id} is shown or pinned, and was removed"));
        }
        self.deploys.remove(&id);
        self.log.push(("remove".into(), Some(id)));
        Ok(())
    }

    /// An activation or rollback has returned.
    pub fn activated(&mut self, verb: &str, id: DeployId) {
        self.live = Some(id);
        self.log.push((verb.into(), Some(id)));
        self.doing.clear();
    }

    /// Everything acknowledged is there, whole, nothing else but what was under way, and the store finds itself in order.
    pub fn check(&mut self, flow: &Deployfs) -> Result<(), String> {
        self.catch_up(flow)?;
        self.compare(flow)
    }

    /// After an opening: what was under way and is recorded counts as acknowledged from now on.
    pub fn catch_up(&mut self, flow: &Deployfs) -> Result<(), String> {
        let mut log: Vec<(String, Option<DeployId>)> = Vec::new();
        let read = flow
            .store
            .each_record(|record| log.push((word(&record), record.deploy)));
        read.map_err(|error| error.to_string())?;
        let acknowledged = self.log.clone();
        let lost = || format!("the history was {:?}, it is {log:?}", acknowledged);
        let (known, more) = log.split_at_checked(self.log.len()).ok_or_else(lost)?;
        if known != self.log {
            return Err(lost());
        }
        let doing = std::mem::take(&mut self.doing);
        for (verb, id) in more {
            // One change makes one record, but several deploys may be removed in one.
            if more.len() > 1 && verb != "remove" {
                return Err(lost());
            }
            if [SET, CLOSED].contains(&verb.as_str()) {
                let was_begun = |doing: &Doing| matches!(doing, Doing::Show(to) if to == id);
                doing
                    .iter()
                    .find(|doing| was_begun(doing))
                    .ok_or_else(lost)?;
                self.shows(*id);
                continue;
            }
            self.adopt(flow, &doing, verb, id.ok_or_else(lost)?)?;
        }
        Ok(())
    }

    fn adopt(
        &mut self,
        flow: &Deployfs,
        doing: &[Doing],
        verb: &str,
        id: DeployId,
    ) -> Result<(), String> {
        for doing in doing {
            match doing {
                Doing::Seal(files) | Doing::SealStaged(files) if verb == "seal" => {
                    let file = flow.store.deploy_file(id).map_err(|e| e.to_string())?;
                    if files_of(flow, &file.root)? == **files {
                        return self.sealed(flow, id, files.clone());
                    }
                }
                Doing::Live(as_verb, target) if *as_verb == verb && *target == id => {
                    self.activated(verb, id);
                    return Ok(());
                }
                Doing::Pin(as_verb, target) if *as_verb == verb && *target == id => {
                    self.pinned(verb, id);
                    return Ok(());
                }
                Doing::Remove(ids) if verb == "remove" && ids.contains(&id) => {
                    return self.removed(id);
                }
                _ => {}
            }
        }
        Err(format!(
            "'{verb}' of {id} is recorded, and was not under way"
        ))
    }

    fn compare(&self, flow: &Deployfs) -> Result<(), String> {
        let (live, ids, pinned) = flow.store.with_ledger(|ledger| {
            let ids: Vec<DeployId> = ledger.deploys().keys().copied().collect();
            let pinned: BTreeSet<DeployId> = ledger.pinned().collect();
            (ledger.live(), ids, pinned)
        });
        let shown = |ledger: &Ledger| ledger.shown(&channel());
        if flow.store.with_ledger(shown) != self.shown {
            return Err(format!("the channel does not show {:?}", self.shown));
        }
        if pinned != self.pinned {
            return Err(format!("{pinned:?} are pinned, not {:?}", self.pinned));
        }
        if live != self.live {
            return Err(format!("{live:?} is live, not {:?}", self.live));
        }
        if !ids.iter().eq(self.deploys.keys()) {
            return Err(format!("there are {ids:?}, not {:?}", self.deploys.keys()));
        }
        for (id, known) in &self.deploys {
            let file = flow.store.deploy_file(*id).map_err(|e| e.to_string())?;
            if file.root != known.root {
                return Err(format!("deploy {id} has another root"));
            }
        }
        let nobody = std::sync::atomic::AtomicBool::new(false);
        let watch = Watch {
            progress: &|_| {},
            cancel: &nobody,
        };
        let found = flow.fsck(true, &watch).map_err(|e| e.to_string())?;
        let wrong = |problem: &&String| !problem.contains("has stopped taking changes");
        match found.problems.iter().find(wrong) {
            None => Ok(()),
            Some(problem) => Err(format!("fsck: {problem}")),
        }
    }

    /// Reads every acknowledged deploy as a view does, and compares it byte by byte with what was deployed.
    pub fn read(&self, flow: &Deployfs) -> Result<(), String> {
        for (id, known) in &self.deploys {
            if files_of(flow, &known.root).map_err(|what| format!("deploy {id}: {what}"))?
                != *known.files
            {
                return Err(format!("deploy {id} holds other bytes than were sealed"));
            }
        }
        Ok(())
    }
}

/// The channel there may be.
pub fn channel() -> ChannelName {
    "preview".parse().expect("a name")
}

/// A record's verb, and whether it is about the channel.
fn word(record: &Record) -> String {
    let verb = record.verb.as_str();
    match &record.channel {
        Some(name) if !name.is_live() => format!("{verb}@preview"),
        Some(_) | None => verb.to_owned(),
    }
}

fn files_of(flow: &Deployfs, root: &Blob) -> Result<Files, String> {
    fn walk(flow: &Deployfs, tree: &Blob, below: &str, files: &mut Files) -> Result<(), String> {
        let wrong = |error: crate::store::StoreError| format!("{below}: {error}");
        for entry in flow.tree(tree).map_err(wrong)?.entries() {
            let path = format!("{below}{}", entry.name);
            match &entry.node {
                Node::File(blob) => {
                    let bytes = flow.read(blob, 0, blob.len as u32).map_err(wrong)?;
                    files.insert(path, bytes);
                }
                Node::Symlink(target) => {
                    files.insert(path, [b"-> ", &target[..]].concat());
                }
                Node::Dir { tree, .. } => walk(flow, tree, &format!("{path}/"), files)?,
            }
        }
        Ok(())
    }
    let mut files = Files::new();
    walk(flow, root, "", &mut files)?;
    Ok(files)
}
