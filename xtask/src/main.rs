//! cargo xtask demo, test, bench, cluster.

fn main() {}
