//! Work for the GPU.

use std::ffi::c_void;

use super::twins;
use crate::abi::{LaunchConfig, LaunchParameters};
use crate::launch::{launched, meant};
use crate::{Code, check, code, graph, real};

twins! {
    cuLaunchKernel cuLaunchKernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
    ) => |real| {
        let (grid, block, lane) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], meant(stream, DEFAULT));
        // SAFETY: the caller's arguments, unchanged.
        launched!(function, grid, block, lane, unsafe {
            real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra)
        })
    };
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
    launched!(function, grid(width, height), [0; 3], 0, unsafe { real::cuLaunchGrid(function, width, height) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGridAsync(function: usize, width: i32, height: i32, stream: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    launched!(function, grid(width, height), [0; 3], stream, unsafe {
        real::cuLaunchGridAsync(function, width, height, stream)
    })
}
