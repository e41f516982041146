//! Launches.

use std::ffi::c_void;

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, code, of_gpu, twins};

/// Length of a kernel that does not say its own.
const KERNEL_NANOS: u64 = 10_000;
/// Threads of the largest block.
const BLOCK: u64 = 1024;

/// `CU_LAUNCH_PARAM_END`, `_BUFFER_POINTER` and `_BUFFER_SIZE`.
const END: usize = 0;
const BUFFER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// Grid and block of a launch.
struct Shape([u32; 3], [u32; 3]);

impl Shape {
    fn is_possible(&self) -> bool {
        let threads: u64 = self.1.iter().map(|n| u64::from((*n).min(BLOCK as u32 + 1))).product();
        self.0.iter().all(|n| *n != 0) && (1..=BLOCK).contains(&threads)
    }
}

/// First parameter of a launch, as a u64.
///
/// # Safety
/// `parameters` is null or points to a pointer to a u64; else `extra` is null or as cuLaunchKernel takes it, with such a
/// parameter.
unsafe fn first_parameter(parameters: *mut *mut c_void, extra: *mut *mut c_void) -> Option<u64> {
    if !parameters.is_null() {
        // SAFETY: points to at least one pointer.
        let first = unsafe { *parameters }.cast::<u64>();
        // SAFETY: it points to a u64.
        return (!first.is_null()).then(|| unsafe { first.read_unaligned() });
    }
    let (mut at, mut buffer) = (extra, std::ptr::null::<u64>());
    while !at.is_null() {
        // SAFETY: the list goes on until its end mark.
        let word = unsafe { *at } as usize;
        if word == END {
            break;
        }
        // SAFETY: every mark but the end has a value behind it.
        let value = unsafe { *at.add(1) };
        match word {
            BUFFER => buffer = value.cast(),
            BUFFER_SIZE => {}
            _ => return None,
        }
        at = at.wrapping_add(2);
    }
    // SAFETY: the buffer holds the parameters, the first at its beginning.
    (!buffer.is_null()).then(|| unsafe { buffer.read_unaligned() })
}

/// # Safety
/// Those of cuLaunchKernel.
unsafe fn launch(
    function: usize,
    shape: &Shape,
    stream: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    let run = |driver: &Driver| {
        let (_, object) = driver.of_stream(stream)?;
        let objects = driver.objects();
        let known = objects.functions.get(&function).ok_or(INVALID_HANDLE)?;
        if known.context != object.context {
            return Err(INVALID_HANDLE);
        }
        let is_spin = known.name.as_c_str() == c"spin";
        drop(objects);
        if !shape.is_possible() {
            return Err(INVALID_VALUE);
        }
        let nanos = if is_spin {
            // SAFETY: `spin` takes one u64, so that is what the caller gave.
            unsafe { first_parameter(parameters, extra) }.ok_or(INVALID_VALUE)?
        } else {
            KERNEL_NANOS
        };
        driver.process.launch(object.context, nanos).map_err(|e| of_gpu(&e))
    };
    code(driver().and_then(run))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    _shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    let shape = Shape([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    // SAFETY: the caller's pointers, passed on.
    unsafe { launch(function, &shape, stream, parameters, extra) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    _shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
) -> Code {
    let shape = Shape([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    // SAFETY: the caller's pointers, passed on.
    unsafe { launch(function, &shape, stream, parameters, std::ptr::null_mut()) }
}

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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    if config.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's pointer, not null.
    let config = unsafe { &*config };
    // SAFETY: the caller's pointers, passed on.
    unsafe { launch(function, &Shape(config.grid, config.block), config.stream, parameters, extra) }
}

twins! {
    cuLaunchKernel_ptsz = cuLaunchKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchCooperativeKernel_ptsz = cuLaunchCooperativeKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void);
    cuLaunchKernelEx_ptsz = cuLaunchKernelEx(
        config: *const LaunchConfig, function: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_is_found_in_either_form() {
        let mut value = 5_000_000u64;
        let mut parameters = [(&raw mut value).cast::<c_void>()];
        let mut size = 8usize;
        let mut extra = [
            BUFFER as *mut c_void,
            (&raw mut value).cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            END as *mut c_void,
        ];
        let none = std::ptr::null_mut();
        // SAFETY: pointers to locals of the forms cuLaunchKernel takes.
        unsafe {
            assert_eq!(first_parameter(parameters.as_mut_ptr(), none), Some(5_000_000));
            assert_eq!(first_parameter(none, extra.as_mut_ptr()), Some(5_000_000));
            assert_eq!(first_parameter(none, none), None);
        }
    }

    #[test]
    fn empty_grids_and_too_large_blocks_are_impossible() {
        assert!(Shape([1, 1, 1], [1024, 1, 1]).is_possible());
        for shape in [Shape([0, 1, 1], [1, 1, 1]), Shape([1; 3], [0, 1, 1]), Shape([1; 3], [1024, 2, 1])] {
            assert!(!shape.is_possible());
        }
        assert!(!Shape([1; 3], [u32::MAX; 3]).is_possible());
    }
}
