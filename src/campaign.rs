//! What test campaigns share: how many rounds, from which seed, and random choices that come out the same again.

/// The number in this environment variable, else `quick`.
pub fn count(variable: &str, quick: u64) -> u64 {
    match std::env::var(variable) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={value} is no number")),
        Err(_) => quick,
    }
}

/// Where a campaign starts: a run with the same seed makes the same choices. Another one each time unless it is given.
pub fn seed() -> u64 {
    let seed = count("DEPLOYFS_TEST_SEED", std::process::id().into());
    println!("repeat with: DEPLOYFS_TEST_SEED={seed}");
    seed
}

/// Random numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Another row of numbers, so that more choices in one place change none elsewhere.
    pub fn fork(&mut self) -> Self {
        Random(self.number())
    }
}
