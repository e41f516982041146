//! The exported functions, and the table by which cuGetProcAddress finds them.
//!
//! Each function is the driver's signature around one operation. [`TABLE`] says for every (name, version, stream flavour)
//! a program may ask for which of them it is; a name may mean different ABIs at different versions.

use std::ffi::{CStr, c_char, c_void};

use vgpu_core::meter::Key;

use crate::{Code, INVALID_VALUE, SUCCESS, check, code, launch, memory, real, report};

/// `CUlaunchConfig` of cuda.h.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: *mut c_void,
    count: u32,
}

/// What a function's operation does; the coverage table in the documentation is made of these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Charges or gives back memory.
    Charge,
    /// Reports the share.
    Report,
    /// Holds back and times work.
    Meter,
    /// Follows a context's life.
    Context,
    /// Looks up symbols.
    Dispatch,
}

struct Entry {
    /// As cuGetProcAddress is asked.
    name: &'static str,
    /// Exported name, of the real function too.
    symbol: &'static CStr,
    /// First CUDA version this ABI is the answer at, and the first it is not.
    versions: std::ops::Range<i32>,
    /// The per-thread default stream flavour.
    per_thread: bool,
    #[allow(dead_code, reason = "the class is for people who read the table and for its tests")]
    class: Class,
    hook: *const c_void,
}
// SAFETY: the pointers are addresses of functions and static text, which never change.
unsafe impl Sync for Entry {}

/// Up to here the table knows every ABI; what a newer CUDA means by a name is checked against the real function.
const KNOWN_VERSION: i32 = 13_050;
/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

macro_rules! table {
    ($($class:ident $name:literal $symbol:literal $from:literal..$until:literal $flavour:literal => $hook:ident;)*) => {
        &[$(Entry {
            name: $name,
            symbol: $symbol,
            versions: $from..$until,
            per_thread: $flavour,
            class: Class::$class,
            hook: $hook as *const c_void,
        }),*]
    };
}

static TABLE: &[Entry] = table! {
    Charge "cuMemAlloc" c"cuMemAlloc" 2000..3020 false => cuMemAlloc;
    Charge "cuMemAlloc" c"cuMemAlloc_v2" 3020..2147483647 false => cuMemAlloc_v2;
    Charge "cuMemAllocPitch" c"cuMemAllocPitch_v2" 3020..2147483647 false => cuMemAllocPitch_v2;
    Charge "cuMemAllocManaged" c"cuMemAllocManaged" 6000..2147483647 false => cuMemAllocManaged;
    Charge "cuMemAllocAsync" c"cuMemAllocAsync" 11020..2147483647 false => cuMemAllocAsync;
    Charge "cuMemFree" c"cuMemFree" 2000..3020 false => cuMemFree;
    Charge "cuMemFree" c"cuMemFree_v2" 3020..2147483647 false => cuMemFree_v2;
    Charge "cuMemFreeAsync" c"cuMemFreeAsync" 11020..2147483647 false => cuMemFreeAsync;
    Report "cuMemGetInfo" c"cuMemGetInfo_v2" 3020..2147483647 false => cuMemGetInfo_v2;
    Report "cuDeviceTotalMem" c"cuDeviceTotalMem" 2000..3020 false => cuDeviceTotalMem;
    Report "cuDeviceTotalMem" c"cuDeviceTotalMem_v2" 3020..2147483647 false => cuDeviceTotalMem_v2;
    Meter "cuLaunchKernel" c"cuLaunchKernel" 4000..2147483647 false => cuLaunchKernel;
    Meter "cuLaunchKernel" c"cuLaunchKernel_ptsz" 7000..2147483647 true => cuLaunchKernel_ptsz;
    Meter "cuLaunchKernelEx" c"cuLaunchKernelEx" 11060..2147483647 false => cuLaunchKernelEx;
    Meter "cuLaunchKernelEx" c"cuLaunchKernelEx_ptsz" 11060..2147483647 true => cuLaunchKernelEx_ptsz;
    Meter "cuLaunchCooperativeKernel" c"cuLaunchCooperativeKernel" 9000..2147483647 false => cuLaunchCooperativeKernel;
    Meter "cuLaunchCooperativeKernel" c"cuLaunchCooperativeKernel_ptsz" 9000..2147483647 true => cuLaunchCooperativeKernel_ptsz;
    Context "cuCtxDestroy" c"cuCtxDestroy_v2" 4000..2147483647 false => cuCtxDestroy_v2;
    Context "cuDevicePrimaryCtxRetain" c"cuDevicePrimaryCtxRetain" 7000..2147483647 false => cuDevicePrimaryCtxRetain;
    Context "cuDevicePrimaryCtxRelease" c"cuDevicePrimaryCtxRelease_v2" 11000..2147483647 false => cuDevicePrimaryCtxRelease_v2;
    Context "cuDevicePrimaryCtxReset" c"cuDevicePrimaryCtxReset_v2" 11000..2147483647 false => cuDevicePrimaryCtxReset_v2;
    Dispatch "cuGetProcAddress" c"cuGetProcAddress" 11030..12000 false => cuGetProcAddress;
    Dispatch "cuGetProcAddress" c"cuGetProcAddress_v2" 12000..2147483647 false => cuGetProcAddress_v2;
};

/// The hook for what the driver answered, if there is one. A name without a flavour of its own for per-thread streams
/// means the same function in both.
fn hook_for(name: &CStr, version: i32, flags: u64, answer: *mut c_void) -> Option<*const c_void> {
    let name = name.to_str().ok()?;
    let of = |per_thread: bool| {
        TABLE.iter().find(|e| e.name == name && e.versions.contains(&version) && e.per_thread == per_thread)
    };
    let entry = if flags & PER_THREAD == 0 { of(false) } else { of(true).or_else(|| of(false)) }?;
    (version <= KNOWN_VERSION || real::symbol(entry.symbol) == answer).then_some(entry.hook)
}

/// # Safety
/// `name` and `function` are as cuGetProcAddress takes them, and the driver has answered `SUCCESS`.
unsafe fn put_hook(name: *const c_char, function: *mut *mut c_void, version: i32, flags: u64) {
    if name.is_null() || function.is_null() {
        return;
    }
    // SAFETY: the driver has read the name and written the address.
    let (name, answer) = unsafe { (CStr::from_ptr(name), *function) };
    if answer.is_null() {
        return;
    }
    if let Some(hook) = hook_for(name, version, flags, answer) {
        // SAFETY: as above.
        unsafe { *function = hook.cast_mut() };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    name: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let answered = unsafe { real::get_proc_address(name, function, version, flags) };
    if answered == SUCCESS {
        // SAFETY: the driver has just accepted them.
        unsafe { put_hook(name, function, version, flags) };
    }
    answered
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let answered = unsafe { real::get_proc_address_v2(name, function, version, flags, status) };
    if answered == SUCCESS {
        // SAFETY: the driver has just accepted them.
        unsafe { put_hook(name, function, version, flags) };
    }
    answered
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged; `*address` is read only after the driver reported success.
    let call = || unsafe { check(real::mem_alloc(address, bytes)).map(|()| *address) };
    code(memory::alloc(bytes as u64, call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(address: *mut u32, bytes: u32) -> Code {
    // SAFETY: as above.
    let call = || unsafe { check(real::mem_alloc_v1(address, bytes)).map(|()| u64::from(*address)) };
    code(memory::alloc(bytes.into(), call))
}

/// The driver chooses the pitch; rows are charged at 512 bytes' alignment, which is the widest it uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> Code {
    let bytes = (width as u64).checked_next_multiple_of(512).and_then(|row| row.checked_mul(height as u64));
    // SAFETY: as above.
    let call =
        || unsafe { check(real::mem_alloc_pitch(address, pitch, width, height, element)).map(|()| *address) };
    code(memory::alloc(bytes.unwrap_or(u64::MAX), call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32) -> Code {
    // SAFETY: as above.
    let call = || unsafe { check(real::mem_alloc_managed(address, bytes, flags)).map(|()| *address) };
    code(memory::alloc(bytes as u64, call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) -> Code {
    // SAFETY: as above.
    let call = || unsafe { check(real::mem_alloc_async(address, bytes, stream)).map(|()| *address) };
    code(memory::alloc(bytes as u64, call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> Code {
    // SAFETY: the caller's argument, unchanged.
    code(memory::free(address, || unsafe { real::mem_free(address) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree(address: u32) -> Code {
    // SAFETY: the caller's argument, unchanged.
    code(memory::free(address.into(), || unsafe { real::mem_free_v1(address) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    code(memory::free(address, || unsafe { real::mem_free_async(address, stream) }))
}

/// Either pointer may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    match report::memory() {
        Ok((f, t)) => {
            if !free.is_null() {
                // SAFETY: the caller's pointer, not null.
                unsafe { free.write(f) };
            }
            if !total.is_null() {
                // SAFETY: the caller's pointer, not null.
                unsafe { total.write(t) };
            }
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> Code {
    match report::total(device) {
        Ok(_) if bytes.is_null() => INVALID_VALUE,
        Ok(total) => {
            // SAFETY: the caller's pointer, not null.
            unsafe { bytes.write(total) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// The first ABI has 32 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(bytes: *mut u32, device: i32) -> Code {
    match report::total(device) {
        Ok(_) if bytes.is_null() => INVALID_VALUE,
        Ok(total) => {
            // SAFETY: the caller's pointer, not null.
            unsafe { bytes.write(u32::try_from(total).unwrap_or(u32::MAX)) };
            SUCCESS
        }
        Err(code) => code,
    }
}

macro_rules! launch_hooks {
    ($($name:ident $real:ident($($last:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
            shared: u32, stream: usize, $($last: $type),*
        ) -> Code {
            let key = Key { function, grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z] };
            // SAFETY: the caller's arguments, unchanged.
            launch::launch(key, stream, || unsafe {
                real::$real(
                    function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, $($last),*
                )
            })
        }
    )*};
}

launch_hooks! {
    cuLaunchKernel launch_kernel(parameters: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchKernel_ptsz launch_kernel_ptsz(parameters: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchCooperativeKernel launch_cooperative(parameters: *mut *mut c_void);
    cuLaunchCooperativeKernel_ptsz launch_cooperative_ptsz(parameters: *mut *mut c_void);
}

macro_rules! launch_ex_hooks {
    ($($name:ident $real:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            config: *const LaunchConfig,
            function: usize,
            parameters: *mut *mut c_void,
            extra: *mut *mut c_void,
        ) -> Code {
            // SAFETY: the caller's arguments, unchanged.
            let call = || unsafe { real::$real(config, function, parameters, extra) };
            // SAFETY: the caller's pointer; null is for the driver to refuse.
            let Some(wanted) = (unsafe { config.as_ref() }) else { return call() };
            let key = Key { function, grid: wanted.grid, block: wanted.block };
            launch::launch(key, wanted.stream, call)
        }
    )*};
}

launch_ex_hooks! {
    cuLaunchKernelEx launch_kernel_ex;
    cuLaunchKernelEx_ptsz launch_kernel_ex_ptsz;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDestroy_v2(context: usize) -> Code {
    launch::end_context(context);
    // SAFETY: the caller's argument, unchanged.
    let destroyed = unsafe { real::ctx_destroy(context) };
    if destroyed == SUCCESS {
        memory::end_context(context);
    }
    destroyed
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: i32) -> Code {
    // SAFETY: the caller's arguments, unchanged; `*context` is read only after the driver reported success.
    let retained = unsafe { real::primary_retain(context, device) };
    if retained == SUCCESS && !context.is_null() {
        // SAFETY: as above.
        memory::know_primary(device, unsafe { *context });
    }
    retained
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Code {
    // SAFETY: the caller's argument, unchanged.
    let released = unsafe { real::primary_release(device) };
    if released == SUCCESS {
        memory::end_primary(device);
    }
    released
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Code {
    // SAFETY: the caller's argument, unchanged.
    let reset = unsafe { real::primary_reset(device) };
    if reset == SUCCESS {
        memory::end_primary(device);
    }
    reset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &CStr, version: i32, flags: u64) -> Option<*const c_void> {
        hook_for(name, version, flags, std::ptr::dangling_mut())
    }

    #[test]
    fn a_name_means_the_abi_of_the_version_asked_for() {
        assert_eq!(at(c"cuMemAlloc", 2000, 0), Some(cuMemAlloc as *const c_void));
        assert_eq!(at(c"cuMemAlloc", 12000, 0), Some(cuMemAlloc_v2 as *const c_void));
        assert_eq!(at(c"cuGetProcAddress", 11030, 0), Some(cuGetProcAddress as *const c_void));
        assert_eq!(at(c"cuGetProcAddress", 12000, 0), Some(cuGetProcAddress_v2 as *const c_void));
    }

    #[test]
    fn per_thread_streams_keep_their_flavour() {
        assert_eq!(at(c"cuLaunchKernel", 12000, 2), Some(cuLaunchKernel_ptsz as *const c_void));
        assert_eq!(at(c"cuLaunchKernel", 12000, 1), Some(cuLaunchKernel as *const c_void));
        assert_eq!(at(c"cuMemAlloc", 12000, 2), Some(cuMemAlloc_v2 as *const c_void));
    }

    #[test]
    fn unknown_names_and_newer_abis_pass_through() {
        assert_eq!(at(c"cuMemcpyAsync", 12000, 0), None);
        assert_eq!(at(c"cuMemAlloc", KNOWN_VERSION + 1, 0), None);
    }

    #[test]
    fn no_two_entries_answer_the_same_question() {
        for (i, a) in TABLE.iter().enumerate() {
            for b in TABLE.iter().skip(i + 1).filter(|b| b.name == a.name && b.per_thread == a.per_thread) {
                let apart = a.versions.end <= b.versions.start || b.versions.end <= a.versions.start;
                assert!(apart, "{} {:?} {:?}", a.name, a.versions, b.versions);
            }
        }
    }
}
