//! The `deployfs` command.

fn main() {}
