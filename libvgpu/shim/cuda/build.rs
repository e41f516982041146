//! See `../link.rs`.

#[path = "../link.rs"]
mod link;

fn main() {
    link::in_front_of("libcuda-real.so", "libcuda.so.1");
}
