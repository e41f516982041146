//! A libcuda.so.1 over fake-gpu.
