//! An in-process Kubernetes API server for scenario tests.
