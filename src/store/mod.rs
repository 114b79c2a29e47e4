//! Everything that is kept on disk.

mod error;

pub use error::StoreError;
