//! Devices: identity.

use std::ffi::{CStr, c_char};

use fake_gpu::layout::text;

use crate::driver::driver;
use crate::{Code, INVALID_DEVICE, INVALID_VALUE, SUCCESS, give, twins};

/// GPU index of an ordinal.
pub(crate) fn gpu(ordinal: i32) -> Result<usize, Code> {
    let devices = &driver()?.devices;
    usize::try_from(ordinal).ok().and_then(|o| devices.get(o)).copied().ok_or(INVALID_DEVICE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(count, || Ok(driver()?.devices.len() as i32)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(device, || gpu(ordinal).map(|_| ordinal)) }
}

/// Writes a C string, cut to fit.
///
/// # Safety
/// `to` is null or valid for `room` bytes.
unsafe fn give_text(to: *mut c_char, room: i32, text: &str) -> Code {
    let Some(room) = usize::try_from(room).ok().and_then(|r| r.checked_sub(1)) else { return INVALID_VALUE };
    if to.is_null() {
        return INVALID_VALUE;
    }
    let length = text.len().min(room);
    // SAFETY: the caller gives `room + 1` bytes; at most that many are written, the zero included.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), length);
        to.add(length).write(0);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, room: i32, device: i32) -> Code {
    let product = gpu(device).and_then(|gpu| Ok(text(&driver()?.process.gpus().lock().gpus[gpu].product)));
    match product {
        // SAFETY: the caller's buffer.
        Ok(product) => unsafe { give_text(name, room, &product) },
        Err(code) => code,
    }
}

fn uuid_bytes(device: i32) -> Result<[u8; 16], Code> {
    let gpu = gpu(device)?;
    let uuid = driver()?.process.gpus().uuid(gpu);
    let digits: Vec<u8> = uuid.bytes().skip(4).filter(u8::is_ascii_hexdigit).collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok()).unwrap_or(0);
    }
    Ok(bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(uuid, || uuid_bytes(device)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(bytes, || Ok(driver()?.process.memory(gpu(device)?).1 as usize)) }
}

/// The first ABI has 32 bits for the size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(bytes: *mut u32, device: i32) -> Code {
    let total = || Ok(u32::try_from(driver()?.process.memory(gpu(device)?).1).unwrap_or(u32::MAX));
    // SAFETY: the caller's pointer.
    unsafe { give(bytes, total) }
}

fn pci(gpu: usize) -> Result<String, Code> {
    Ok(format!("0000:{:02X}:00.0", driver()?.process.gpus().lock().gpus[gpu].bus))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, room: i32, device: i32) -> Code {
    match gpu(device).and_then(pci) {
        Ok(name) if usize::try_from(room).is_ok_and(|room| room <= name.len()) => INVALID_VALUE,
        // SAFETY: the caller's buffer.
        Ok(name) => unsafe { give_text(id, room, &name) },
        Err(code) => code,
    }
}

/// Takes `domain:bus:device.function`, with or without domain and function, in any case.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetByPCIBusId(device: *mut i32, id: *const c_char) -> Code {
    if id.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let wanted = unsafe { CStr::from_ptr(id) }.to_string_lossy().to_ascii_uppercase();
    let is_it = |gpu: &usize| {
        pci(*gpu).is_ok_and(|pci| {
            let forms = [&pci[..], &pci[5..], &pci[5..pci.len() - 2]];
            forms.contains(&wanted.as_str()) || wanted == format!("0000{pci}")
        })
    };
    let find = || driver()?.devices.iter().position(is_it).map(|o| o as i32).ok_or(INVALID_DEVICE);
    // SAFETY: the caller's pointer.
    unsafe { give(device, find) }
}

twins! {
    cuDeviceGetUuid = cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32);
}
