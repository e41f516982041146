//! Launches.

use std::ffi::c_void;

use fake_gpu::Context;

use crate::capture::{Target, target};
use crate::driver::{Driver, driver, is_timeless};
use crate::node::Kind;
use crate::{COOPERATIVE_LAUNCH_TOO_LARGE, Code, INVALID_HANDLE, INVALID_VALUE, code, of_gpu, per_thread};

/// Length of a kernel that does not say its own.
const KERNEL_NANOS: u64 = 10_000;
/// Threads of the largest block.
const BLOCK: u64 = 1024;

/// `CU_LAUNCH_PARAM_END`, `_BUFFER_POINTER` and `_BUFFER_SIZE`.
const END: usize = 0;
const BUFFER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// Grid and block of a launch.
pub(crate) struct Shape(pub(crate) [u32; 3], pub(crate) [u32; 3]);

impl Shape {
    fn is_possible(&self) -> bool {
        let threads: u64 = self.1.iter().map(|n| u64::from((*n).min(BLOCK as u32 + 1))).product();
        self.0.iter().all(|n| *n != 0) && (1..=BLOCK).contains(&threads)
    }
}

/// First parameter of a launch, as a u64.
///
/// # Safety
/// `parameters` is null or points to a pointer to a u64; else `extra` is null or as cuLaunchKernel takes it, with such a
/// parameter.
unsafe fn first_parameter(parameters: *mut *mut c_void, extra: *mut *mut c_void) -> Option<u64> {
    if !parameters.is_null() {
        // SAFETY: points to at least one pointer.
        let first = unsafe { *parameters }.cast::<u64>();
        // SAFETY: it points to a u64.
        return (!first.is_null()).then(|| unsafe { first.read_unaligned() });
    }
    let (mut at, mut buffer) = (extra, std::ptr::null::<u64>());
    while !at.is_null() {
        // SAFETY: the list goes on until its end mark.
        let word = unsafe { *at } as usize;
        if word == END {
            break;
        }
        // SAFETY: every mark but the end has a value behind it.
        let value = unsafe { *at.add(1) };
        match word {
            BUFFER => buffer = value.cast(),
            BUFFER_SIZE => {}
            _ => return None,
        }
        at = at.wrapping_add(2);
    }
    // SAFETY: the buffer holds the parameters, the first at its beginning.
    (!buffer.is_null()).then(|| unsafe { buffer.read_unaligned() })
}

/// How long a launch of a function or kernel runs.
///
/// # Safety
/// The parameters are those of cuLaunchKernel for the function.
pub(crate) unsafe fn nanos(
    driver: &Driver,
    function: usize,
    shape: &Shape,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<u64, Code> {
    let objects = driver.objects();
    let code = &objects.code;
    let name = code.functions.get(&function).map(|f| &f.name);
    let name = name.or_else(|| code.kernels.get(&function).map(|k| &k.1)).ok_or(INVALID_HANDLE)?;
    let is_spin = name.as_c_str() == c"spin";
    drop(objects);
    if !shape.is_possible() {
        return Err(INVALID_VALUE);
    }
    if !is_spin {
        return Ok(KERNEL_NANOS);
    }
    // SAFETY: `spin` takes one u64, so that is what the caller gave.
    unsafe { first_parameter(parameters, extra) }.ok_or(INVALID_VALUE)
}

/// # Safety
/// Those of cuLaunchKernel.
pub(crate) unsafe fn launch(
    driver: &Driver,
    function: usize,
    shape: &Shape,
    stream: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), Code> {
    let context = driver.of_stream(stream)?;
    let function = crate::function::resolve(driver, &mut driver.objects(), context, function)?;
    // SAFETY: the caller's parameters.
    let nanos = unsafe { nanos(driver, function, shape, parameters, extra)? };
    match target(driver, stream)? {
        Target::Graph(id) => crate::capture::add(driver, id, stream, Kind::Kernel(nanos)).map(drop),
        Target::Queue(object) => driver.process.launch(object.context, nanos).map_err(|e| of_gpu(&e)),
    }
}

/// Blocks of a cooperative launch that fit at once: as many of the largest as there are multiprocessors, or more that are
/// smaller.
fn check_cooperative(driver: &Driver, stream: usize, shape: &Shape) -> Result<(), Code> {
    let (_, object) = driver.of_stream(stream)?;
    let locked = driver.process.gpus().lock();
    let gpu = &locked.gpus[object.context.gpu()];
    let threads: u64 = shape.1.iter().map(|n| u64::from(*n)).product();
    let blocks: u128 = shape.0.iter().map(|n| u128::from(*n)).product();
    let fit = u64::from(gpu.threads).checked_div(threads).unwrap_or(0) * u64::from(gpu.multiprocessors);
    if threads > 0 && blocks > u128::from(fit) { Err(COOPERATIVE_LAUNCH_TOO_LARGE) } else { Ok(()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    _shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    let shape = Shape([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    // SAFETY: the caller's pointers, passed on.
    code(driver().and_then(|d| unsafe { launch(d, function, &shape, stream, parameters, extra) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    _shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
) -> Code {
    if is_timeless() {
        return crate::SUCCESS;
    }
    let shape = Shape([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let run = |driver: &Driver| {
        check_cooperative(driver, stream, &shape)?;
        // SAFETY: the caller's pointers, passed on.
        unsafe { launch(driver, function, &shape, stream, parameters, std::ptr::null_mut()) }
    };
    code(driver().and_then(run))
}

/// `CUlaunchConfig` of cuda.h.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: *mut c_void,
    count: u32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    if config.is_null() {
        return INVALID_VALUE;
    }
    if is_timeless() {
        return crate::SUCCESS;
    }
    // SAFETY: the caller's pointers, the first not null.
    code(unsafe { launch_ex(&*config, function, parameters, extra, (*config).stream) })
}

/// With stream 0 taken for the thread's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx_ptsz(
    config: *const LaunchConfig,
    function: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    if config.is_null() {
        return INVALID_VALUE;
    }
    if is_timeless() {
        return crate::SUCCESS;
    }
    // SAFETY: the caller's pointers, the first not null.
    code(unsafe {
        launch_ex(&*config, function, parameters, extra, crate::stream::of_thread((*config).stream))
    })
}

/// `CUlaunchAttribute`: 8 bytes of id and padding, 64 of value. 2 is for cooperative launches.
const COOPERATIVE: u32 = 2;
const ATTRIBUTE_WORDS: usize = 18;

/// # Safety
/// Those of cuLaunchKernelEx.
unsafe fn launch_ex(
    config: &LaunchConfig,
    function: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
    stream: usize,
) -> Result<(), Code> {
    let driver = driver()?;
    let shape = Shape(config.grid, config.block);
    if config.attributes.is_null() && config.count > 0 {
        return Err(INVALID_VALUE);
    }
    let words = config.attributes.cast::<u32>();
    // SAFETY: the caller gives so many attributes.
    let attribute =
        |at: usize| unsafe { (*words.add(at * ATTRIBUTE_WORDS), *words.add(at * ATTRIBUTE_WORDS + 2)) };
    if (0..config.count as usize).map(attribute).any(|(id, value)| id == COOPERATIVE && value != 0) {
        check_cooperative(driver, stream, &shape)?;
    }
    // SAFETY: the caller's pointers, passed on.
    unsafe { launch(driver, function, &shape, stream, parameters, extra) }
}

/// `CUDA_LAUNCH_PARAMS`: one device of a cooperative launch on several.
#[repr(C)]
#[derive(Debug)]
pub struct MultiParams {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    parameters: *mut *mut c_void,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernelMultiDevice(
    list: *mut MultiParams,
    count: u32,
    _flags: u32,
) -> Code {
    if list.is_null() || count == 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives so many.
    let list = unsafe { std::slice::from_raw_parts(list, count as usize) };
    let run = |driver: &Driver| {
        for one in list {
            let shape = Shape(one.grid, one.block);
            check_cooperative(driver, one.stream, &shape)?;
            let none = std::ptr::null_mut();
            // SAFETY: the caller's pointers.
            unsafe { launch(driver, one.function, &shape, one.stream, one.parameters, none)? };
        }
        Ok(())
    };
    code(driver().and_then(run))
}

/// Calls a host function once what is queued has ended. The caller waits for that; a real driver would not.
///
/// # Safety
/// `function` is a `CUhostFn`, `data` what it takes.
pub(crate) unsafe fn call_host(driver: &Driver, context: Context, function: usize, data: usize) {
    driver.process.synchronize(context);
    // SAFETY: by the caller's word.
    let function = unsafe { std::mem::transmute::<usize, extern "C" fn(usize)>(function) };
    function(data);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(stream: usize, function: usize, data: usize) -> Code {
    let run = |driver: &Driver| {
        driver.of_stream(stream)?;
        if function == 0 {
            return Err(INVALID_VALUE);
        }
        match target(driver, stream)? {
            Target::Graph(id) => {
                crate::capture::add(driver, id, stream, Kind::Host { function, data }).map(drop)
            }
            Target::Queue(object) => {
                // SAFETY: the caller's function and data.
                unsafe { call_host(driver, object.context, function, data) };
                Ok(())
            }
        }
    };
    code(driver().and_then(run))
}

per_thread! {
    cuLaunchKernel_ptsz = cuLaunchKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32; stream; parameters: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchCooperativeKernel_ptsz = cuLaunchCooperativeKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32; stream; parameters: *mut *mut c_void);
    cuLaunchHostFunc_ptsz = cuLaunchHostFunc(; stream; function: usize, data: usize);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_is_found_in_either_form() {
        let mut value = 5_000_000u64;
        let mut parameters = [(&raw mut value).cast::<c_void>()];
        let mut size = 8usize;
        let mut extra = [
            BUFFER as *mut c_void,
            (&raw mut value).cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            END as *mut c_void,
        ];
        let none = std::ptr::null_mut();
        // SAFETY: pointers to locals of the forms cuLaunchKernel takes.
        unsafe {
            assert_eq!(first_parameter(parameters.as_mut_ptr(), none), Some(5_000_000));
            assert_eq!(first_parameter(none, extra.as_mut_ptr()), Some(5_000_000));
            assert_eq!(first_parameter(none, none), None);
        }
    }

    #[test]
    fn empty_grids_and_too_large_blocks_are_impossible() {
        assert!(Shape([1, 1, 1], [1024, 1, 1]).is_possible());
        for shape in [Shape([0, 1, 1], [1, 1, 1]), Shape([1; 3], [0, 1, 1]), Shape([1; 3], [1024, 2, 1])] {
            assert!(!shape.is_possible());
        }
        assert!(!Shape([1; 3], [u32::MAX; 3]).is_possible());
        assert_eq!((size_of::<LaunchConfig>(), size_of::<MultiParams>()), (56, 56));
    }
}
