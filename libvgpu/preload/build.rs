//! Gives the object its name, and lets nobody unload it: its hooks are remembered by those who looked them up.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in ["-Wl,-soname,libvgpu_preload.so", "-Wl,-z,nodelete"] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
