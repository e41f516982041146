//! Virtual memory management: physical memory, addresses, and the one mapped at the other.
//!
//! Physical memory is charged when it is made, to the GPU it is made on, and free when no handle and no mapping is left.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};

use fake_gpu::Store;

use crate::driver::{Driver, Objects, driver};
use crate::pool::ON_DEVICE;
use crate::{
    ALREADY_MAPPED, Code, INVALID_DEVICE, INVALID_VALUE, NOT_MAPPED, NOT_SUPPORTED, OPERATING_SYSTEM, code,
    give, of_gpu,
};

/// Sizes and addresses are multiples of this.
const GRANULARITY: u64 = 2 << 20;

/// `CU_MEM_LOCATION_TYPE_HOST` to `_HOST_NUMA_CURRENT`.
const ON_HOST: std::ops::RangeInclusive<i32> = 2..=4;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const FILE_DESCRIPTOR: i32 = 1;

/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: i32 = 3;

/// Physical memory and where it is mapped.
#[derive(Default)]
pub(crate) struct Physical {
    handles: HashMap<u64, Handle>,
    /// Reserved addresses -> their number of bytes.
    reserved: BTreeMap<u64, u64>,
    /// Mapped addresses.
    pub(crate) mapped: BTreeMap<u64, Mapping>,
}

struct Handle {
    props: Props,
    /// `None`: memory of the host.
    gpu: Option<usize>,
    bytes: u64,
    references: u32,
    mappings: u32,
    store: Store,
    /// If other processes may hold it.
    export: Option<u64>,
}

pub(crate) struct Mapping {
    bytes: u64,
    pub(crate) handle: u64,
    access: i32,
}

/// `CUmemAllocationProp`, its location inlined.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Props {
    kind: i32,
    handles: i32,
    location: i32,
    device: i32,
    security: *const c_void,
    flags: [u8; 8],
}

// SAFETY: the pointer is only kept to be given back as it was.
unsafe impl Send for Props {}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Access {
    location: i32,
    device: i32,
    flags: i32,
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Location {
    kind: i32,
    device: i32,
}

impl Props {
    fn gpu(&self, driver: &Driver) -> Result<Option<usize>, Code> {
        match self.location {
            _ if self.kind != 1 => Err(INVALID_VALUE),
            ON_DEVICE => driver.gpu(self.device).map(Some),
            host if ON_HOST.contains(&host) => Ok(None),
            _ => Err(INVALID_VALUE),
        }
    }
}

/// A number of bytes that can be made or mapped.
fn whole(bytes: usize) -> Result<u64, Code> {
    let bytes = bytes as u64;
    if bytes > 0 && bytes.is_multiple_of(GRANULARITY) { Ok(bytes) } else { Err(INVALID_VALUE) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    bytes: *mut usize,
    props: *const Props,
    option: i32,
) -> Code {
    // SAFETY: the caller's pointer.
    let Some(props) = (unsafe { props.as_ref() }) else { return INVALID_VALUE };
    let find = || {
        props.gpu(driver()?)?;
        if (0..=1).contains(&option) { Ok(GRANULARITY as usize) } else { Err(INVALID_VALUE) }
    };
    // SAFETY: the caller's pointer.
    unsafe { give(bytes, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    props: *const Props,
    flags: u64,
) -> Code {
    // SAFETY: the caller's pointer.
    let Some(props) = (unsafe { props.as_ref() }) else { return INVALID_VALUE };
    let make = || {
        let driver = driver()?;
        let (gpu, bytes) = (props.gpu(driver)?, whole(bytes)?);
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if let Some(gpu) = gpu {
            driver.process.charge(gpu, bytes).map_err(|e| of_gpu(&e))?;
        }
        Ok(keep(&mut driver.objects(), *props, gpu, bytes, None))
    };
    // SAFETY: the caller's pointer.
    unsafe { give(handle, make) }
}

fn keep(objects: &mut Objects, props: Props, gpu: Option<usize>, bytes: u64, export: Option<u64>) -> u64 {
    let handle = objects.handle() as u64;
    let store = Store::new(bytes);
    let made = Handle { props, gpu, bytes, references: 1, mappings: 0, store, export };
    objects.physical.handles.insert(handle, made);
    handle
}

/// Frees physical memory nothing holds any more.
fn settle(driver: &Driver, objects: &mut Objects, handle: u64) {
    let known = objects.physical.handles.get(&handle);
    if known.is_none_or(|h| h.references > 0 || h.mappings > 0) {
        return;
    }
    let Some(gone) = objects.physical.handles.remove(&handle) else { return };
    match (gone.export, gone.gpu) {
        (Some(number), _) => driver.process.drop_export(number),
        (None, Some(gpu)) => driver.process.uncharge(gpu, gone.bytes),
        (None, None) => {}
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRelease(handle: u64) -> Code {
    let release = |driver: &Driver| {
        let mut objects = driver.objects();
        let known = objects.physical.handles.get_mut(&handle).filter(|h| h.references > 0);
        known.ok_or(INVALID_VALUE)?.references -= 1;
        settle(driver, &mut objects, handle);
        Ok(())
    };
    code(driver().and_then(release))
}

/// The handle of what is mapped at an address, held once more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void) -> Code {
    let retain = || {
        let driver = driver()?;
        let mut objects = driver.objects();
        let found = objects.physical.at(address as u64).ok_or(INVALID_VALUE)?;
        objects.physical.handles.get_mut(&found).ok_or(INVALID_VALUE)?.references += 1;
        Ok(found)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(handle, retain) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationPropertiesFromHandle(props: *mut Props, handle: u64) -> Code {
    let find = || driver()?.objects().physical.handles.get(&handle).map(|h| h.props).ok_or(INVALID_VALUE);
    // SAFETY: the caller's pointer.
    unsafe { give(props, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    address: *mut u64,
    bytes: usize,
    align: usize,
    _wanted: u64,
    flags: u64,
) -> Code {
    let reserve = || {
        let driver = driver()?;
        let bytes = whole(bytes)?;
        if flags != 0 || align != 0 && !align.is_power_of_two() {
            return Err(INVALID_VALUE);
        }
        let align = GRANULARITY.max(align as u64);
        let found = driver.process.reserve(bytes, align).ok_or(crate::OUT_OF_MEMORY)?;
        driver.objects().physical.reserved.insert(found, bytes);
        Ok(found)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(address, reserve) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressFree(address: u64, bytes: usize) -> Code {
    let free = |driver: &Driver| {
        let mut objects = driver.objects();
        let physical = &mut objects.physical;
        let is_used = physical.mapped.range(address..address.saturating_add(bytes as u64)).next().is_some();
        if is_used || physical.reserved.get(&address) != Some(&(bytes as u64)) {
            return Err(INVALID_VALUE);
        }
        physical.reserved.remove(&address);
        Ok(())
    };
    code(driver().and_then(free))
}

impl Physical {
    /// Handle of what is mapped at an address.
    fn at(&self, address: u64) -> Option<u64> {
        let (begin, mapping) = self.mapped.range(..=address).next_back()?;
        (address - begin < mapping.bytes).then_some(mapping.handle)
    }

    /// Whether all of a range lies in one reservation.
    fn is_reserved(&self, address: u64, bytes: u64) -> bool {
        let below = self.reserved.range(..=address).next_back();
        let end = address.checked_add(bytes);
        below.is_some_and(|(begin, size)| end.is_some_and(|end| end <= begin + size))
    }

    /// The mappings that together are exactly a range.
    fn exactly(&self, address: u64, bytes: u64) -> Option<Vec<u64>> {
        let end = address.checked_add(bytes).filter(|end| *end > address)?;
        let (mut at, mut found) = (address, Vec::new());
        while at < end {
            at += self.mapped.get(&at).map(|m| (found.push(at), m.bytes).1)?;
        }
        (at == end).then_some(found)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMap(
    address: u64,
    bytes: usize,
    offset: usize,
    handle: u64,
    flags: u64,
) -> Code {
    let map = |driver: &Driver| {
        let bytes = whole(bytes)?;
        let mut objects = driver.objects();
        let physical = &mut objects.physical;
        let is_possible = address.is_multiple_of(GRANULARITY) && physical.is_reserved(address, bytes);
        let known = physical.handles.get_mut(&handle).filter(|h| h.references > 0).ok_or(INVALID_VALUE)?;
        // Parts of physical memory cannot be mapped.
        if flags != 0 || offset != 0 || bytes != known.bytes || !is_possible {
            return Err(INVALID_VALUE);
        }
        let gpu = known.gpu.unwrap_or(0);
        if !driver.process.map(gpu, address, bytes, &known.store, 0) {
            return Err(ALREADY_MAPPED);
        }
        known.mappings += 1;
        physical.mapped.insert(address, Mapping { bytes, handle, access: 0 });
        Ok(())
    };
    code(driver().and_then(map))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemUnmap(address: u64, bytes: usize) -> Code {
    let unmap = |driver: &Driver| {
        let mut objects = driver.objects();
        let found = objects.physical.exactly(address, bytes as u64).ok_or(INVALID_VALUE)?;
        for at in found {
            let Some(gone) = objects.physical.mapped.remove(&at) else { continue };
            driver.process.free(at);
            if let Some(handle) = objects.physical.handles.get_mut(&gone.handle) {
                handle.mappings -= 1;
            }
            settle(driver, &mut objects, gone.handle);
        }
        Ok(())
    };
    code(driver().and_then(unmap))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(
    address: u64,
    bytes: usize,
    access: *const Access,
    count: usize,
) -> Code {
    if access.is_null() || count == 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives so many.
    let wanted = unsafe { std::slice::from_raw_parts(access, count) };
    let set = |driver: &Driver| {
        for Access { location, device, flags } in wanted {
            if *location == ON_DEVICE {
                driver.gpu(*device)?;
            }
            if !matches!(flags, 0 | 1 | &READ_WRITE) {
                return Err(INVALID_VALUE);
            }
        }
        let mut objects = driver.objects();
        let found = objects.physical.exactly(address, bytes as u64).ok_or(INVALID_VALUE)?;
        for at in found {
            if let Some(mapping) = objects.physical.mapped.get_mut(&at) {
                mapping.access = wanted.iter().map(|w| w.flags).max().unwrap_or(0);
            }
        }
        Ok(())
    };
    code(driver().and_then(set))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAccess(flags: *mut u64, location: *const Location, address: u64) -> Code {
    // SAFETY: the caller's pointer.
    let Some(location) = (unsafe { location.as_ref() }) else { return INVALID_VALUE };
    let find = || {
        let driver = driver()?;
        if location.kind != ON_DEVICE {
            return Err(INVALID_VALUE);
        }
        let gpu = driver.gpu(location.device)?;
        let objects = driver.objects();
        let below = objects.physical.mapped.range(..=address).next_back();
        let (_, mapping) = below.filter(|(begin, m)| address - **begin < m.bytes).ok_or(NOT_MAPPED)?;
        let home = objects.physical.handles.get(&mapping.handle).and_then(|h| h.gpu);
        Ok(if home.is_none_or(|home| home == gpu) { mapping.access as u64 } else { 0 })
    };
    // SAFETY: the caller's pointer.
    unsafe { give(flags, find) }
}

/// A file descriptor that stands for the memory, in any process it is passed to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemExportToShareableHandle(
    shared: *mut c_void,
    handle: u64,
    kind: i32,
    flags: u64,
) -> Code {
    let export = || {
        let driver = driver()?;
        let mut objects = driver.objects();
        let known = objects.physical.handles.get_mut(&handle).ok_or(INVALID_VALUE)?;
        if flags != 0 || kind & known.props.handles == 0 {
            return Err(INVALID_VALUE);
        }
        if kind != FILE_DESCRIPTOR {
            return Err(NOT_SUPPORTED);
        }
        let number = match known.export {
            Some(number) => number,
            None => driver.process.export(known.gpu, known.bytes).map_err(|e| of_gpu(&e))?,
        };
        known.export = Some(number);
        let file = note(&[number, known.props.location as u64, known.props.device as u64, MARK]);
        file.map(OwnedFd::into_raw_fd).map_err(|_| OPERATING_SYSTEM)
    };
    // SAFETY: the caller's pointer, of an int.
    unsafe { give(shared.cast::<i32>(), export) }
}

/// Last word of what a descriptor holds.
const MARK: u64 = 0x6661_6b65_2076_6d6d;

/// A descriptor that holds words.
fn note(words: &[u64; 4]) -> std::io::Result<OwnedFd> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let file = rustix::fs::memfd_create(c"fake-gpu", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::io::pwrite(&file, &bytes, 0)?;
    Ok(file)
}

/// The words a descriptor holds. It stays the caller's.
fn read_note(descriptor: i32) -> Option<[u64; 4]> {
    if descriptor < 0 {
        return None;
    }
    // SAFETY: borrowed for this call; one that is not open makes the read fail and nothing else.
    let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let mut bytes = [0u8; 32];
    let length = rustix::io::pread(file, &mut bytes, 0);
    if length != Ok(32) {
        return None;
    }
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    (words[3] == MARK).then_some(words)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemImportFromShareableHandle(
    handle: *mut u64,
    shared: *mut c_void,
    kind: i32,
) -> Code {
    let import = || {
        let driver = driver()?;
        if kind != FILE_DESCRIPTOR {
            return Err(NOT_SUPPORTED);
        }
        // A descriptor is passed by value, in the place of the pointer.
        let [number, location, device, _] = read_note(shared as usize as i32).ok_or(INVALID_VALUE)?;
        let (gpu, bytes, is_own) = driver.process.import(number).ok_or(INVALID_VALUE)?;
        if gpu.is_some_and(|gpu| driver.ordinal(gpu) < 0) {
            driver.process.drop_export(number);
            return Err(INVALID_DEVICE);
        }
        let mut objects = driver.objects();
        let known = objects.physical.handles.iter_mut().find(|(_, h)| is_own && h.export == Some(number));
        if let Some((handle, known)) = known {
            known.references += 1;
            return Ok(*handle);
        }
        let props = Props {
            kind: 1,
            handles: FILE_DESCRIPTOR,
            location: location as i32,
            device: gpu.map_or(device as i32, |gpu| driver.ordinal(gpu)),
            security: std::ptr::null(),
            flags: [0; 8],
        };
        Ok(keep(&mut objects, props, gpu, bytes, Some(number)))
    };
    // SAFETY: the caller's pointer.
    unsafe { give(handle, import) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn structures_are_those_of_cuda_h() {
        assert_eq!((size_of::<Props>(), size_of::<Access>(), size_of::<Location>()), (32, 12, 8));
    }

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test")]
    fn a_descriptor_carries_its_words_and_stays_open() {
        let file = note(&[7, 1, 0, MARK]).unwrap();
        assert_eq!(read_note(file.as_raw_fd()), Some([7, 1, 0, MARK]));
        assert_eq!(read_note(file.as_raw_fd()), Some([7, 1, 0, MARK]));
        assert_eq!((read_note(-1), read_note(0)), (None, None));
    }
}
