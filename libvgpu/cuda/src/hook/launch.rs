//! Work for the GPU.

use std::ffi::c_void;

use vgpu_core::compute::estimate::Key;

use super::twins;
use crate::abi::{LaunchConfig, LaunchParameters};
use crate::launch::{launch, meant};
use crate::{Code, check, code, graph, real};

twins! {
    cuLaunchKernel cuLaunchKernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
    ) => |real| {
        let key = Key { function, grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z] };
        // SAFETY: the caller's arguments, unchanged.
        launch(key, meant(stream, DEFAULT), || unsafe {
            real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters, extra)
        })
    };
    cuLaunchCooperativeKernel cuLaunchCooperativeKernel_ptsz(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: usize, parameters: *mut *mut c_void
    ) => |real| {
        let key = Key { function, grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z] };
        // SAFETY: the caller's arguments, unchanged.
        launch(key, meant(stream, DEFAULT), || unsafe {
            real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters)
        })
    };
    cuLaunchKernelEx cuLaunchKernelEx_ptsz(
        config: *const LaunchConfig, function: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
    ) => |real| {
        // SAFETY: the caller's arguments, unchanged.
        let call = || unsafe { real(config, function, parameters, extra) };
        // SAFETY: the caller's pointer; null is for the driver to refuse.
        let Some(wanted) = (unsafe { config.as_ref() }) else { return call() };
        let key = Key { function, grid: wanted.grid, block: wanted.block };
        launch(key, meant(wanted.stream, DEFAULT), call)
    };
    cuGraphLaunch cuGraphLaunch_ptsz(executable: usize, stream: usize) => |real| {
        // SAFETY: the caller's arguments, unchanged.
        let call = || unsafe { check(real(executable, stream)) };
        let key = Key { function: executable, grid: [0; 3], block: [0; 3] };
        launch(key, meant(stream, DEFAULT), || code(graph::run(executable, call)))
    };
}

/// Charged by the first launch of the list, which are alike.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernelMultiDevice(
    list: *mut LaunchParameters,
    count: u32,
    flags: u32,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { real::cuLaunchCooperativeKernelMultiDevice(list, count, flags) };
    // SAFETY: the caller's pointer, of `count` entries.
    match unsafe { list.as_ref() }.filter(|_| count > 0) {
        Some(first) => {
            let key = Key { function: first.function, grid: first.grid, block: first.block };
            launch(key, first.stream, call)
        }
        None => call(),
    }
}

/// A launch of the first ABI, whose block is set beforehand.
fn grid(function: usize, width: i32, height: i32) -> Key {
    Key { function, grid: [width.unsigned_abs(), height.unsigned_abs(), 1], block: [0; 3] }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunch(function: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    launch(grid(function, 1, 1), 0, || unsafe { real::cuLaunch(function) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGrid(function: usize, width: i32, height: i32) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    launch(grid(function, width, height), 0, || unsafe { real::cuLaunchGrid(function, width, height) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchGridAsync(function: usize, width: i32, height: i32, stream: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { real::cuLaunchGridAsync(function, width, height, stream) };
    launch(grid(function, width, height), stream, call)
}
