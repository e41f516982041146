//! Where in a table a thread finds what is its own, by its thread pointer: without a thread-local variable, which costs a
//! library a call.

/// What a thread pointer is multiplied by.
pub const FACTOR: u32 = 0x9e37_79b1;

/// The place of a thread in a table of 2^`bits`. Thread pointers differ in some of their lower 32 bits: one multiplication
/// spreads them.
#[inline(always)]
pub const fn place(thread: usize, bits: u32) -> usize {
    (thread as u32).wrapping_mul(FACTOR).wrapping_shr(32 - bits) as usize
}
