//! deployfs: atomic, immutable web deploys on your own server, as a FUSE filesystem.
//!
//! A **deploy** is a sealed tree of files, named by its content. A mount shows the one that is **live** and every deploy
//! under its id; making another one live is one step for all visitors.
//!
//! # Code map
//!
//! | room | what lives there | knows |
//! |---|---|---|
//! | [`model`] | words and rules, no I/O | nothing |
//! | [`store`] | the disk: packs, index, deploy files, history | model, process |
//! | [`deploy`] | the flow: seal, activate, staging; the facade [`deploy::Deployfs`] | store, users, model |
//! | [`view`] | FUSE: inode numbers, replies, the flip, mounting | deploy, store's errors, model, users |
//! | [`control`] | the control socket: protocol, server, client | model, process |
//! | [`metrics`] | numbers for Prometheus, over a small HTTP server | model |
//! | `sync` | locks and threads of store and deploy: the standard library's, or those of a test that chooses the order | nothing |
//! | [`process`] | processes as /proc shows them | nothing |
//! | [`users`] | names of users and groups | model |
//! | [`archive`] | tar streams from elsewhere, unpacked with care | model |
//! | [`doctor`] | looks at the machine for what would hurt | view, users, model |
//! | [`daemon`] | puts flow, view and control together | all of the above |
//! | [`cli`] | the command line, one file a command | all of the above |
//!
//! Imports run one way, down this table's last column; `tests` reads the `use` lines and says so.
//!
//! # A byte's journey
//!
//! `cp` → staging folder → scan → ingest → chunker → pack → tree → deploy file → history → live pointer → flip →
//! a web server's open → LOOKUP and READ, once → page cache.

pub mod archive;
#[cfg(test)]
mod campaign;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod deploy;
pub mod doctor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod metrics;
pub mod model;
pub mod process;
pub mod store;
mod sync;
pub mod users;
pub mod view;
