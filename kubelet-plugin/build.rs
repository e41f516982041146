//! Generates the kubelet's two gRPC services from `proto/`, in Rust alone: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["pluginregistration.proto", "dra.proto"], ["proto"])?;
    // The maps are ordered so that logs and tests see claims in the same order every time.
    tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    Ok(())
}
