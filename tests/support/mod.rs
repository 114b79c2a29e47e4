//! What the tests share: a store and its mount, files, disks, other users, commands, a web server, an HTTP client, the
//! kernel's caches, the rule for readers.

mod caches;
mod disk;
mod files;
mod http;
mod large;
mod machine;
mod nginx;
mod numbered;
mod site;
mod stranger;
pub mod timeline;
mod told;
mod users;

pub use caches::*;
pub use disk::*;
pub use files::*;
pub use http::*;
pub use large::*;
pub use machine::*;
pub use nginx::*;
pub use numbered::*;
pub use site::*;
pub use stranger::*;
pub use told::*;
pub use users::*;
