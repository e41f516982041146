//! kubectl-vgpu: questions about shares, placement and GPUs.

fn main() {}
