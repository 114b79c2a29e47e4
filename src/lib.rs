//! deployfs.

pub mod deploy;
pub mod model;
pub mod store;
pub mod view;
