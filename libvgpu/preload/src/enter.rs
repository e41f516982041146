//! The exported `dlsym` and `dlvsym`: a few instructions that jump on.
//!
//! What glibc answers for `RTLD_NEXT` and `RTLD_DEFAULT` depends on who called, which it takes from the return address. A
//! function that calls the next dlsym would be the caller, and every other interposer would get the wrong "next": itself,
//! possibly. So whatever is not a driver's function looked up by a handle is left to the next one by a jump, with stack and
//! arguments as they were.

use std::arch::naked_asm;
use std::ffi::{c_char, c_void};

use crate::lookup::{NEXT_DLSYM, NEXT_DLVSYM, dlsym_by_handle, dlvsym_by_handle, find_dlsym, find_dlvsym};

/// The two functions differ in whom they jump to. Handles 0 and -1 are `RTLD_DEFAULT` and `RTLD_NEXT`; names that begin
/// with `cu` or `nvml` may be a driver's.
#[cfg(target_arch = "x86_64")]
macro_rules! enter {
    ($next:path, $find:path, $by_handle:path) => {
        naked_asm!(
            "endbr64",
            "lea rax, [rdi + 1]",
            "cmp rax, 1",
            "jbe 2f",
            "test rsi, rsi",
            "jz 2f",
            "cmp byte ptr [rsi], 0x63",
            "jne 3f",
            "cmp byte ptr [rsi + 1], 0x75",
            "je 4f",
            "jmp 2f",
            "3:",
            "cmp byte ptr [rsi], 0x6e",
            "jne 2f",
            "cmp byte ptr [rsi + 1], 0x76",
            "jne 2f",
            "cmp byte ptr [rsi + 2], 0x6d",
            "jne 2f",
            "cmp byte ptr [rsi + 3], 0x6c",
            "jne 2f",
            "4:",
            "jmp {by_handle}",
            "2:",
            "mov rax, qword ptr [rip + {next}]",
            "test rax, rax",
            "jz 5f",
            "jmp rax",
            "5:",
            "push rdi",
            "push rsi",
            "push rdx",
            "call {find}",
            "pop rdx",
            "pop rsi",
            "pop rdi",
            "test rax, rax",
            "jz 6f",
            "jmp rax",
            "6:",
            "ret",
            next = sym $next,
            find = sym $find,
            by_handle = sym $by_handle,
        )
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! enter {
    ($next:path, $find:path, $by_handle:path) => {
        naked_asm!(
            "hint #34",
            "add x16, x0, #1",
            "cmp x16, #1",
            "b.ls 2f",
            "cbz x1, 2f",
            "ldrb w16, [x1]",
            "cmp w16, #0x63",
            "b.ne 3f",
            "ldrb w16, [x1, #1]",
            "cmp w16, #0x75",
            "b.eq 4f",
            "b 2f",
            "3:",
            "cmp w16, #0x6e",
            "b.ne 2f",
            "ldrb w16, [x1, #1]",
            "cmp w16, #0x76",
            "b.ne 2f",
            "ldrb w16, [x1, #2]",
            "cmp w16, #0x6d",
            "b.ne 2f",
            "ldrb w16, [x1, #3]",
            "cmp w16, #0x6c",
            "b.ne 2f",
            "4:",
            "b {by_handle}",
            "2:",
            "adrp x16, {next}",
            "ldr x16, [x16, :lo12:{next}]",
            "cbz x16, 5f",
            "br x16",
            "5:",
            "stp x29, x30, [sp, #-48]!",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "str x2, [sp, #32]",
            "bl {find}",
            "mov x16, x0",
            "ldp x0, x1, [sp, #16]",
            "ldr x2, [sp, #32]",
            "ldp x29, x30, [sp], #48",
            "cbz x16, 6f",
            "br x16",
            "6:",
            "mov x0, #0",
            "ret",
            next = sym $next,
            find = sym $find,
            by_handle = sym $by_handle,
        )
    };
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    enter!(NEXT_DLSYM, find_dlsym, dlsym_by_handle)
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    enter!(NEXT_DLVSYM, find_dlvsym, dlvsym_by_handle)
}
