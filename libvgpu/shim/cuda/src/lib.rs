//! The limiter's `libcuda.so.1`: the hooks of `vgpu-cuda`, linked in front of the real library.

use vgpu_cuda as _;
