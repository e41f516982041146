//! The library is loaded under NVIDIA's name.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rerun-if-changed=build.rs");
    // As NVIDIA's library, it calls its own functions, not those of a shim in front of it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
