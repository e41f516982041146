//! See `../link.rs`.

#[path = "../link.rs"]
mod link;

fn main() {
    link::in_front_of("libnvidia-ml-real.so", "libnvidia-ml.so.1");
}
