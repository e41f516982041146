//! The limiter's logic without CUDA: share files, ledger, slots, compute bucket.
