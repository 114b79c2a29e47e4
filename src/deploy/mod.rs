//! The flow.

pub mod mounted;
