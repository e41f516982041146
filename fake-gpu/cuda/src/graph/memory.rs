//! Memory of graphs. A node's address is fixed when it is added; the memory is taken from the GPU when its graph is first
//! launched or uploaded, in blocks, and stays reserved for graphs until cuDeviceGraphMemTrim.

use std::collections::HashMap;
use std::ffi::c_void;

use fake_gpu::{Process, Store};

use crate::driver::{Driver, driver};
use crate::node::{AllocParams, Kind};
use crate::pool::BLOCK;
use crate::{Code, INVALID_VALUE, code, of_gpu};

/// Memory of graphs, by GPU.
#[derive(Default)]
pub(crate) struct GraphMemory {
    gpus: HashMap<usize, Use>,
    /// What is allocated: address -> GPU, bytes, and the executable that did it.
    live: HashMap<u64, (usize, u64, usize)>,
    /// Executable -> GPU and bytes that wait for its first launch.
    uploaded: HashMap<usize, (usize, u64)>,
}

#[derive(Default, Clone, Copy)]
struct Use {
    used: u64,
    used_high: u64,
    reserved: u64,
    reserved_high: u64,
    /// Of the reserved bytes those that wait for a launch.
    promised: u64,
}

impl Use {
    /// Makes sure that so many bytes can be used.
    fn reserve(&mut self, process: &Process, gpu: usize, bytes: u64) -> Result<(), Code> {
        let wanted = (self.used + self.promised).saturating_add(bytes);
        if let Some(missing) = wanted.checked_sub(self.reserved).filter(|m| *m > 0) {
            let blocks = missing.checked_next_multiple_of(BLOCK).ok_or(crate::OUT_OF_MEMORY)?;
            process.charge(gpu, blocks).map_err(|e| of_gpu(&e))?;
            self.reserved += blocks;
            self.reserved_high = self.reserved_high.max(self.reserved);
        }
        Ok(())
    }
}

/// Bytes that nodes hold at most at once.
fn need(nodes: &[(usize, Kind)]) -> u64 {
    let (mut live, mut now, mut most) = (HashMap::new(), 0u64, 0);
    for (_, kind) in nodes {
        match kind {
            Kind::Alloc { bytes, address, .. } => {
                live.insert(*address, *bytes);
                now = now.saturating_add(*bytes);
                most = most.max(now);
            }
            Kind::Free(address) => now -= live.remove(address).unwrap_or(0),
            _ => {}
        }
    }
    most
}

impl GraphMemory {
    /// Takes what an executable's first launch will need.
    pub(crate) fn reserve(
        &mut self,
        process: &Process,
        exec: usize,
        nodes: &[(usize, Kind)],
        gpu: usize,
    ) -> Result<(), Code> {
        let bytes = need(nodes);
        if bytes == 0 || self.uploaded.contains_key(&exec) {
            return Ok(());
        }
        let of_gpu = self.gpus.entry(gpu).or_default();
        of_gpu.reserve(process, gpu, bytes)?;
        of_gpu.promised += bytes;
        self.uploaded.insert(exec, (gpu, bytes));
        Ok(())
    }

    /// An executable is gone or launched: nothing is promised to it any more.
    pub(crate) fn forget(&mut self, exec: usize) {
        if let Some((gpu, bytes)) = self.uploaded.remove(&exec)
            && let Some(of_gpu) = self.gpus.get_mut(&gpu)
        {
            of_gpu.promised = of_gpu.promised.saturating_sub(bytes);
        }
    }

    /// Allocates and frees as the nodes of a launch say.
    pub(crate) fn launch(
        &mut self,
        process: &Process,
        exec: usize,
        nodes: &[(usize, Kind)],
        gpu: usize,
        is_freeing: bool,
    ) -> Result<(), Code> {
        let own: Vec<u64> = self.live.iter().filter(|(_, (.., by))| *by == exec).map(|(a, _)| *a).collect();
        let allocates = |address: &u64| {
            nodes.iter().any(|(_, k)| matches!(k, Kind::Alloc { address: a, .. } if a == address))
        };
        let again: Vec<u64> = own.into_iter().filter(allocates).collect();
        if !again.is_empty() && !is_freeing {
            // What it allocated last time has not been freed.
            return Err(INVALID_VALUE);
        }
        for address in again {
            self.free(process, address);
        }
        self.forget(exec);
        if nodes.iter().any(|(_, kind)| matches!(kind, Kind::Alloc { .. })) {
            self.gpus.entry(gpu).or_default().reserve(process, gpu, need(nodes))?;
        }
        for (_, kind) in nodes {
            match kind {
                Kind::Alloc { gpu, bytes, address } => {
                    let of_gpu = self.gpus.entry(*gpu).or_default();
                    of_gpu.used += bytes;
                    of_gpu.used_high = of_gpu.used_high.max(of_gpu.used);
                    self.live.insert(*address, (*gpu, *bytes, exec));
                    process.map(*gpu, *address, *bytes, &Store::new(*bytes), 0);
                }
                Kind::Free(address) if !self.free(process, *address) => return Err(INVALID_VALUE),
                _ => {}
            }
        }
        Ok(())
    }

    /// Frees an allocation of a graph; false if it is none.
    pub(crate) fn free(&mut self, process: &Process, address: u64) -> bool {
        let Some((gpu, bytes, _)) = self.live.remove(&address) else { return false };
        if let Some(of_gpu) = self.gpus.get_mut(&gpu) {
            of_gpu.used = of_gpu.used.saturating_sub(bytes);
        }
        process.free(address);
        true
    }

    fn trim(&mut self, process: &Process, gpu: usize) {
        let Some(of_gpu) = self.gpus.get_mut(&gpu) else { return };
        let kept = (of_gpu.used + of_gpu.promised).checked_next_multiple_of(BLOCK).unwrap_or(of_gpu.reserved);
        process.uncharge(gpu, of_gpu.reserved.saturating_sub(kept));
        of_gpu.reserved = of_gpu.reserved.min(kept);
    }
}

/// An allocation node: its address is known from now on.
pub(crate) fn alloc_kind(driver: &Driver, params: &mut AllocParams) -> Result<Kind, Code> {
    let gpu = params.pool.gpu(driver)?;
    let bytes =
        (params.bytes as u64).checked_next_multiple_of(512).filter(|b| *b > 0).ok_or(INVALID_VALUE)?;
    let address = driver.process.reserve(bytes, BLOCK).ok_or(crate::OUT_OF_MEMORY)?;
    params.address = address;
    Ok(Kind::Alloc { gpu, bytes, address })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGraphMemTrim(device: i32) -> Code {
    let trim = |driver: &Driver| {
        let gpu = driver.gpu(device)?;
        driver.objects().graphs.memory.trim(&driver.process, gpu);
        Ok(())
    };
    code(driver().and_then(trim))
}

/// `CUgraphMem_attribute`: used now, at most; reserved now, at most.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetGraphMemAttribute(
    device: i32,
    attribute: i32,
    value: *mut c_void,
) -> Code {
    let find = || {
        let driver = driver()?;
        let gpu = driver.gpu(device)?;
        let of_gpu = driver.objects().graphs.memory.gpus.get(&gpu).copied().unwrap_or_default();
        match attribute {
            0 => Ok(of_gpu.used),
            1 => Ok(of_gpu.used_high),
            2 => Ok(of_gpu.reserved),
            3 => Ok(of_gpu.reserved_high),
            _ => Err(INVALID_VALUE),
        }
    };
    // SAFETY: the caller's pointer, of a cuuint64_t.
    unsafe { crate::give(value.cast::<u64>(), find) }
}

/// High-water marks can be set to 0, which is to what is there now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceSetGraphMemAttribute(
    device: i32,
    attribute: i32,
    value: *mut c_void,
) -> Code {
    // SAFETY: the caller's pointer, of a cuuint64_t.
    let value = unsafe { value.cast::<u64>().as_ref() };
    let set = |driver: &Driver| {
        let gpu = driver.gpu(device)?;
        let mut objects = driver.objects();
        let of_gpu = objects.graphs.memory.gpus.entry(gpu).or_default();
        match (attribute, value) {
            (1, Some(0)) => of_gpu.used_high = of_gpu.used,
            (3, Some(0)) => of_gpu.reserved_high = of_gpu.reserved,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    };
    if value.is_none() { INVALID_VALUE } else { code(driver().and_then(set)) }
}
