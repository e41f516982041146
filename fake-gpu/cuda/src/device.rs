//! Devices: identity and properties.

use std::ffi::{CStr, c_char};

use fake_gpu::layout::text;

use crate::driver::driver;
use crate::{Code, INVALID_DEVICE, INVALID_VALUE, SUCCESS, put};

/// GPU index of an ordinal.
pub(crate) fn gpu(ordinal: i32) -> Result<usize, Code> {
    let devices = &driver()?.devices;
    usize::try_from(ordinal).ok().and_then(|o| devices.get(o)).copied().ok_or(INVALID_DEVICE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> Code {
    match driver() {
        // SAFETY: the caller's pointer.
        Ok(driver) => unsafe { put(count, driver.devices.len() as i32) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> Code {
    match gpu(ordinal) {
        // SAFETY: the caller's pointer.
        Ok(_) => unsafe { put(device, ordinal) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) -> Code {
    let Ok(room) = usize::try_from(length) else { return INVALID_VALUE };
    match (gpu(device), driver()) {
        (Ok(gpu), Ok(driver)) if room > 0 && !name.is_null() => {
            let product = text(&driver.process.gpus().lock().gpus[gpu].product);
            let bytes = &product.as_bytes()[..product.len().min(room - 1)];
            // SAFETY: the caller gives `length` bytes; at most that many are written, the zero included.
            unsafe {
                name.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                name.add(bytes.len()).write(0);
            }
            SUCCESS
        }
        (Err(code), _) | (_, Err(code)) => code,
        _ => INVALID_VALUE,
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
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: i32) -> Code {
    match uuid_bytes(device) {
        // SAFETY: the caller's pointer.
        Ok(bytes) => unsafe { put(uuid, bytes) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: i32) -> Code {
    // SAFETY: the caller's pointer, passed on.
    unsafe { cuDeviceGetUuid(uuid, device) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> Code {
    match (gpu(device), driver()) {
        // SAFETY: the caller's pointer.
        (Ok(gpu), Ok(driver)) => unsafe { put(bytes, driver.process.memory(gpu).1 as usize) },
        (Err(code), _) | (_, Err(code)) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(bytes: *mut u32, device: i32) -> Code {
    let mut wide = 0usize;
    // SAFETY: a local.
    match unsafe { cuDeviceTotalMem_v2(&raw mut wide, device) } {
        // SAFETY: the caller's pointer.
        SUCCESS => unsafe { put(bytes, u32::try_from(wide).unwrap_or(u32::MAX)) },
        code => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32) -> Code {
    let (gpu, driver) = match (gpu(device), driver()) {
        (Ok(gpu), Ok(driver)) => (gpu, driver),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let locked = driver.process.gpus().lock();
    let record = &locked.gpus[gpu];
    // Numbers of CUdevice_attribute.
    let answer = match attribute {
        1 => 1024,
        2 | 3 | 5 => 1024,
        4 | 6 | 7 => 65_535,
        8 => 49_152,
        10 => 32,
        16 => record.multiprocessors as i32,
        33 => record.bus as i32,
        39 => 1024,
        41 => 1,
        75 => record.compute[0] as i32,
        76 => record.compute[1] as i32,
        _ => 0,
    };
    drop(locked);
    // SAFETY: the caller's pointer.
    unsafe { put(value, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, device: i32) -> Code {
    // SAFETY: the caller's pointers, passed on.
    match unsafe { cuDeviceGetAttribute(major, 75, device) } {
        // SAFETY: as above.
        SUCCESS => unsafe { cuDeviceGetAttribute(minor, 76, device) },
        code => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, length: i32, device: i32) -> Code {
    let (gpu, driver) = match (gpu(device), driver()) {
        (Ok(gpu), Ok(driver)) => (gpu, driver),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let name = format!("0000:{:02X}:00.0\0", driver.process.gpus().lock().gpus[gpu].bus);
    if id.is_null() || usize::try_from(length).is_ok_and(|room| room < name.len()) || length < 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives `length` bytes, which were just found to be enough.
    unsafe { id.cast::<u8>().copy_from_nonoverlapping(name.as_ptr(), name.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetByPCIBusId(device: *mut i32, id: *const c_char) -> Code {
    if id.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a C string.
    let wanted = unsafe { CStr::from_ptr(id) }.to_string_lossy().to_lowercase();
    let driver = match driver() {
        Ok(driver) => driver,
        Err(code) => return code,
    };
    let locked = driver.process.gpus().lock();
    let matches = |gpu: &usize| wanted.contains(&format!("{:02x}:00", locked.gpus[*gpu].bus));
    let found = driver.devices.iter().position(matches);
    drop(locked);
    // SAFETY: the caller's pointer.
    found.map_or(INVALID_VALUE, |ordinal| unsafe { put(device, ordinal as i32) })
}
