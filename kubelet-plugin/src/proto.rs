//! The kubelet's services, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

/// Plugin registration, version 1.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
/// Dynamic Resource Allocation, version 1.
pub mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}
