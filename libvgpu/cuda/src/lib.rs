//! The limiter's libcuda.so.1.
