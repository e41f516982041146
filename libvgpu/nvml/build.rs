//! Makes the shim need the real library under the name it is mounted by.
//!
//! Linking against the real file would record that file's own name, which is the shim's: the shim would need itself. So
//! it is linked against an empty library that carries the other name and nothing else.

use std::path::PathBuf;
use std::process::Command;

const OWN: &str = "libnvidia-ml.so.1";
const REAL: &str = "libnvidia-ml-real.so";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (source, stub) = (out.join("empty.c"), out.join(REAL));
    std::fs::write(&source, "").expect("OUT_DIR can be written");
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(&cc)
        .args(["-shared", "-nostdlib", &format!("-Wl,-soname,{REAL}"), "-o"])
        .args([&stub, &source])
        .status()
        .unwrap_or_else(|e| panic!("cannot start the C compiler {cc}: {e}"));
    assert!(status.success(), "{cc} cannot make {}", stub.display());
    for argument in [
        format!("-Wl,-soname,{OWN}"),
        "-Wl,--no-as-needed".into(),
        stub.display().to_string(),
        "-Wl,-z,nodelete".into(),
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
