//! Small programs that run inside test pods.

fn main() {}
