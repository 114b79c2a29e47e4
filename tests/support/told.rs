//! Clients that deploy, activate and remove, what they were told, and whether the store holds to it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{facts, write_files, write_noise};
use super::site::{Site, is_mounted, stderr, stdout, text};

/// What was acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Deploys.
    pub sealed: BTreeSet<String>,
    /// The last activation.
    pub live: Option<String>,
    /// An activation that has begun.
    pub in_flight: Option<String>,
    /// Deploys that were removed.
    pub removed: BTreeSet<String>,
    /// The power is going: an answer that comes now may never have left the machine, so it counts for nothing.
    pub is_over: bool,
}

/// Deploys and activates until a command fails, or it is stopped.
pub fn deploy_until_it_fails(site: &Site, round: usize, stop: &AtomicBool, told: &Mutex<Told>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let folder = site.beside(&format!("build-{round}"));
        write_files(&folder, &[("number", &format!("{round} {number}"))]);
        write_noise(
            &folder.join(format!("noise{}", number % 5)),
            number,
            200_000,
        );
        let out = site.run(["deploy", text(&folder)]);
        if !out.status.success() {
            break;
        }
        let id = stdout(&out).trim_end().to_owned();
        let sealed = Told::note(told, |told| {
            told.sealed.insert(id.clone());
            told.in_flight = Some(id.clone());
        });
        if sealed.is_break() || !site.run(["activate", &id]).status.success() {
            break;
        }
        if Told::note(told, |told| told.live = told.in_flight.take()).is_break() {
            break;
        }
    }
}

/// Removes deploys while there are more than a few, and gives their space back, until a command fails or it is stopped.
pub fn remove_until_it_fails(site: &Site, round: usize, stop: &AtomicBool, told: &Mutex<Told>) {
    const KEPT: usize = 3;
    // Else most of those that there are may not go.
    fs::write(
        site.store.join("retention.toml"),
        "keep-recently-live = 0\n",
    )
    .ok();
    for turn in round.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let next = {
            let mut told = told.lock().unwrap();
            let is_free = |id: &&String| {
                told.live.as_ref() != Some(*id) && told.in_flight.as_ref() != Some(*id)
            };
            let free: Vec<String> = told.sealed.iter().filter(is_free).cloned().collect();
            let next = (free.len() > KEPT).then(|| free[turn % free.len()].clone());
            // From here on it may be there or not.
            next.inspect(|id| {
                told.sealed.remove(id);
            })
        };
        if let Some(id) = next {
            let out = site.run(["rm", &id]);
            if stderr(&out).contains("nothing was removed") {
                // A rollback goes there.
                told.lock().unwrap().sealed.insert(id);
                continue;
            }
            if !out.status.success() {
                break;
            }
            let noted = Told::note(told, |told| {
                told.removed.insert(id);
            });
            if noted.is_break() {
                break;
            }
        }
        if !site.run(["gc"]).status.success() {
            break;
        }
    }
}

/// True for the text of a file `number` of these deploys.
pub fn is_number(text: &str) -> bool {
    let parts: Vec<&str> = text.split(' ').collect();
    parts.len() == 2 && parts.iter().all(|part| part.parse::<u64>().is_ok())
}

impl Told {
    /// Notes an answer, unless it comes too late; then the work ends.
    fn note(told: &Mutex<Told>, answer: impl FnOnce(&mut Told)) -> ControlFlow<()> {
        let mut told = told.lock().unwrap();
        if told.is_over {
            return ControlFlow::Break(());
        }
        answer(&mut told);
        ControlFlow::Continue(())
    }

    /// All that was acknowledged is there and whole; what is live now counts as acknowledged.
    pub fn check(&mut self, site: &Site, when: &str) {
        let listed = site.json(["list"]);
        let listed: BTreeSet<&str> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|deploy| deploy["deploy_id"].as_str().unwrap())
            .collect();
        for id in &self.sealed {
            assert!(listed.contains(id.as_str()), "{when}: {id} is lost");
        }
        for id in &self.removed {
            assert!(!listed.contains(id.as_str()), "{when}: {id} is there again");
        }
        let status = site.json(["status"]);
        let now = status["live"].as_str();
        assert!(
            now == self.live.as_deref() || now == self.in_flight.as_deref(),
            "{when}: {now:?} is live, and this was told: {self:?}\n{}",
            stdout(&site.run(["log"]))
        );
        let check = site.run(["fsck", "--read-data"]);
        assert!(check.status.success(), "{when}: {}", stdout(&check));
        if let Some(id) = now.filter(|_| is_mounted(&site.mnt)) {
            let deploy = site.path(&format!("deploys/{id}"));
            assert_eq!(facts(&site.path("live")), facts(&deploy), "{when}");
        }
        self.live = now.map(str::to_owned);
        self.in_flight = None;
        self.is_over = false;
    }
}
