//! A real local Kubernetes cluster and the tests that run on it.
