//! A store on a simulated disk, what may be done with it, and the crashes on the way.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::Deployfs;
use super::model::{Doing, Model, channel};
use super::sources::{Files, Root, Source, Sources, staged_below};
use crate::campaign::Random;
use crate::model::DeployId;
use crate::model::report::{
    ActivateRequest, Answer, Caller, Failure, FolderRequest, PruneRequest, Request, SealOptions,
};
use crate::store::sim_disk::{Image, SimDisk};
use crate::store::{Index, Limits, STAGING, Store};

/// Small, so that packs are finished every few seals, and written to in the middle of one.
pub const LIMITS: Limits = Limits {
    finish_bytes: 60_000,
    seal_finish_chunks: 14,
    seal_finish_bytes: 40_000,
    buffer: 2048,
};

/// Something to do; numbers choose among what is there then.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Deploy(u64),
    /// Laid over the live deploy.
    Over(u64),
    /// From a staging folder.
    Seal(u64),
    /// Refused once its chunks are stored.
    Refused(u64),
    Activate(u64),
    Rollback,
    Pin(u64),
    Unpin(u64),
    /// By a channel.
    Show(u64),
    Close,
    Remove(u64),
    /// All but the last, the live and the pinned ones.
    Prune,
    Gc,
    Reopen,
    /// And open it again.
    LoseIndex,
}

impl Op {
    pub fn any(random: &mut Random) -> Self {
        let number = random.number() >> 8;
        match random.below(28) {
            0..=4 => Op::Deploy(number),
            5 => Op::Over(number),
            6..=7 => Op::Seal(number),
            8..=9 => Op::Refused(number),
            10..=12 => Op::Activate(number),
            13 => Op::Rollback,
            14 => Op::Pin(number),
            15 => Op::Unpin(number),
            16..=17 => Op::Remove(number),
            18 => Op::Prune,
            19..=21 => Op::Gc,
            22..=23 => Op::Show(number),
            24 => Op::Close,
            25 => Op::LoseIndex,
            _ => Op::Reopen,
        }
    }
}

/// A moment at which the process may end.
pub struct Point {
    pub image: Image,
    pub model: Model,
    staged: Option<String>,
}

/// The moments seen so far.
pub type Points = Arc<Mutex<Vec<Point>>>;

pub struct Bench<'a> {
    sources: &'a Sources,
    pub root: &'a Root,
    pub disk: Arc<SimDisk>,
    pub model: Arc<Mutex<Model>>,
    /// It has an index, on the host's disk: which is what it is after a crash, ahead, behind or of other packs.
    indexed: bool,
    /// None: it could not be opened.
    pub flow: Option<Deployfs>,
}

pub fn caller() -> Caller {
    Caller {
        name: "root".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
    }
}

impl<'a> Bench<'a> {
    /// The store as one finds it on this disk, not opened yet.
    pub fn new(
        sources: &'a Sources,
        root: &'a Root,
        image: Image,
        model: Model,
        random: Random,
    ) -> Self {
        Bench {
            sources,
            root,
            disk: Arc::new(SimDisk::new(image, random)),
            model: Arc::new(Mutex::new(model)),
            indexed: false,
            flow: None,
        }
    }

    /// The same, with an index or without one.
    pub fn with_index(self, indexed: bool) -> Self {
        Bench { indexed, ..self }
    }

    /// After a crash: what the point holds is on the disk, and the staging folder is where it was.
    pub fn at(sources: &'a Sources, root: &'a Root, point: &Point, random: &mut Random) -> Self {
        let image = match random.below(3) {
            0 => point.image.clone(),
            _ => point.image.after_power_cut(random),
        };
        let staged = point.model.staged();
        let name = point.staged.as_deref().filter(|_| staged.is_some());
        root.stage(name, &staged.unwrap_or_default());
        Self::new(sources, root, image, point.model.clone(), random.fork())
    }

    /// Notes every moment from now on.
    pub fn watch(&self) -> Points {
        let points = Points::default();
        let (notes, model) = (points.clone(), self.model.clone());
        let staging = self.root.path().join(STAGING);
        self.disk.watch(Some(Box::new(move |image: &Image| {
            notes.lock().unwrap().push(Point {
                image: image.clone(),
                model: model.lock().unwrap().clone(),
                staged: staged_below(Path::new(&staging)),
            });
        })));
        points
    }

    /// As it is now.
    pub fn point(&self) -> Point {
        Point {
            image: self.disk.image(),
            model: self.model().clone(),
            staged: self.root.staged(),
        }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub fn init(&mut self) -> Result<(), String> {
        Store::init_on(self.disk.clone(), "root", 1).map_err(|error| error.to_string())?;
        let mut model = self.model();
        model.made = true;
        model.log.push(("init".into(), None));
        Ok(())
    }

    pub fn open(&mut self) -> Result<(), String> {
        self.flow = None;
        self.disk.next_process();
        let index = match self.indexed {
            true => Index::new(self.root.index()),
            false => Index::none(),
        };
        let store = Store::open_on(self.disk.clone(), self.root.path(), index, LIMITS);
        let flow = Deployfs::recovered(store.map_err(|error| error.to_string())?);
        let flow = self.flow.insert(flow.map_err(|error| error.to_string())?);
        let mut model = self.model.lock().unwrap();
        if !model.made {
            model.made = true;
            model.log.push(("init".into(), None));
        }
        self.disk.works_for(|| model.catch_up(flow))
    }

    /// Opens it after a crash; false: it had not been made yet. All that was acknowledged must be there.
    pub fn recover(&mut self) -> Result<bool, String> {
        let staged = self.staged_files();
        let before = self.model().log.len();
        if let Err(error) = self.open() {
            let unmade = !self.model().made && error.contains("is not a deployfs store");
            return if unmade {
                Ok(false)
            } else {
                Err(format!("it cannot be opened: {error}"))
            };
        }
        self.check()?;
        let recorded = self.model().log.len() > before;
        match staged {
            Some(files) if !recorded && !self.root.has_staged(&files) => {
                Err("the staging folder of a seal that came to nothing is not where it was".into())
            }
            Some(_) | None => Ok(true),
        }
    }

    fn staged_files(&self) -> Option<Arc<Files>> {
        self.root.staged()?;
        self.model().staged()
    }

    pub fn check(&self) -> Result<(), String> {
        match &self.flow {
            Some(flow) => self.model().check(flow),
            None => Err("it is not open".into()),
        }
    }

    pub fn read(&self) -> Result<(), String> {
        self.flow
            .as_ref()
            .map_or(Ok(()), |flow| self.model().read(flow))
    }

    /// Does it. An error is a broken promise: a request may fail only where the disk has.
    pub fn run(&mut self, op: Op) -> Result<(), String> {
        let good = |number: u64| &self.sources.good[number as usize % self.sources.good.len()];
        match op {
            Op::Deploy(number) => {
                let source = good(number);
                self.seal(&deploy(source, None), &source.files)
            }
            Op::Over(number) => {
                let Some(live) = self.model().live else {
                    return Ok(());
                };
                let source = good(number);
                let mut files = (*self.model().deploys[&live].files).clone();
                files.extend(
                    source
                        .files
                        .iter()
                        .map(|(path, bytes)| (path.clone(), bytes.clone())),
                );
                self.seal(&deploy(source, Some("live")), &Arc::new(files))
            }
            Op::Seal(number) => {
                let source = good(number);
                self.root.stage(Some("v1"), &source.files);
                let request = Request::Seal {
                    name: "v1".parse().expect("a name"),
                    options: SealOptions::default(),
                };
                let log = self.model().log.len();
                self.seal(&request, &source.files)?;
                let kept = self.model().log.len() > log || self.root.has_staged(&source.files);
                match kept || self.flow.is_none() {
                    true => Ok(()),
                    false => Err("a failed seal did not give its folder back".into()),
                }
            }
            Op::Refused(number) => {
                let bad = &self.sources.bad[number as usize % self.sources.bad.len()];
                match self.ask(&deploy(bad, None)) {
                    Some(Ok(_)) => Err("a folder with a link to the outside was sealed".into()),
                    Some(Err(error)) if error.message.contains("out@") => Ok(()),
                    Some(Err(error)) => self.may_fail(error),
                    None => Ok(()),
                }
            }
            Op::Activate(number) => {
                let Some(id) = self.some_deploy(number) else {
                    return Ok(());
                };
                self.model().doing.push(Doing::Live("activate", id));
                let request = ActivateRequest {
                    target: Some(id.to_string()),
                    ..ActivateRequest::default()
                };
                let answer = self.ask(&Request::Activate(request));
                self.activated("activate", answer)
            }
            Op::Rollback => {
                let previous = |flow: &Deployfs| flow.store.with_ledger(|ledger| ledger.previous());
                let Some(id) = self.flow.as_ref().and_then(previous) else {
                    return Ok(());
                };
                self.model().doing.push(Doing::Live("rollback", id));
                let answer = self.ask(&Request::Rollback(ActivateRequest::default()));
                self.activated("rollback", answer)
            }
            Op::Pin(number) => self.pin("pin", number),
            Op::Unpin(number) => self.pin("unpin", number),
            Op::Show(number) => {
                let Some(id) = self.some_deploy(number) else {
                    return Ok(());
                };
                let request = Request::SetChannel {
                    name: channel(),
                    target: id.to_string(),
                    until: None,
                    message: String::new(),
                };
                self.show(Some(id), &request)
            }
            Op::Close if self.model().shown.is_some() => {
                let request = Request::CloseChannel {
                    name: channel(),
                    message: String::new(),
                };
                self.show(None, &request)
            }
            Op::Close => Ok(()),
            Op::Remove(number) => {
                let Some(id) = self.some_deploy(number) else {
                    return Ok(());
                };
                self.model().doing.push(Doing::Remove([id].into()));
                let answer = self.ask(&Request::Remove {
                    targets: vec![id.to_string()],
                    message: String::new(),
                    now: false,
                });
                self.removed(answer, self.is_kept(id))
            }
            Op::Prune => {
                let all = self.model().deploys.keys().copied().collect();
                self.model().doing.push(Doing::Remove(all));
                let request = PruneRequest {
                    keep: Some(1),
                    keep_live_within: Some(0),
                    ..PruneRequest::default()
                };
                let answer = self.ask(&Request::Prune(request));
                self.removed(answer, false)
            }
            Op::Gc => match self.ask(&Request::Gc { dry_run: false }) {
                Some(Err(error)) => self.may_fail(error),
                Some(Ok(_)) | None => Ok(()),
            },
            Op::Reopen | Op::LoseIndex => {
                if let Op::LoseIndex = op {
                    self.flow = None;
                    std::fs::remove_dir_all(self.root.index()).ok();
                }
                match self.open() {
                    Err(error) if self.disk.faults() == 0 => Err(error),
                    Ok(()) | Err(_) => Ok(()),
                }
            }
        }
    }

    /// None: it is not open.
    fn ask(&self, request: &Request) -> Option<Result<Answer, Failure>> {
        let nobody = AtomicBool::new(false);
        let flow = self.flow.as_ref()?;
        Some(flow.run_with(request, opened(request), &caller(), &|_| {}, &nobody))
    }

    fn seal(&self, request: &Request, files: &Arc<Files>) -> Result<(), String> {
        let doing = match request {
            Request::Seal { .. } => Doing::SealStaged,
            _ => Doing::Seal,
        };
        self.model().doing.push(doing(files.clone()));
        match (self.ask(request), &self.flow) {
            (Some(Ok(Answer::Sealed(report))), Some(flow)) => {
                self.model().sealed(flow, report.deploy_id, files.clone())
            }
            (Some(Ok(other)), _) => Err(format!("a seal was answered with {other:?}")),
            (Some(Err(error)), _) => self.may_fail(error),
            (None, _) => Ok(()),
        }
    }

    fn activated(&self, verb: &str, answer: Option<Result<Answer, Failure>>) -> Result<(), String> {
        match answer {
            Some(Ok(Answer::Activated(report))) => {
                self.model().activated(verb, report.deploy_id);
                Ok(())
            }
            Some(Ok(other)) => Err(format!("an activation was answered with {other:?}")),
            Some(Err(error)) => self.may_fail(error),
            None => Ok(()),
        }
    }

    fn some_deploy(&self, number: u64) -> Option<DeployId> {
        let model = self.model();
        let ids = model.deploys.keys().copied();
        ids.clone().nth(number as usize % ids.len().max(1))
    }

    /// True where there may be a reason not to remove it.
    fn is_kept(&self, id: DeployId) -> bool {
        let model = self.model();
        let was_live = |(verb, known): &(String, Option<DeployId>)| {
            *known == Some(id) && (verb == "activate" || verb == "rollback")
        };
        model.pinned.contains(&id) || model.shown == Some(id) || model.log.iter().any(was_live)
    }

    fn pin(&self, verb: &'static str, number: u64) -> Result<(), String> {
        let Some(id) = self.some_deploy(number) else {
            return Ok(());
        };
        self.model().doing.push(Doing::Pin(verb, id));
        let (target, message) = (id.to_string(), String::new());
        let answer = self.ask(&match verb {
            "pin" => Request::Pin { target, message },
            _ => Request::Unpin { target, message },
        });
        match answer {
            Some(Ok(Answer::Pinned(report))) if report.unchanged => {
                self.model().doing.pop();
                Ok(())
            }
            Some(Ok(_)) => {
                self.model().pinned(verb, id);
                Ok(())
            }
            Some(Err(error)) => self.may_fail(error),
            None => Ok(()),
        }
    }

    fn show(&self, id: Option<DeployId>, request: &Request) -> Result<(), String> {
        self.model().doing.push(Doing::Show(id));
        match self.ask(request) {
            Some(Ok(_)) => {
                self.model().shows(id);
                Ok(())
            }
            Some(Err(error)) => self.may_fail(error),
            None => Ok(()),
        }
    }

    fn removed(
        &self,
        answer: Option<Result<Answer, Failure>>,
        may_be_kept: bool,
    ) -> Result<(), String> {
        let removed = match answer {
            Some(Ok(Answer::Removed(report))) => report.removed,
            Some(Ok(Answer::Pruned(report))) => report.removed,
            Some(Ok(other)) => return Err(format!("a removal was answered with {other:?}")),
            Some(Err(_)) if may_be_kept => {
                self.model().doing.pop();
                return Ok(());
            }
            Some(Err(error)) => return self.may_fail(error),
            None => return Ok(()),
        };
        let mut model = self.model();
        if removed.is_empty() {
            model.doing.pop();
            return Ok(());
        }
        for id in removed {
            model.removed(id)?;
        }
        model.doing.clear();
        Ok(())
    }

    fn may_fail(&self, error: Failure) -> Result<(), String> {
        if self.disk.faults() == 0 {
            return Err(format!("refused on a whole disk: {error}"));
        }
        let Some(flow) = &self.flow else {
            return Ok(());
        };
        // What is recorded stands. Where the history has stopped, more may be found at the next opening.
        let mut model = self.model();
        let doing = model.doing.clone();
        self.disk.works_for(|| model.catch_up(flow))?;
        if flow.store.check_writable().is_err() {
            model.doing = doing;
        }
        Ok(())
    }
}

/// The folder of a request for one.
fn opened(request: &Request) -> Option<OwnedFd> {
    match request {
        Request::Deploy(request) => Some(File::open(&request.dir).unwrap().into()),
        _ => None,
    }
}

fn deploy(source: &Source, from: Option<&str>) -> Request {
    Request::Deploy(FolderRequest {
        dir: source.dir.clone(),
        from: from.map(str::to_owned),
        delete: vec![],
        dry_run: false,
        no_cache: false,
        options: SealOptions::default(),
    })
}
