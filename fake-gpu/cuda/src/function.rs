//! Functions: what a launch runs. They come from modules, which belong to a context, or from libraries, which do not and
//! are loaded into a context when they are first used there.

use std::collections::HashMap;
use std::ffi::{CString, c_char};

use fake_gpu::Context;

use crate::driver::{ContextObject, Driver, Objects, driver};
use crate::{Code, INVALID_HANDLE, INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, SUCCESS, code, give, of_gpu};

/// What is loaded.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) modules: HashMap<usize, ModuleObject>,
    pub(crate) functions: HashMap<usize, FunctionObject>,
    pub(crate) libraries: HashMap<usize, LibraryObject>,
    /// Handle -> library and name.
    pub(crate) kernels: HashMap<usize, (usize, CString)>,
}

pub(crate) struct ModuleObject {
    /// Handle of its context, and what it took of the GPU.
    pub(crate) context: usize,
    pub(crate) gpu: usize,
    pub(crate) overhead: u64,
    /// Name -> handle.
    pub(crate) functions: HashMap<String, usize>,
}

pub(crate) struct FunctionObject {
    pub(crate) module: usize,
    pub(crate) context: Context,
    pub(crate) name: CString,
    /// For launches of the first ABI: block and parameters.
    pub(crate) block: [u32; 3],
    pub(crate) parameters: Vec<u8>,
}

pub(crate) struct LibraryObject {
    pub(crate) names: Vec<String>,
    /// Name -> handle of the kernel.
    pub(crate) kernels: HashMap<String, usize>,
    /// Context handle -> module.
    pub(crate) modules: HashMap<usize, usize>,
}

/// Names after `.entry` in an image: PTX text, or something that ends at its first zero byte and is refused.
pub(crate) fn entries(image: &[u8]) -> Result<Vec<String>, Code> {
    let text = std::str::from_utf8(image).ok().filter(|t| !t.starts_with('\x7f')).ok_or(INVALID_IMAGE)?;
    if !text.contains(".version") {
        return Err(INVALID_PTX);
    }
    let name = |rest: &str| {
        let rest = rest.trim_start();
        let is_outside = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '$';
        rest[..rest.find(is_outside).unwrap_or(rest.len())].to_owned()
    };
    Ok(text.split(".entry").skip(1).map(name).filter(|n| !n.is_empty()).collect())
}

/// Makes a module of a context.
pub(crate) fn load(
    driver: &Driver,
    objects: &mut Objects,
    context: (usize, ContextObject),
    names: &[String],
) -> Result<usize, Code> {
    let (context, object) = context;
    let gpu = object.context.gpu();
    let overhead = driver.process.gpus().lock().gpus[gpu].module_overhead;
    driver.process.charge_overhead(gpu, overhead).map_err(|e| of_gpu(&e))?;
    let module = objects.handle();
    let mut functions = HashMap::new();
    for name in names {
        let Ok(c_name) = CString::new(name.as_str()) else { continue };
        let handle = objects.handle();
        let function = FunctionObject {
            module,
            context: object.context,
            name: c_name,
            block: [1; 3],
            parameters: Vec::new(),
        };
        objects.code.functions.insert(handle, function);
        functions.insert(name.clone(), handle);
    }
    objects.code.modules.insert(module, ModuleObject { context, gpu, overhead, functions });
    Ok(module)
}

/// Ends a module.
pub(crate) fn unload(driver: &Driver, objects: &mut Objects, module: usize) -> Result<(), Code> {
    let gone = objects.code.modules.remove(&module).ok_or(INVALID_HANDLE)?;
    objects.code.functions.retain(|_, function| function.module != module);
    for library in objects.code.libraries.values_mut() {
        library.modules.retain(|_, loaded| *loaded != module);
    }
    driver.process.uncharge_overhead(gone.gpu, gone.overhead);
    Ok(())
}

/// Ends every module of a context.
pub(crate) fn unload_all(driver: &Driver, objects: &mut Objects, context: usize) {
    let modules = objects.code.modules.iter().filter(|(_, m)| m.context == context);
    for module in modules.map(|(handle, _)| *handle).collect::<Vec<usize>>() {
        let _ = unload(driver, objects, module);
    }
}

/// The function a launch in a context means: a function, or a kernel of a library.
pub(crate) fn resolve(
    driver: &Driver,
    objects: &mut Objects,
    context: (usize, ContextObject),
    function: usize,
) -> Result<usize, Code> {
    let Some((library, name)) = objects.code.kernels.get(&function).cloned() else {
        let known = objects.code.functions.get(&function).ok_or(INVALID_HANDLE)?;
        return if known.context == context.1.context { Ok(function) } else { Err(INVALID_HANDLE) };
    };
    let object = objects.code.libraries.get(&library).ok_or(INVALID_HANDLE)?;
    let module = match object.modules.get(&context.0) {
        Some(module) => *module,
        None => {
            let names = object.names.clone();
            let module = load(driver, objects, context, &names)?;
            if let Some(object) = objects.code.libraries.get_mut(&library) {
                object.modules.insert(context.0, module);
            }
            module
        }
    };
    let functions = objects.code.modules.get(&module).map(|m| &m.functions);
    let found = functions.and_then(|f| f.get(name.to_str().unwrap_or_default()));
    found.copied().ok_or(INVALID_HANDLE)
}

/// The name lives as long as the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetName(name: *mut *const c_char, function: usize) -> Code {
    let find = || {
        let objects = driver()?.objects();
        let code = &objects.code;
        let kernel = || code.kernels.get(&function).map(|k| k.1.as_ptr());
        code.functions.get(&function).map(|f| f.name.as_ptr()).or_else(kernel).ok_or(INVALID_HANDLE)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(name, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetModule(module: *mut usize, function: usize) -> Code {
    let find = || driver()?.objects().code.functions.get(&function).map(|f| f.module).ok_or(INVALID_HANDLE);
    // SAFETY: the caller's pointer.
    unsafe { give(module, find) }
}

/// Numbers of `CUfunction_attribute` below this exist in CUDA 12.4.
const ATTRIBUTES: i32 = 16;

/// Most threads of a block; the rest is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: usize) -> Code {
    let find = || {
        let objects = driver()?.objects();
        let is_known =
            objects.code.functions.contains_key(&function) || objects.code.kernels.contains_key(&function);
        match attribute {
            _ if !is_known => Err(INVALID_HANDLE),
            0 => Ok(1024),
            1..ATTRIBUTES => Ok(0),
            _ => Err(INVALID_VALUE),
        }
    };
    // SAFETY: the caller's pointer.
    unsafe { give(value, find) }
}

fn known(function: usize) -> Result<(), Code> {
    driver()?.objects().code.functions.contains_key(&function).then_some(()).ok_or(INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: usize, attribute: i32, _value: i32) -> Code {
    if !(0..ATTRIBUTES).contains(&attribute) { INVALID_VALUE } else { code(known(function)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetCacheConfig(function: usize, _config: i32) -> Code {
    code(known(function))
}

/// With lazy loading a function is loaded by its first launch or by this; here they all are with their module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncLoad(function: usize) -> Code {
    code(known(function))
}

/// As many as there are threads for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut i32,
    function: usize,
    size: i32,
    _shared: usize,
) -> Code {
    let count = || {
        let driver = driver()?;
        let (_, object) = driver.current()?;
        known(function)?;
        let threads = driver.process.gpus().lock().gpus[object.context.gpu()].threads as i32;
        if (1..=1024).contains(&size) { Ok((threads / size).min(32)) } else { Err(INVALID_VALUE) }
    };
    // SAFETY: the caller's pointer.
    unsafe { give(blocks, count) }
}

/// `CU_MODULE_LAZY_LOADING`, the default since CUDA 12.2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetLoadingMode(mode: *mut i32) -> Code {
    if mode.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's pointer, not null.
    unsafe { mode.write(2) };
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_are_read_from_ptx() {
        let ptx = b".version 7.0\n.visible .entry spin(.param .u64 n)\n{ ret; }\n.entry other\n(\n)";
        assert_eq!(entries(ptx), Ok(vec!["spin".into(), "other".into()]));
        assert_eq!(entries(b"\x7fELF"), Err(INVALID_IMAGE));
        assert_eq!(entries(b"hello"), Err(INVALID_PTX));
    }
}
