//! The control socket: one JSON object a line, over a Unix socket in the store.
//!
//! ```text
//! client  {"v":1,"request":{"op":"seal",…}}
//! server  {"progress":{…}}            any number of times
//! server  {"answer":{…}}  or  {"failure":{…}}
//! ```
//! With a request for an export or import comes an open file, as SCM_RIGHTS (unix(7)).
//! The client closes its end, or the connection, to interrupt. A request whose client does so before it is begun is dropped; what is
//! recorded by then stands.

pub mod client;
mod descriptor;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod lobby;
pub mod patience;
pub mod protocol;
pub mod server;
mod slots;
mod spare;
