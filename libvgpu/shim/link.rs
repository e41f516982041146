//! The shim's own name, and the real library's as the only one it needs beside glibc.
//!
//! Linking against the real file would record that file's own name, which is the shim's: the shim would need itself. So
//! it is linked against an empty library that carries the other name and nothing else.

use std::path::PathBuf;
use std::process::Command;

/// Links the library being built as `own`, in front of `real`.
pub(crate) fn in_front_of(real: &str, own: &str) {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../link.rs");
    println!("cargo:rerun-if-env-changed=CC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (source, stub) = (out.join("empty.c"), out.join(real));
    std::fs::write(&source, "").expect("OUT_DIR can be written");
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(&cc)
        .args(["-shared", "-nostdlib", &format!("-Wl,-soname,{real}"), "-o"])
        .args([&stub, &source])
        .status()
        .unwrap_or_else(|e| panic!("cannot start the C compiler {cc}: {e}"));
    assert!(status.success(), "{cc} cannot make {}", stub.display());
    for argument in [
        format!("-Wl,-soname,{own}"),
        "-Wl,--no-as-needed".into(),
        stub.display().to_string(),
        "-Wl,-z,nodelete".into(),
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
