//! `verify` and `fsck`: reads what the history promises and says what is missing or damaged. Changes nothing.

use std::collections::HashSet;

use super::packs::Survey;
use super::{DEPLOYS, Store, format, read_deploy_file};
use crate::model::content::tree_content_id;
use crate::model::report::CheckReport;
use crate::model::{Blob, ChunkId, ContentId, DeployId, Layout, Node};

/// Walks deploys; what several share is looked at once.
pub struct Checker<'a> {
    store: &'a Store,
    /// Told what has been found so far; false: stop.
    goes_on: &'a dyn Fn(&CheckReport) -> bool,
    stopped: bool,
    report: CheckReport,
    trees: HashSet<(ContentId, ContentId)>,
    chunks: HashSet<ChunkId>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(store: &'a Store, goes_on: &'a dyn Fn(&CheckReport) -> bool) -> Self {
        Checker {
            store,
            goes_on,
            stopped: false,
            report: CheckReport::default(),
            trees: HashSet::new(),
            chunks: HashSet::new(),
        }
    }

    /// Checks the history, the deploy files and the packs' footers.
    pub fn check_store(&mut self) {
        let store = self.store;
        if let Err(error) = format::read(&*store.disk, &store.root) {
            self.problem(error);
        }
        let journal = store.journal.read().expect("no panic under this lock");
        journal
            .check()
            .into_iter()
            .for_each(|error| self.problem(error));
        drop(journal);
        self.each_pack(|checker, _, survey| {
            survey
                .problems
                .iter()
                .for_each(|error| checker.problem(error));
            checker.report.notes.extend(survey.notes);
        });
        if let Some(what) = store.packs.check_index() {
            let note = format!("'index': {what}; it is filled again from the packs");
            self.report.notes.push(note);
            store.fill_index();
        }
    }

    /// Reads every record of every pack, also those that no deploy needs. `goes_on` may stop it.
    pub fn check_all_data(&mut self, goes_on: &dyn Fn() -> bool) {
        let store = self.store;
        self.each_pack(|checker, number, survey| {
            for (id, place) in &survey.places {
                if !goes_on() {
                    return;
                }
                match store.packs.check_stored(id, number, place) {
                    Ok(()) => {}
                    Err(error) if store.packs.has_whole_copy(id) => {
                        let note = format!("{error}; another copy is whole");
                        checker.report.notes.push(note);
                    }
                    Err(error) if survey.is_finished && store.packs.is_finished(number) => {
                        // Whoever needs it is to know.
                        let _ = store.read_chunk(id);
                        checker.problem(error);
                    }
                    // A crash may have left a header without its payload; what a deploy needs is reported with its path.
                    Err(error) => checker.report.notes.push(error.to_string()),
                }
            }
        });
    }

    fn each_pack(&mut self, mut look: impl FnMut(&mut Self, u32, Survey)) {
        let store = self.store;
        match store.packs.surveys() {
            Err(error) => self.problem(error),
            Ok(surveys) => {
                for (number, survey) in surveys {
                    match survey {
                        Ok(survey) => look(self, number, survey),
                        Err(error) => self.problem(error),
                    }
                }
            }
        }
    }

    /// Checks one deploy: its file, every tree, every chunk's presence; with `read_data` every byte. One that is removed
    /// meanwhile is passed over.
    pub fn check_deploy(&mut self, id: DeployId, read_data: bool) {
        let store = self.store;
        let sealed =
            || store.with_ledger(|ledger| ledger.deploys().get(&id).map(|d| (d.order, d.content)));
        self.report.deploys += 1;
        while let Some(now @ (_, content)) = sealed() {
            let found = self.report.problems.len();
            let suspects = store.suspects();
            self.check_sealed(id, content, read_data);
            if self.report.problems.len() == found || sealed() == Some(now) {
                return;
            }
            // It has gone, and perhaps come again: what was missing says nothing, also of what others share with it.
            self.report.problems.truncate(found);
            store.forget_lost_suspects(|one| !suspects.contains(one));
            self.trees.clear();
            self.chunks.clear();
        }
    }

    fn check_sealed(&mut self, id: DeployId, content: ContentId, read_data: bool) {
        // From the disk: the store has read it when it was opened.
        let file = match read_deploy_file(&*self.store.disk, id) {
            Ok(file) => file,
            Err(error) => return self.problem(error),
        };
        if content != file.content {
            self.problem(format!(
                "deploy file '{DEPLOYS}/{id}' has another content id than the history"
            ));
        }
        self.check_tree(&format!("{id}:/"), &file.root, file.content, read_data);
    }

    /// What was found.
    pub fn finish(self) -> CheckReport {
        self.report
    }

    fn problem(&mut self, what: impl ToString) {
        let what = what.to_string();
        if !self.report.problems.contains(&what) {
            self.report.problems.push(what);
        }
    }

    fn goes_on(&mut self) -> bool {
        self.stopped |= !(self.goes_on)(&self.report);
        !self.stopped
    }

    fn check_tree(&mut self, path: &str, blob: &Blob, content: ContentId, read_data: bool) {
        if !self.goes_on() || !self.trees.insert((blob.id, content)) {
            return;
        }
        self.report.objects += 1;
        let tree = match self.store.read_tree(blob) {
            Ok(tree) => tree,
            Err(error) => return self.problem(format!("{path}: {error}")),
        };
        if tree_content_id(&tree) != content {
            self.problem(format!(
                "{path}: the tree does not have the content id it is named by"
            ));
        }
        for entry in tree.entries() {
            let below = format!("{path}{}", entry.name);
            match &entry.node {
                Node::File(blob) => self.check_file(&below, blob, read_data),
                Node::Symlink(_) => {}
                Node::Dir { content, tree } => {
                    self.check_tree(&format!("{below}/"), tree, *content, read_data);
                }
            }
        }
    }

    fn check_file(&mut self, path: &str, blob: &Blob, read_data: bool) {
        if let Layout::ListAt(_) = blob.layout {
            self.report.objects += 1;
        }
        let chunks = match self.store.chunks(blob) {
            Ok(chunks) => chunks,
            Err(error) => return self.problem(format!("{path}: {error}")),
        };
        // The bytes of a file of several chunks are hashed as a whole, in order; a single chunk's id is the file's.
        let whole = read_data && chunks.len() > 1;
        let mut hasher = blake3::Hasher::new();
        for chunk in &chunks {
            if !self.goes_on() {
                return;
            }
            let fresh = self.chunks.insert(chunk.id);
            self.report.chunks += u64::from(fresh);
            if whole || (read_data && fresh) {
                match self.store.read_chunk(&chunk.id) {
                    Ok(raw) => {
                        self.report.bytes_read += raw.len() as u64;
                        hasher.update(&raw);
                    }
                    Err(error) => return self.problem(format!("{path}: {error}")),
                }
            } else if fresh && !read_data {
                match self.store.contains(&chunk.id) {
                    Ok(true) => {}
                    Ok(false) => {
                        if let Err(error) = self.store.read_chunk(&chunk.id) {
                            return self.problem(format!("{path}: {error}"));
                        }
                    }
                    Err(error) => return self.problem(format!("{path}: {error}")),
                }
            }
        }
        if whole && *hasher.finalize().as_bytes() != blob.id.0 {
            self.problem(format!(
                "{path}: its bytes do not hash to its content id {}",
                blob.id
            ));
        }
    }
}
