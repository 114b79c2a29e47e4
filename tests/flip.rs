//! Atomic under load: whoever reads while deploys flip sees one of them whole, never an old one, and never goes back.

mod answers;
mod fire;
mod load;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;
use fire::Fire;
use load::Load;

/// How many flips this campaign makes of those asked for, given its share in percent.
fn flips(percent: usize) -> usize {
    (count("DEPLOYFS_TEST_FLIPS", 5000) * percent / 100).max(10)
}

#[test]
fn p1_forward_through_many_deploys_nobody_sees_an_older_one_or_goes_back() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 60);
    let plan = (0..=flips(20)).map(|flip| flip % 60).collect();
    Load::new(&site, &deploys, plan).run();
}

#[test]
fn p1_back_and_forth_between_two_to_seven_deploys_nobody_sees_the_wrong_one() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 7);
    for among in 2..=7 {
        // Half of them in turn, so that each comes back after as many flips, the other half in any order.
        let length = flips(42) / 6;
        let in_turn = (0..=length / 2).map(|flip| flip % among);
        let in_any_order = noise(among as u64, length / 2)
            .into_iter()
            .map(|byte| byte as usize % among);
        Load::new(&site, &deploys, in_turn.chain(in_any_order).collect()).run();
    }
}

#[test]
fn p1_a_channel_flips_as_live_does_while_live_and_another_channel_flip_too() {
    let mut site = Site::new();
    let deploys = Numbered::seal(&site, 7);
    site.channel = "preview";
    let any_order = noise(3, flips(20)).into_iter();
    let plan = any_order.map(|byte| byte as usize % 7).collect();
    let load = Load::new(&site, &deploys, plan).dropping_caches();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            for id in deploys.ids.iter().cycle() {
                site.ok(["activate", id]);
                site.ok(["channel", "set", "other", id]);
                if over.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        load.run();
    });
}

#[test]
fn p1_while_the_kernel_drops_its_caches_nobody_sees_the_wrong_deploy() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 7);
    let any_order = noise(1, flips(20)).into_iter();
    let plan = any_order.map(|byte| byte as usize % 7).collect();
    Load::new(&site, &deploys, plan).dropping_caches().run();
}

#[test]
fn p1_with_everything_cold_nobody_sees_the_wrong_deploy() {
    let site = Site::unmounted();
    let deploys = Numbered::seal(&site, 90);
    for _ in 0..flips(18).div_ceil(deploys.count()) {
        // A new mount knows nothing, and shows each deploy for the first time.
        site.mount(&[]);
        Load::new(&site, &deploys, (0..deploys.count()).collect()).run();
        site.umount();
    }
}

#[test]
fn p1_under_fire_no_answer_is_torn_stale_backwards_or_under_another_validator() {
    let seed = count("DEPLOYFS_TEST_SEED", std::process::id() as usize) as u64;
    println!("repeat with: DEPLOYFS_TEST_SEED={seed}");
    let site = Site::new();
    let deploys = Numbered::seal(&site, 40);
    let requests = count("DEPLOYFS_TEST_FIRE_REQUESTS", 60_000);
    // As in the large run: 10,000,000 requests, 10,000 flips.
    let flips = count("DEPLOYFS_TEST_FIRE_FLIPS", requests / 1000).max(1);
    let fire = Fire {
        requests,
        flips,
        seed,
    };
    assert_eq!(fire.run(&site, &deploys), 0, "violations");
}
