//! An nvidia-smi that reads NVML like the real one.

fn main() {}
