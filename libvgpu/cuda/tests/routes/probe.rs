//! What the test program does as a tenant of NVIDIA's libraries: it asks and says what was answered, without addresses.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use libloading::{Library, Symbol};
use object::elf::{self, FileHeader64};
use object::endian::Endianness;
use object::read::elf::{FileHeader, Sym};

use crate::call::{at, call};

pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["symbols", soname, path] => symbols(soname, Path::new(path)),
        ["answers"] => cuda_answers().and_then(|()| nvml_answers()),
        ["runtime", path] => runtime(Path::new(path)),
        _ => Err(anyhow::anyhow!("no probe does {words:?}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Functions a library exports.
pub(crate) fn exported(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let header = FileHeader64::<Endianness>::parse(&bytes[..])?;
    let endian = header.endian()?;
    let sections = header.sections(endian, &bytes[..])?;
    let symbols = sections.symbols(endian, &bytes[..], elf::SHT_DYNSYM)?;
    let mut found = BTreeSet::new();
    for symbol in symbols.iter() {
        let is_function = symbol.st_type() == elf::STT_FUNC && symbol.st_bind() != elf::STB_LOCAL;
        if is_function && !symbol.is_undefined(endian) {
            let name = std::str::from_utf8(symbol.name(endian, symbols.strings())?)?;
            // Beside them are the linker's own.
            if name.starts_with("cu") || name.starts_with("nvml") {
                found.insert(name.to_owned());
            }
        }
    }
    Ok(found)
}

/// The first file in a folder whose name fits.
pub(crate) fn find_file(folder: &Path, fits: &dyn Fn(&OsStr) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let own = files.into_iter().find(|path| path.file_name().is_some_and(fits));
    own.or_else(|| folders.iter().find_map(|folder| find_file(folder, fits)))
}

fn load(name: impl libloading::AsFilename) -> anyhow::Result<Library> {
    // SAFETY: loading NVIDIA's libraries has no conditions.
    Ok(unsafe { Library::new(name)? })
}

fn file_of(address: *const c_void) -> anyhow::Result<String> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: a pointer to a local, which the function fills when it says so; the name is a C string.
    let path = unsafe {
        ensure!(libc::dladdr(address, info.as_mut_ptr()) != 0, "an address in no library");
        CStr::from_ptr(info.assume_init().dli_fname).to_string_lossy().into_owned()
    };
    Ok(path.rsplit('/').next().unwrap_or_default().to_owned())
}

/// Name and file of everything the library at `path` exports, as found through `soname`.
fn symbols(soname: &str, path: &Path) -> anyhow::Result<()> {
    let library = load(soname)?;
    for name in exported(path)? {
        // SAFETY: the address is looked at, not called.
        let found: Symbol<'_, *const c_void> =
            unsafe { library.get(name.as_bytes()) }.with_context(|| name.clone())?;
        // SAFETY: a symbol is its address.
        let address = unsafe { found.try_as_raw_ptr() }.context("an address")?;
        println!("{name} {}", file_of(address)?);
    }
    Ok(())
}

/// Calls that mean something with a GPU alone, before and after cuInit has said that there is none; error names; the
/// lookup of every name at three versions and flags; export tables.
fn cuda_answers() -> anyhow::Result<()> {
    let cuda = load("libcuda.so.1")?;
    let (mut one, mut two) = ([0u64; 16], [0u64; 16]);
    for when in ["before", "after"] {
        let (a, b) = (at(&mut one), at(&mut two));
        for (name, arguments) in [
            ("cuDeviceGetCount", vec![a]),
            ("cuDeviceTotalMem_v2", vec![a, 0]),
            ("cuMemGetInfo_v2", vec![a, b]),
            ("cuMemGetInfo_v2", vec![0, 0]),
            ("cuMemAlloc_v2", vec![a, 4096]),
            ("cuMemAlloc_v2", vec![0, 4096]),
            ("cuMemAllocManaged", vec![a, 4096, 1]),
            ("cuMemAllocPitch_v2", vec![a, b, 100, 100, 4]),
            ("cuMemAllocAsync", vec![a, 4096, 0]),
            ("cuMemAllocAsync_ptsz", vec![a, 4096, 0]),
            ("cuMemFree_v2", vec![0]),
            ("cuMemFree_v2", vec![4096]),
            ("cuMemFreeAsync", vec![4096, 0]),
            ("cuCtxCreate_v2", vec![a, 0, 0]),
            ("cuCtxGetCurrent", vec![a]),
            ("cuCtxSetCurrent", vec![0]),
            ("cuCtxSynchronize", vec![]),
            ("cuCtxDestroy_v2", vec![0]),
            ("cuDevicePrimaryCtxRetain", vec![a, 0]),
            ("cuDevicePrimaryCtxReset_v2", vec![0]),
            ("cuStreamSynchronize", vec![0]),
            ("cuStreamQuery_ptsz", vec![0]),
            ("cuGraphLaunch", vec![0, 0]),
            ("cuGraphDestroy", vec![0]),
            ("cuLaunchGrid", vec![0, 1, 1]),
            ("cuMemRelease", vec![0]),
            ("cuMemPoolTrimTo", vec![0, 0]),
            ("cuDeviceGraphMemTrim", vec![0]),
            ("cuDriverGetVersion", vec![a]),
        ] {
            one.fill(0);
            println!("{when} {name} {} {}", call(&cuda, name, &arguments)?, one[0]);
        }
        println!("{when} cuInit {}", call(&cuda, "cuInit", &[0])?);
    }
    for code in 0..1000 {
        let mut name = 0u64;
        let answered = call(&cuda, "cuGetErrorName", &[code, at(&mut name)])?;
        // SAFETY: a C string of the driver's, if there is one.
        let name = (name != 0).then(|| unsafe { CStr::from_ptr(name as *const c_char) });
        println!("cuGetErrorName {code} {answered} {name:?}");
    }
    let names: BTreeSet<&str> = include_str!("../../../generate/entry_points.tsv")
        .lines()
        .skip(1)
        .filter_map(|line| line.split('\t').next())
        .collect();
    for name in names {
        let text = CString::new(name)?;
        for version in [11_030, 12_000, 13_000] {
            for flags in [0, 1, 2, 4] {
                let (mut found, mut status) = (0u64, 0i32);
                let arguments = [text.as_ptr() as u64, at(&mut found), version, flags, at(&mut status)];
                let code = call(&cuda, "cuGetProcAddress_v2", &arguments)?;
                println!("{name} {version} {flags}: {code} {status} {}", found == 0);
            }
        }
    }
    for id in TABLES {
        let mut table = 0u64;
        let code = call(&cuda, "cuGetExportTable", &[at(&mut table), id.as_ptr() as u64])?;
        println!("cuGetExportTable {id:?} {code} {}", table == 0);
    }
    Ok(())
}

/// Ids of private tables, as CUDA's runtime and tools ask for them: the runtime's interface, its callbacks, context-local
/// storage, the check of initialisation, and one that is not there.
const TABLES: [[u8; 16]; 5] = [
    [0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9],
    [0xa0, 0x94, 0x79, 0x8c, 0x2e, 0x74, 0x2e, 0x74, 0x93, 0xf2, 0x08, 0x00, 0x20, 0x0c, 0x0a, 0x66],
    [0xc6, 0x93, 0x33, 0x6e, 0x11, 0x21, 0xdf, 0x11, 0xa8, 0xc3, 0x68, 0xf3, 0x55, 0xd8, 0x95, 0x93],
    [0x26, 0x3e, 0x88, 0x60, 0x7c, 0xd2, 0x61, 0x43, 0x92, 0xf6, 0xbb, 0xd5, 0x00, 0x6d, 0xfa, 0x7e],
    [1; 16],
];

fn nvml_answers() -> anyhow::Result<()> {
    let nvml = load("libnvidia-ml.so.1")?;
    let mut room = [0u64; 64];
    for when in ["before", "after"] {
        let a = at(&mut room);
        for (name, arguments) in [
            ("nvmlDeviceGetCount_v2", vec![a]),
            ("nvmlDeviceGetHandleByIndex_v2", vec![0, a]),
            ("nvmlDeviceGetMemoryInfo", vec![0, a]),
            ("nvmlDeviceGetMemoryInfo_v2", vec![0, a]),
            ("nvmlDeviceGetUtilizationRates", vec![0, a]),
            ("nvmlDeviceGetComputeRunningProcesses", vec![0, a, a]),
            ("nvmlDeviceGetComputeRunningProcesses_v2", vec![0, a, a]),
            ("nvmlDeviceGetComputeRunningProcesses_v3", vec![0, a, a]),
            ("nvmlSystemGetDriverVersion", vec![a, 80]),
            ("nvmlSystemGetCudaDriverVersion", vec![a]),
        ] {
            room.fill(0);
            println!("{when} {name} {} {:?}", call(&nvml, name, &arguments)?, &room[..2]);
        }
        println!("{when} nvmlInit_v2 {}", call(&nvml, "nvmlInit_v2", &[])?);
    }
    // SAFETY: the signature is that of nvml.h; the text is a C string.
    let error: Symbol<'_, extern "C" fn(u32) -> *const c_char> = unsafe { nvml.get(b"nvmlErrorString")? };
    for code in 0..40 {
        // SAFETY: as above.
        println!("nvmlErrorString {code} {:?}", unsafe { CStr::from_ptr(error(code)) });
    }
    Ok(())
}

/// CUDA's runtime: its own version and the driver's, then the first call that needs a GPU.
fn runtime(path: &Path) -> anyhow::Result<()> {
    let runtime = load(path)?;
    for name in ["cudaRuntimeGetVersion", "cudaDriverGetVersion", "cudaGetDeviceCount", "cudaGetLastError"] {
        let mut number = 0u64;
        println!("{name} {} {number}", call(&runtime, name, &[at(&mut number)])?);
    }
    let mut address = 0u64;
    let code = call(&runtime, "cudaMalloc", &[at(&mut address), 4096])?;
    println!("cudaMalloc {code} {}", address == 0);
    Ok(())
}
