//! Writes valid inputs for each fuzz target into fuzz/corpus.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for decoder in deployfs::fuzzing::decoders() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(decoder.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (1..).zip((decoder.seeds)()) {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
