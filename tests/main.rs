//! All promises, shown on the real program: it mounts through /dev/fuse, is served by nginx, killed, filled and tricked.
//!
//! These need root on Linux with /dev/fuse, loop devices, fuse3, nginx, b3sum, rsync, jq and e2fsprogs; `scripts/test` installs
//! what is missing. A test whose name starts with `pN` shows promise PN of the README.

mod support;

mod archive_writers;
mod archives;
mod backups;
mod bad_folders;
mod bad_moments;
mod bad_words;
mod bounds;
mod changes;
mod channels;
mod ci_examples;
mod cli;
mod client_shares;
mod corruption;
mod daemon_troubles;
mod doctor;
mod durability;
mod examples;
mod flip;
mod host_filesystems;
mod hostile_clients;
mod hostile_folders;
mod immutable;
mod integrity;
mod layers;
mod listing;
mod mounting;
mod moving;
mod namespaces;
mod neighbours;
mod packaged;
mod pinned;
mod power_cuts;
mod progress;
mod readme;
mod real_site;
mod redeploy;
mod removing;
mod rights;
mod seeing;
mod shown;
mod sick_disks;
mod smoke;
mod takedown;
mod tar_from;
mod together;
mod validators;
mod warm;
mod warnings;
mod web_servers;
