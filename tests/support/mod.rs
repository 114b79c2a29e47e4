//! What the tests share: a store and its mount, files, disks, other users, commands, a web server, an HTTP client.

mod disk;
mod files;
mod http;
mod nginx;
mod site;
mod users;

pub use disk::*;
pub use files::*;
pub use http::*;
pub use nginx::*;
pub use site::*;
pub use users::*;
