//! Contexts.

use std::ffi::c_void;

use super::given;
use crate::{Code, SUCCESS, context, real};

macro_rules! create_hooks {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(made: *mut usize, $($argument: $type,)* device: i32) -> Code {
            // SAFETY: the caller's arguments, unchanged.
            let call = || unsafe { given(real::$name(made, $($argument,)* device), made) };
            context::create(device, call).err().unwrap_or(SUCCESS)
        }
    )*};
}

create_hooks! {
    cuCtxCreate(flags: u32);
    cuCtxCreate_v2(flags: u32);
    cuCtxCreate_v3(affinity: *mut c_void, count: i32, flags: u32);
    cuCtxCreate_v4(parameters: *mut c_void, flags: u32);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDestroy_v2(context: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    context::destroy(context, || unsafe { real::cuCtxDestroy_v2(context) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDestroy(context: usize) -> Code {
    // SAFETY: the caller's argument, unchanged.
    context::destroy(context, || unsafe { real::cuCtxDestroy(context) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: i32) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { given(real::cuDevicePrimaryCtxRetain(context, device), context) };
    match context::create(device, call) {
        Ok(made) => {
            context::know_primary(device, made);
            SUCCESS
        }
        Err(code) => code,
    }
}

macro_rules! end_hooks {
    ($($name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: i32) -> Code {
            // SAFETY: the caller's argument, unchanged.
            context::end_primary(device, || unsafe { real::$name(device) })
        }
    )*};
}

end_hooks! {
    cuDevicePrimaryCtxRelease;
    cuDevicePrimaryCtxRelease_v2;
    cuDevicePrimaryCtxReset;
    cuDevicePrimaryCtxReset_v2;
}
