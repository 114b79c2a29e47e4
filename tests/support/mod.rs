//! What the tests share: a store and its mount, files, commands, a web server, an HTTP client.

mod files;
mod http;
mod nginx;
mod site;

pub use files::*;
pub use http::*;
pub use nginx::*;
pub use site::*;
