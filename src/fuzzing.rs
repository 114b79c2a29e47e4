//! Every decoder, under fire from bytes that nobody has made: for `fuzz/`, and for a campaign that needs no fuzzer. Only in tests
//! and with the feature `fuzzing`.

pub use crate::model::fuzzing::Decoder;

/// All of them.
pub fn decoders() -> Vec<Decoder> {
    [
        crate::model::fuzzing::decoders(),
        crate::store::fuzzing::decoders(),
        crate::deploy::fuzzing::decoders(),
        crate::archive::fuzzing::decoders(),
        crate::control::fuzzing::decoders(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Tries these bytes on the decoder of this name.
pub fn check(name: &str, bytes: &[u8]) {
    let all = decoders();
    let decoder = all.iter().find(|decoder| decoder.name == name);
    (decoder.expect("a decoder of this name").check)(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{Random, count, seed};
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// What a decoder may take of memory for each byte that it was given, besides what it takes by design.
    const PER_BYTE: usize = 128;
    const BESIDES: usize = 1 << 20;

    thread_local! {
        static TAKEN: Cell<isize> = const { Cell::new(0) };
        static MOST: Cell<isize> = const { Cell::new(0) };
    }

    /// Counts what each thread has taken, and the most that it had.
    struct Counting;

    // SAFETY: all is passed on to the system's allocator as it came; counting allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let taken = TAKEN.get() + layout.size() as isize;
            TAKEN.set(taken);
            MOST.set(MOST.get().max(taken));
            // SAFETY: as the caller vouches.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            TAKEN.set(TAKEN.get() - layout.size() as isize);
            // SAFETY: as the caller vouches.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static COUNTING: Counting = Counting;

    /// The most bytes that the work had taken at once.
    fn memory_of(work: impl FnOnce()) -> usize {
        let before = TAKEN.get();
        MOST.set(before);
        work();
        (MOST.get() - before) as usize
    }

    /// What is wrong with how it takes these bytes.
    fn violation(decoder: &Decoder, bytes: &[u8]) -> Option<String> {
        let allowed = decoder.fixed_memory + BESIDES + PER_BYTE * bytes.len();
        let run = || memory_of(|| (decoder.check)(bytes));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(memory) if memory <= allowed => None,
            Ok(memory) => Some(format!("it took {memory} bytes of memory")),
            Err(_) => Some("it panicked".into()),
        }
    }

    fn changed(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
        if random.once_in(10) {
            let len = random.below(300);
            return (0..len).map(|_| random.number() as u8).collect();
        }
        let mut bytes = random.pick(seeds).clone();
        for _ in 0..=random.below(4) {
            change(&mut bytes, random, seeds);
        }
        bytes
    }

    fn change(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
        const NUMBERS: [u64; 8] = [
            0,
            1,
            0x7f,
            0xff,
            0xffff,
            u32::MAX as u64,
            i64::MAX as u64,
            u64::MAX,
        ];
        let mut at = random.below(bytes.len() as u64 + 1) as usize;
        if random.once_in(2) {
            // Where numbers of a fixed length like to stand.
            at -= at % 4;
        }
        let end = at + random.below((bytes.len() - at) as u64 + 1) as usize;
        match random.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = random.number() as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.splice(at..end, other[from..].iter().copied());
            }
            6 => {
                // A number in the place of another one, in binary or in decimal.
                let number = *random.pick(&NUMBERS);
                let text = number.to_string();
                let binary = number.to_le_bytes();
                let put: &[u8] = match random.below(3) {
                    0 => text.as_bytes(),
                    1 => &binary[..4],
                    _ => &binary,
                };
                let end = bytes.len().min(at + put.len());
                bytes.splice(at..end, put.iter().copied());
            }
            _ => {
                let long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
                let len = 1 + random.below(long.len() as u64) as usize;
                let end = bytes.len().min(at + 1);
                bytes.splice(at..end, long[long.len() - len..].iter().copied());
            }
        }
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_take_memory() {
        let mut random = Random::new(seed());
        let each = count("DEPLOYFS_TEST_HOSTILE_BYTES", 60_000).div_ceil(decoders().len() as u64);
        let (mut tried, mut found) = (0u64, Vec::new());
        for decoder in decoders() {
            let seeds = (decoder.seeds)();
            let mut random = random.fork();
            for _ in 0..each {
                let bytes = changed(&mut random, &seeds);
                tried += 1;
                if let Some(what) = violation(&decoder, &bytes) {
                    let bytes = bytes.escape_ascii();
                    found.push(format!("{}: {what}: b\"{bytes}\"", decoder.name));
                    break;
                }
            }
        }
        println!("hostile-bytes: {tried} tried, {} violations", found.len());
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn every_seed_is_taken_and_a_planted_violation_is_found() {
        for decoder in decoders() {
            for seed in (decoder.seeds)() {
                assert_eq!(violation(&decoder, &seed), None, "{}", decoder.name);
            }
        }
        let planted = |check| Decoder::plain("planted", Vec::new, check);
        let greedy = planted(|_| drop(std::hint::black_box(Vec::<u8>::with_capacity(2 << 20))));
        let found = violation(&greedy, b"x").unwrap_or_default();
        assert!(found.contains("bytes of memory"), "{found}");
        let bold = planted(|bytes| assert!(bytes.is_empty()));
        assert_eq!(violation(&bold, b"x").as_deref(), Some("it panicked"));
    }

    #[test]
    fn there_is_a_fuzz_target_for_each_decoder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
        let manifest = std::fs::read_to_string(format!("{folder}/Cargo.toml")).unwrap();
        for decoder in decoders() {
            let name = decoder.name;
            let target = std::fs::read_to_string(format!("{folder}/fuzz_targets/{name}.rs"));
            assert!(target.unwrap().contains(&format!("\"{name}\"")), "{name}");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
