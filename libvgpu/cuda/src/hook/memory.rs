//! Linear, pitched and managed memory.

use super::given;
use std::ffi::c_void;

use crate::memory::{alloc, alloc_plain, free, pointers};
use crate::{Code, OUT_OF_MEMORY, SUCCESS, code, movable, real};

/// The widest alignment of rows the driver uses: what a row is charged at before the driver has said its pitch.
const PITCH: u64 = 512;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    if !address.is_null()
        && let Some(made) = movable::alloc(bytes as u64)
    {
        // SAFETY: the caller's pointer, not null.
        return code(made.map(|made| unsafe { address.write(made) }));
    }
    // SAFETY: the caller's arguments, unchanged.
    code(alloc_plain(bytes as u64, || unsafe { given(real::cuMemAlloc_v2(address, bytes), address) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(address: *mut u32, bytes: u32) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { given(real::cuMemAlloc(address, bytes), address).map(u64::from) };
    code(alloc_plain(bytes.into(), call))
}

/// Charges rows by their returned pitch; what then does not fit is freed.
fn pitched(
    width: u64,
    height: u64,
    call: impl FnOnce() -> Result<(u64, u64), Code>,
    undo: impl FnOnce(u64) -> Code,
) -> Code {
    let expected = width.checked_next_multiple_of(PITCH).and_then(|row| row.checked_mul(height));
    let made = alloc(pointers, expected, |charge| {
        let (address, pitch) = call()?;
        if let Some(charge) = charge {
            let bytes = pitch.saturating_mul(height);
            if !charge.grow(bytes.saturating_sub(expected.unwrap_or(0))) {
                undo(address);
                return Err(OUT_OF_MEMORY);
            }
            charge.shrink(bytes);
        }
        Ok(address)
    });
    code(made)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> Code {
    let row = (width as u64).checked_next_multiple_of(PITCH);
    if let Some(bytes) = row.and_then(|row| row.checked_mul(height as u64))
        && matches!(element, 4 | 8 | 16)
        && !address.is_null()
        && !pitch.is_null()
        && let Some(made) = movable::alloc(bytes)
    {
        let give = |made| {
            // SAFETY: the caller's pointers, not null.
            unsafe { (address.write(made), pitch.write(width.next_multiple_of(PITCH as usize))) };
        };
        return code(made.map(give));
    }
    // SAFETY: the caller's arguments, unchanged; both pointers are read only after the driver has written them.
    let call = || unsafe {
        let made = given(real::cuMemAllocPitch_v2(address, pitch, width, height, element), address)?;
        Ok((made, *pitch as u64))
    };
    // SAFETY: an address nobody has seen.
    pitched(width as u64, height as u64, call, |made| unsafe { real::cuMemFree_v2(made) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch(
    address: *mut u32,
    pitch: *mut u32,
    width: u32,
    height: u32,
    element: u32,
) -> Code {
    // SAFETY: as above.
    let call = || unsafe {
        let made = given(real::cuMemAllocPitch(address, pitch, width, height, element), address)?;
        Ok((made.into(), u64::from(*pitch)))
    };
    // SAFETY: an address nobody has seen, of 32 bits.
    pitched(width.into(), height.into(), call, |made| unsafe { real::cuMemFree(made as u32) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { given(real::cuMemAllocManaged(address, bytes, flags), address) };
    code(alloc_plain(bytes as u64, call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> Code {
    // SAFETY: the caller's argument, unchanged.
    code(free(pointers(), address, || unsafe { real::cuMemFree_v2(address) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree(address: u32) -> Code {
    // SAFETY: the caller's argument, unchanged.
    code(free(pointers(), address.into(), || unsafe { real::cuMemFree(address) }))
}

/// Memory the driver may move cannot be exported: a program that wants to is given none from then on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcGetMemHandle(handle: *mut c_void, address: u64) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let exported = unsafe { real::cuIpcGetMemHandle(handle, address) };
    if exported != SUCCESS {
        movable::not_exported();
    }
    exported
}
