//! Arrays and mipmapped arrays.

use std::ffi::c_void;

use vgpu_core::array::Array;

use super::given;
use crate::abi::{Array3dDescriptor, Array3dDescriptorV1, ArrayDescriptor, ArrayDescriptorV1};
use crate::memory::{alloc, arrays, free};
use crate::{Code, code, real};

fn flat(width: u64, height: u64, format: u32, channels: u32) -> Array {
    Array { extent: [width, height, 0], format, channels, flags: 0 }
}

/// Makes an array; without a description the driver says what is wrong.
fn make(array: Option<Array>, levels: u32, call: impl FnOnce() -> Result<usize, Code>) -> Code {
    let bytes = array.map_or(Some(0), |array| array.bytes(levels));
    code(alloc(arrays, bytes, |_| call().map(|handle| handle as u64)))
}

impl Array3dDescriptor {
    fn array(&self) -> Array {
        Array {
            extent: [self.width as u64, self.height as u64, self.depth as u64],
            format: self.format,
            channels: self.channels,
            flags: self.flags,
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate_v2(array: *mut usize, wanted: *const ArrayDescriptor) -> Code {
    // SAFETY: the caller's pointer, valid or null.
    let size = unsafe { wanted.as_ref() };
    let size = size.map(|d| flat(d.width as u64, d.height as u64, d.format, d.channels));
    // SAFETY: the caller's arguments, unchanged.
    make(size, 1, || unsafe { given(real::cuArrayCreate_v2(array, wanted), array) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate(array: *mut usize, wanted: *const c_void) -> Code {
    // SAFETY: the caller's pointer, valid or null.
    let size = unsafe { wanted.cast::<ArrayDescriptorV1>().as_ref() };
    let size = size.map(|d| flat(d.width.into(), d.height.into(), d.format, d.channels));
    // SAFETY: the caller's arguments, unchanged.
    make(size, 1, || unsafe { given(real::cuArrayCreate(array, wanted), array) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate_v2(array: *mut usize, wanted: *const Array3dDescriptor) -> Code {
    // SAFETY: the caller's pointer, valid or null.
    let size = unsafe { wanted.as_ref() }.map(Array3dDescriptor::array);
    // SAFETY: the caller's arguments, unchanged.
    make(size, 1, || unsafe { given(real::cuArray3DCreate_v2(array, wanted), array) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate(array: *mut usize, wanted: *const c_void) -> Code {
    // SAFETY: the caller's pointer, valid or null.
    let size = unsafe { wanted.cast::<Array3dDescriptorV1>().as_ref() }.map(|d| Array {
        extent: [d.width.into(), d.height.into(), d.depth.into()],
        format: d.format,
        channels: d.channels,
        flags: d.flags,
    });
    // SAFETY: the caller's arguments, unchanged.
    make(size, 1, || unsafe { given(real::cuArray3DCreate(array, wanted), array) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayCreate(
    array: *mut usize,
    wanted: *const Array3dDescriptor,
    levels: u32,
) -> Code {
    // SAFETY: the caller's pointer, valid or null.
    let size = unsafe { wanted.as_ref() }.map(Array3dDescriptor::array);
    // SAFETY: the caller's arguments, unchanged.
    make(size, levels, || unsafe { given(real::cuMipmappedArrayCreate(array, wanted, levels), array) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayDestroy(array: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    code(free(arrays(), array as u64, || unsafe { real::cuArrayDestroy(array) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayDestroy(array: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    code(free(arrays(), array as u64, || unsafe { real::cuMipmappedArrayDestroy(array) }))
}
