//! A real local Kubernetes cluster and what runs on it: the demo and the tests.
//!
//! Everything of a cluster lives in one set of namespaces (network, mount, pid, uts, ipc) under a supervisor that is
//! its PID 1, with each node in a nested set under a supervisor of its own. Inside a node the standard paths are its
//! own, so DaemonSets and hostPaths work as on any node. Killing PID 1 ends everything; the host's network, /run, /etc,
//! /var and /opt are never touched.

pub mod artifacts;
pub mod cgroup;
pub mod cluster;
pub mod command;
pub mod control;
pub mod demo;
pub mod guard;
pub mod image;
pub mod layout;
pub mod netns;
pub mod pki;
pub mod readme;
pub mod suite;
pub mod supervisor;
