//! Arrays and mipmapped arrays: accounted, without contents.
//!
//! A level takes its elements in rows of whole 64 bytes; an array takes its levels in whole blocks of 64 KiB. Sparse
//! arrays and those whose mapping is deferred take nothing.

use std::collections::HashMap;

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, code, give, of_gpu};

const ROW: u64 = 64;
const BLOCK: u64 = 64 << 10;

/// `CUDA_ARRAY3D_LAYERED`, `_CUBEMAP`, `_SPARSE` and `_DEFERRED_MAPPING`.
const LAYERED: u32 = 1;
const CUBEMAP: u32 = 4;
const SPARSE: u32 = 0x40;
const DEFERRED: u32 = 0x80;

/// Arrays of a process.
#[derive(Default)]
pub(crate) struct Arrays {
    arrays: HashMap<usize, Array>,
    mipmaps: HashMap<usize, Array>,
}

#[derive(Clone)]
struct Array {
    context: usize,
    gpu: usize,
    shape: Shape,
    bytes: u64,
    charged: u64,
    /// Levels of a mipmapped array that have been asked for, by number.
    levels: HashMap<u32, usize>,
    is_level: bool,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FlatShape {
    width: usize,
    height: usize,
    format: u32,
    channels: u32,
}

/// Of the first ABI.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NarrowFlatShape {
    width: u32,
    height: u32,
    format: u32,
    channels: u32,
}

/// Of the first ABI.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NarrowShape {
    width: u32,
    height: u32,
    depth: u32,
    format: u32,
    channels: u32,
    flags: u32,
}

/// `CUDA_ARRAY_MEMORY_REQUIREMENTS`.
#[repr(C)]
#[derive(Debug)]
pub struct Requirements {
    bytes: usize,
    alignment: usize,
    reserved: [u32; 4],
}

impl From<FlatShape> for Shape {
    fn from(flat: FlatShape) -> Self {
        let FlatShape { width, height, format, channels } = flat;
        Self { width, height, depth: 0, format, channels, flags: 0 }
    }
}

impl From<NarrowFlatShape> for Shape {
    fn from(flat: NarrowFlatShape) -> Self {
        let (width, height) = (flat.width as usize, flat.height as usize);
        Self { width, height, depth: 0, format: flat.format, channels: flat.channels, flags: 0 }
    }
}

impl From<NarrowShape> for Shape {
    fn from(n: NarrowShape) -> Self {
        let (width, height, depth) = (n.width as usize, n.height as usize, n.depth as usize);
        Self { width, height, depth, format: n.format, channels: n.channels, flags: n.flags }
    }
}

impl Shape {
    /// Bytes of a channel of a `CUarray_format`.
    fn channel(&self) -> Option<u64> {
        match self.format {
            // Whole numbers of 8, 16 and 32 bits with and without sign, half and float.
            0x01 | 0x08 => Some(1),
            0x02 | 0x09 | 0x10 => Some(2),
            0x03 | 0x0a | 0x20 => Some(4),
            _ => None,
        }
    }

    fn is_layered(&self) -> bool {
        self.flags & (LAYERED | CUBEMAP) != 0
    }

    /// Number of levels down to one element.
    fn most_levels(&self) -> u32 {
        let depth = if self.is_layered() { 1 } else { self.depth };
        let longest = self.width.max(self.height).max(depth).max(1);
        usize::BITS - longest.leading_zeros()
    }

    /// The shape of a level: each dimension halved so often, down to 1; layers stay.
    fn level(&self, level: u32) -> Self {
        let halved = |length: usize| if length == 0 { 0 } else { (length >> level).max(1) };
        let depth = if self.is_layered() { self.depth } else { halved(self.depth) };
        Self { width: halved(self.width), height: halved(self.height), depth, ..*self }
    }

    /// Bytes of so many levels; `None` for what cannot be.
    fn bytes(&self, levels: u32) -> Option<u64> {
        let element = self.channel()? * u64::from(self.channels);
        if !matches!(self.channels, 1 | 2 | 4)
            || self.width == 0
            || !(1..=self.most_levels()).contains(&levels)
        {
            return None;
        }
        let is_flat = self.height == 0 && self.depth != 0 && !self.is_layered();
        let is_cube = self.flags & CUBEMAP != 0;
        if is_flat
            || is_cube && (self.width != self.height || !self.depth.is_multiple_of(6) || self.depth == 0)
        {
            return None;
        }
        let level = |number: u32| {
            let Self { width, height, depth, .. } = self.level(number);
            let row = (width as u64).checked_mul(element)?.checked_next_multiple_of(ROW)?;
            row.checked_mul(height.max(1) as u64)?.checked_mul(depth.max(1) as u64)
        };
        let sum = (0..levels).try_fold(0u64, |sum, number| sum.checked_add(level(number)?))?;
        sum.checked_next_multiple_of(BLOCK)
    }
}

fn make(shape: Shape, levels: u32) -> Result<Array, Code> {
    let driver = driver()?;
    let (context, object) = driver.current()?;
    crate::capture::refuse_unsafe(driver)?;
    let bytes = shape.bytes(levels).ok_or(INVALID_VALUE)?;
    let charged = if shape.flags & (SPARSE | DEFERRED) != 0 { 0 } else { bytes };
    let gpu = object.context.gpu();
    driver.process.charge(gpu, charged).map_err(|e| of_gpu(&e))?;
    Ok(Array { context, gpu, shape, bytes, charged, levels: HashMap::new(), is_level: false })
}

/// # Safety
/// `shape` is null or valid.
unsafe fn create<S: Copy + Into<Shape>>(handle: *mut usize, shape: *const S) -> Code {
    // SAFETY: the caller's pointer.
    let Some(shape) = (unsafe { shape.as_ref() }) else { return INVALID_VALUE };
    let create = || {
        let array = make((*shape).into(), 1)?;
        let mut objects = driver()?.objects();
        let handle = objects.handle();
        objects.arrays.arrays.insert(handle, array);
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(handle, create) }
}

macro_rules! creates {
    ($($name:ident($type:ty);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(array: *mut usize, shape: *const $type) -> Code {
            // SAFETY: the caller's pointers.
            unsafe { create(array, shape) }
        }
    )*};
}

creates! {
    cuArrayCreate(NarrowFlatShape);
    cuArrayCreate_v2(FlatShape);
    cuArray3DCreate(NarrowShape);
    cuArray3DCreate_v2(Shape);
}

fn release(driver: &Driver, array: &Array) {
    driver.process.uncharge(array.gpu, array.charged);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayDestroy(array: usize) -> Code {
    let end = |driver: &Driver| {
        let mut objects = driver.objects();
        let known = objects.arrays.arrays.get(&array).ok_or(INVALID_HANDLE)?;
        if known.is_level {
            // It goes with its mipmapped array.
            return Err(INVALID_HANDLE);
        }
        if let Some(gone) = objects.arrays.arrays.remove(&array) {
            release(driver, &gone);
        }
        Ok(())
    };
    code(driver().and_then(end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayCreate(
    mipmap: *mut usize,
    shape: *const Shape,
    levels: u32,
) -> Code {
    // SAFETY: the caller's pointer.
    let Some(shape) = (unsafe { shape.as_ref() }) else { return INVALID_VALUE };
    let create = || {
        if levels == 0 {
            return Err(INVALID_VALUE);
        }
        // More levels than there can be are as many as there can be.
        let made = make(*shape, levels.min(shape.most_levels()))?;
        let mut objects = driver()?.objects();
        let handle = objects.handle();
        objects.arrays.mipmaps.insert(handle, made);
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(mipmap, create) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayGetLevel(array: *mut usize, mipmap: usize, level: u32) -> Code {
    let find = || {
        let mut objects = driver()?.objects();
        let known = objects.arrays.mipmaps.get(&mipmap).ok_or(INVALID_HANDLE)?;
        if let Some(array) = known.levels.get(&level) {
            return Ok(*array);
        }
        let shape = known.shape.level(level);
        if level >= known.shape.most_levels() {
            return Err(INVALID_VALUE);
        }
        let bytes = shape.bytes(1).ok_or(INVALID_VALUE)?;
        let levels = HashMap::new();
        let made = Array { shape, bytes, charged: 0, levels, is_level: true, ..known.clone() };
        let handle = objects.handle();
        objects.arrays.arrays.insert(handle, made);
        if let Some(known) = objects.arrays.mipmaps.get_mut(&mipmap) {
            known.levels.insert(level, handle);
        }
        Ok(handle)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(array, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayDestroy(mipmap: usize) -> Code {
    let end = |driver: &Driver| {
        let mut objects = driver.objects();
        let gone = objects.arrays.mipmaps.remove(&mipmap).ok_or(INVALID_HANDLE)?;
        gone.levels.values().for_each(|level| drop(objects.arrays.arrays.remove(level)));
        release(driver, &gone);
        Ok(())
    };
    code(driver().and_then(end))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DGetDescriptor_v2(shape: *mut Shape, array: usize) -> Code {
    let find = || driver()?.objects().arrays.arrays.get(&array).map(|a| a.shape).ok_or(INVALID_HANDLE);
    // SAFETY: the caller's pointer.
    unsafe { give(shape, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayGetDescriptor_v2(shape: *mut FlatShape, array: usize) -> Code {
    let find = || {
        let objects = driver()?.objects();
        let Shape { width, height, format, channels, .. } =
            objects.arrays.arrays.get(&array).ok_or(INVALID_HANDLE)?.shape;
        Ok(FlatShape { width, height, format, channels })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(shape, find) }
}

fn requirements(array: &Array) -> Requirements {
    Requirements { bytes: array.bytes as usize, alignment: BLOCK as usize, reserved: [0; 4] }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayGetMemoryRequirements(
    found: *mut Requirements,
    array: usize,
    device: i32,
) -> Code {
    let find = || {
        let driver = driver()?;
        driver.gpu(device)?;
        driver.objects().arrays.arrays.get(&array).map(requirements).ok_or(INVALID_HANDLE)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(found, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayGetMemoryRequirements(
    found: *mut Requirements,
    mipmap: usize,
    device: i32,
) -> Code {
    let find = || {
        let driver = driver()?;
        driver.gpu(device)?;
        driver.objects().arrays.mipmaps.get(&mipmap).map(requirements).ok_or(INVALID_HANDLE)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(found, find) }
}

/// A context is gone, and its arrays with it.
pub(crate) fn forget(driver: &Driver, context: usize) {
    let mut objects = driver.objects();
    let Arrays { arrays, mipmaps } = &mut objects.arrays;
    for all in [arrays, mipmaps] {
        all.values().filter(|a| a.context == context).for_each(|a| release(driver, a));
        all.retain(|_, a| a.context != context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOAT: u32 = 0x20;

    fn shape(width: usize, height: usize, depth: usize, channels: u32, flags: u32) -> Shape {
        Shape { width, height, depth, format: FLOAT, channels, flags }
    }

    #[test]
    fn structures_are_those_of_cuda_h() {
        assert_eq!((size_of::<Shape>(), size_of::<FlatShape>(), size_of::<NarrowShape>()), (40, 24, 24));
        assert_eq!(size_of::<Requirements>(), 32);
    }

    #[test]
    fn arrays_take_whole_rows_in_whole_blocks() {
        assert_eq!(shape(1, 0, 0, 1, 0).bytes(1), Some(BLOCK));
        assert_eq!(shape(1024, 1024, 0, 4, 0).bytes(1), Some(16 << 20));
        assert_eq!(shape(17, 1024, 16, 1, 0).bytes(1), Some(128 * 1024 * 16));
        assert_eq!(shape(64, 64, 6, 1, CUBEMAP).bytes(1), Some(128 << 10));
    }

    #[test]
    fn levels_are_halved_and_layers_stay() {
        assert_eq!(shape(1024, 512, 0, 1, 0).most_levels(), 11);
        let one: u64 = shape(1024, 1024, 0, 4, 0).bytes(1).unwrap_or(0);
        let two: u64 = shape(1024, 1024, 0, 4, 0).bytes(2).unwrap_or(0);
        assert_eq!(two - one, 4 << 20);
        assert_eq!(shape(256, 256, 10, 1, LAYERED).level(3).depth, 10);
        assert_eq!(shape(256, 256, 16, 1, 0).level(3).depth, 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let no = [
            shape(0, 1, 1, 1, 0),
            shape(8, 8, 8, 3, 0),
            shape(8, 0, 8, 1, 0),
            shape(8, 4, 6, 1, CUBEMAP),
            shape(usize::MAX, 8, 8, 4, 0),
        ];
        assert!(no.iter().all(|s| s.bytes(1).is_none()));
        assert_eq!(Shape { format: 0x77, ..shape(8, 8, 0, 1, 0) }.bytes(1), None);
        assert_eq!(shape(8, 8, 0, 1, 0).bytes(5), None);
    }
}
