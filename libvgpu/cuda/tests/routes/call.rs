//! Calls to a library's functions by name, with integers and addresses alone.
#![allow(dead_code, reason = "each test program uses a part of it")]

use anyhow::{Context, ensure};
use libloading::{Library, Symbol};

/// The answer of a function of at most six arguments.
pub(crate) fn call(library: &Library, name: &str, arguments: &[u64]) -> anyhow::Result<i32> {
    let mut all = [0u64; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    type Function = extern "C" fn(u64, u64, u64, u64, u64, u64) -> i32;
    // SAFETY: integers and pointers to locals, which the ABIs pass in registers.
    let function: Symbol<'_, Function> =
        unsafe { library.get(name.as_bytes()) }.with_context(|| name.to_owned())?;
    Ok(function(a, b, c, d, e, f))
}

/// The same, where anything but success is an error.
pub(crate) fn ok(library: &Library, name: &str, arguments: &[u64]) -> anyhow::Result<()> {
    let code = call(library, name, arguments)?;
    ensure!(code == 0, "{name}: {code}");
    Ok(())
}

/// A value's address as an argument.
pub(crate) fn at<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value) as u64
}
