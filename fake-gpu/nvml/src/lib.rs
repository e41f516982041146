//! A libnvidia-ml.so.1 over fake-gpu.
