//! Work for the GPU.

#[cfg(target_arch = "x86_64")]
use std::ffi::CStr;
use std::ffi::c_void;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicPtr, Ordering};

use super::twins;
use crate::abi::{LaunchConfig, LaunchParameters};
#[cfg(target_arch = "x86_64")]
use crate::credit::kernel;
use crate::launch::{LEGACY, PER_THREAD, launched, meant};
use crate::{Code, check, code, graph, real};

/// Defines the two flavours of cuLaunchKernel: on x86-64 a launch on credit is a few comparisons and a jump.
macro_rules! kernels {
    ($($name:ident $ask:ident $address:ident $default:expr;)*) => {$(
        /// The driver's function, once it was asked for; before, the one that asks.
        #[cfg(target_arch = "x86_64")]
        static $address: AtomicPtr<c_void> = AtomicPtr::new($ask as *const () as *mut c_void);

        unsafe extern "C" fn $ask(
            function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
            shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
        ) -> Code {
            #[cfg(target_arch = "x86_64")]
            if $address.load(Ordering::Relaxed) == $ask as *const () as *mut c_void {
                const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                };
                let found = real::symbol(NAME);
                if !found.is_null() {
                    $address.store(found, Ordering::Relaxed);
                }
            }
            let (grid, block, lane) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], meant(stream, $default));
            // SAFETY: the caller's arguments, unchanged.
            launched!(function, grid, block, lane, unsafe {
                real::$name(
                    function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra
                )
            })
        }

        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
            shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
        ) -> Code {
            kernel!($address, $ask, $default)
        }

        #[cfg(not(target_arch = "x86_64"))]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
            shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
        ) -> Code {
            // SAFETY: the caller's arguments, unchanged.
            unsafe {
                $ask(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra)
            }
        }
    )*};
}

kernels! {
    cuLaunchKernel ask_kernel KERNEL LEGACY;
    cuLaunchKernel_ptsz ask_kernel_ptsz KERNEL_PTSZ PER_THREAD;
}

twins! {
    cuLaunchCooperativeKernel cuLaunchCooperativeKernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void
    ) => |real| {
        let (grid, block, lane) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], meant(stream, DEFAULT));
        // SAFETY: the caller's arguments, unchanged.
        launched!(function, grid, block, lane, unsafe {
            real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters)
        })
    };
    cuLaunchKernelEx cuLaunchKernelEx_ptsz(
        config: *const LaunchConfig, function: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
    ) => |real| {
        // SAFETY: the caller's pointer.
        let Some(wanted) = (unsafe { config.as_ref() }) else {
            // SAFETY: the caller's arguments, for the driver to refuse.
            return unsafe { real(config, function, parameters, extra) };
        };
        // SAFETY: the caller's arguments, unchanged.
        launched!(function, wanted.grid, wanted.block, meant(wanted.stream, DEFAULT), unsafe {
            real(config, function, parameters, extra)
        })
    };
    cuGraphLaunch cuGraphLaunch_ptsz(executable: usize, stream: usize) => |real| {
        launched!(executable, [0; 3], [0; 3], meant(stream, DEFAULT), {
            // SAFETY: the caller's arguments, unchanged.
            code(graph::run(executable, || unsafe { check(real(executable, stream)) }))
        })
    };
}

/// Charged by the first launch of the list, which are alike.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernelMultiDevice(
    list: *mut LaunchParameters,
    count: u32,
    flags: u32,
) -> Code {
    // SAFETY: the caller's pointer, of `count` entries.
    let Some(first) = (unsafe { list.as_ref() }).filter(|_| count > 0) else {
        // SAFETY: the caller's arguments, for the driver to refuse.
        return unsafe { real::cuLaunchCooperativeKernelMultiDevice(list, count, flags) };
    };
    // SAFETY: the caller's arguments, unchanged.
    launched!(first.function, first.grid, first.block, first.stream, unsafe {
        real::cuLaunchCooperativeKernelMultiDevice(list, count, flags)
    })
}

/// A launch of the first ABI, whose block is set beforehand.
fn grid(width: i32, height: i32) -> [u32; 3] {
    [width.unsigned_abs(), height.unsigned_abs(), 1]
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunch(function: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    launched!(function, [1; 3], [0; 3], 0, unsafe { real::cuLaunch(function) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGrid(function: usize, width: i32, height: i32) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    launched!(function, grid(width, height), [0; 3], 0, unsafe {
        real::cuLaunchGrid(function, width, height)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGridAsync(function: usize, width: i32, height: i32, stream: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    launched!(function, grid(width, height), [0; 3], stream, unsafe {
        real::cuLaunchGridAsync(function, width, height, stream)
    })
}
