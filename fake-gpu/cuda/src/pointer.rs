//! What is known of an address.

use std::ffi::c_void;

use crate::driver::{Driver, driver};
use crate::{Code, INVALID_VALUE, SUCCESS, code};

/// `CU_MEMORYTYPE_HOST` and `_DEVICE`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// A value as `cuPointerGetAttribute` writes it.
enum Value {
    Word(u64),
    Number(u32),
    Flag(bool),
}

fn find(driver: &Driver, attribute: i32, address: u64) -> Result<Value, Code> {
    let (begin, bytes) = match driver.process.allocation_at(address) {
        Some(found) => found,
        None if driver.objects().host.holds(address as usize) => return host(attribute, address),
        None => return Err(INVALID_VALUE),
    };
    let gpu = driver.process.gpu_of(address).ok_or(INVALID_VALUE)?;
    let context = driver.process.context_of(begin);
    let objects = driver.objects();
    let is_managed = objects.managed.contains(&begin);
    let is_mapped = objects.physical.mapped.contains_key(&begin);
    Ok(match attribute {
        1 => {
            let handle = objects.contexts.iter().find(|(_, c)| Some(c.context) == context).map(|(h, _)| *h);
            Value::Word(handle.unwrap_or(0) as u64)
        }
        2 => Value::Number(DEVICE),
        3 => Value::Word(address),
        4 if is_managed => Value::Word(address),
        6 => Value::Flag(false),
        7 => Value::Word(begin),
        8 => Value::Number(is_managed.into()),
        9 => Value::Number(driver.ordinal(gpu) as u32),
        10 => Value::Flag(context.is_some() && !is_managed),
        11 => Value::Word(begin),
        12 => Value::Word(bytes),
        13 => Value::Flag(true),
        14 => Value::Word(u64::from(is_mapped)),
        17 => Value::Word(crate::pool::pool_of(&objects, begin).unwrap_or(0) as u64),
        _ => return Err(INVALID_VALUE),
    })
}

fn host(attribute: i32, address: u64) -> Result<Value, Code> {
    Ok(match attribute {
        2 => Value::Number(HOST),
        3 | 4 | 7 => Value::Word(address),
        8 => Value::Number(0),
        13 => Value::Flag(true),
        _ => return Err(INVALID_VALUE),
    })
}

/// # Safety
/// `to` is valid for the attribute's type.
unsafe fn put(to: *mut c_void, value: &Value) {
    // SAFETY: the caller's pointer, of the attribute's type.
    unsafe {
        match value {
            Value::Word(word) => to.cast::<u64>().write(*word),
            Value::Number(number) => to.cast::<u32>().write(*number),
            Value::Flag(flag) => to.cast::<bool>().write(*flag),
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(to: *mut c_void, attribute: i32, address: u64) -> Code {
    if to.is_null() {
        return INVALID_VALUE;
    }
    match driver().and_then(|d| find(d, attribute, address)) {
        Ok(value) => {
            // SAFETY: the caller's pointer, not null.
            unsafe { put(to, &value) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// What is not known is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttributes(
    count: u32,
    attributes: *const i32,
    to: *const *mut c_void,
    address: u64,
) -> Code {
    if count == 0 || attributes.is_null() || to.is_null() {
        return INVALID_VALUE;
    }
    let read = |driver: &Driver| {
        for at in 0..count as usize {
            // SAFETY: the caller gives so many of both.
            let (attribute, to) = unsafe { (*attributes.add(at), *to.add(at)) };
            if to.is_null() {
                return Err(INVALID_VALUE);
            }
            let unknown = match attribute {
                2 | 8 | 9 => Value::Number(0),
                6 | 10 | 13 => Value::Flag(false),
                _ => Value::Word(0),
            };
            // SAFETY: the caller's pointer, of the attribute's type.
            unsafe { put(to, &find(driver, attribute, address).unwrap_or(unknown)) };
        }
        Ok(())
    };
    code(driver().and_then(read))
}
