//! The limiter's `libnvidia-ml.so.1`: the hooks of `vgpu-nvml`, linked in front of the real library.

use vgpu_nvml as _;
