//! Every family of device memory, step by step: after each what the share is charged is what the driver holds.
//!
//! The tenant asks the shim and, beside it, the real library under the name the shim needs it by.

use anyhow::{Context, ensure};
use libloading::{Library, Symbol};

use crate::bench::{Bench, MIB};
use crate::{Tenant, cuda::OUT_OF_MEMORY};

const LIMIT: u64 = 512 * MIB;

/// The shim and the driver under it, called with integers and addresses alone.
struct Both {
    shim: Library,
    real: Library,
    /// Free bytes of the GPU with nothing allocated.
    empty: u64,
}

pub(crate) fn call(library: &Library, name: &str, arguments: &[u64]) -> anyhow::Result<i32> {
    let mut all = [0u64; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: every function called here takes at most six integers or pointers, which the ABIs pass in registers.
    let function: Symbol<'_, extern "C" fn(u64, u64, u64, u64, u64, u64) -> i32> =
        unsafe { library.get(name.as_bytes()) }.with_context(|| name.to_owned())?;
    Ok(function(a, b, c, d, e, f))
}

pub(crate) fn at<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value) as u64
}

impl Both {
    fn start() -> anyhow::Result<(Self, u64)> {
        // SAFETY: loading driver libraries has no conditions.
        let (shim, real) = unsafe { (Library::new("libcuda.so.1")?, Library::new("libcuda-real.so")?) };
        let mut both = Self { shim, real, empty: 0 };
        let mut context = 0u64;
        both.ok("cuInit", &[0])?;
        both.ok("cuCtxCreate_v2", &[at(&mut context), 0, 0])?;
        both.empty = both.free_in(&both.real)?;
        both.agree("in the beginning", 0)?;
        Ok((both, context))
    }

    fn call(&self, name: &str, arguments: &[u64]) -> anyhow::Result<i32> {
        call(&self.shim, name, arguments)
    }

    fn ok(&self, name: &str, arguments: &[u64]) -> anyhow::Result<()> {
        let code = self.call(name, arguments)?;
        ensure!(code == 0, "{name}: {code}");
        Ok(())
    }

    fn free_in(&self, library: &Library) -> anyhow::Result<u64> {
        let (mut free, mut total) = (0u64, 0u64);
        let code = call(library, "cuMemGetInfo_v2", &[at(&mut free), at(&mut total)])?;
        ensure!(code == 0, "cuMemGetInfo: {code}");
        Ok(free)
    }

    /// What is charged is what the driver holds, and that is so many bytes.
    fn agree(&self, when: &str, bytes: u64) -> anyhow::Result<()> {
        let charged = LIMIT - self.free_in(&self.shim)?;
        let held = self.empty - self.free_in(&self.real)?;
        ensure!(charged == held && held == bytes, "{when}: charged {charged}, held {held}, expected {bytes}");
        Ok(())
    }

    /// The same without knowing how much; gives it.
    fn agree_somehow(&self, when: &str) -> anyhow::Result<u64> {
        let held = self.empty - self.free_in(&self.real)?;
        self.agree(when, held)?;
        Ok(held)
    }
}

/// `CUmemAllocationProp` or `CUmemPoolProps`: pinned memory of a location.
pub(crate) fn props(location: i32) -> [i32; 22] {
    let mut props = [0; 22];
    props[..4].copy_from_slice(&[1, 0, location, 0]);
    props
}

pub(crate) const DEVICE: i32 = 1;
const HOST: i32 = 2;

pub(crate) fn tenant() -> anyhow::Result<()> {
    let (both, context) = Both::start()?;
    linear(&both)?;
    arrays(&both)?;
    physical(&both)?;
    pools(&both, "")?;
    pools(&both, "_ptsz")?;
    graphs(&both)?;
    by_address(&both)?;
    let mut address = 0u64;
    both.ok("cuMemHostAlloc", &[at(&mut address), 64 * MIB, 0])?;
    both.agree("host memory", 0)?;
    both.ok("cuMemAlloc_v2", &[at(&mut address), 64 * MIB])?;
    both.agree("before its context goes", 64 * MIB)?;
    both.ok("cuCtxDestroy_v2", &[context])?;
    both.ok("cuCtxCreate_v2", &[at(&mut address), 0, 0])?;
    both.agree("after its context went", 0)?;
    println!("ready");
    Ok(())
}

fn linear(both: &Both) -> anyhow::Result<()> {
    let (mut address, mut pitch) = (0u64, 0u64);
    both.ok("cuMemAllocPitch_v2", &[at(&mut address), at(&mut pitch), 1000, 100, 4])?;
    both.agree("pitched", pitch * 100)?;
    both.ok("cuMemFree_v2", &[address])?;
    both.ok("cuMemAllocManaged", &[at(&mut address), 3 * MIB, 1])?;
    both.agree("managed", 3 * MIB)?;
    both.ok("cuMemFree_v2", &[address])?;
    let mut narrow = 0u32;
    both.ok("cuMemAlloc", &[at(&mut narrow), MIB])?;
    both.agree("of the first ABI", MIB)?;
    both.ok("cuMemFree", &[narrow.into()])?;
    for (name, arguments) in [
        ("cuMemAlloc_v2", vec![at(&mut address), LIMIT + 1]),
        ("cuMemAllocManaged", vec![at(&mut address), LIMIT + 1, 1]),
        ("cuMemAllocPitch_v2", vec![at(&mut address), at(&mut pitch), LIMIT, 2, 4]),
        ("cuMemAllocAsync", vec![at(&mut address), LIMIT + 1, 0]),
    ] {
        ensure!(both.call(name, &arguments)? == OUT_OF_MEMORY, "{name} past the limit");
    }
    both.agree("nothing of it stays", 0)
}

fn arrays(both: &Both) -> anyhow::Result<()> {
    // Width, height, depth; float with four channels, no flags.
    let shape = |w: u64, h: u64, d: u64| [w, h, d, 0x20 | 4 << 32, 0u64];
    let (mut array, mut mipmap) = (0u64, 0u64);
    both.ok("cuArray3DCreate_v2", &[at(&mut array), at(&mut shape(64, 32, 32))])?;
    both.agree("an array", MIB)?;
    both.ok("cuMipmappedArrayCreate", &[at(&mut mipmap), at(&mut shape(256, 256, 0)), 3])?;
    both.agree("with a mipmap", 2 * MIB + MIB / 4 + MIB / 16)?;
    both.ok("cuArrayDestroy", &[array])?;
    both.ok("cuMipmappedArrayDestroy", &[mipmap])?;
    let mut flat = [256u64, 256, 0x20 | 4 << 32];
    both.ok("cuArrayCreate_v2", &[at(&mut array), at(&mut flat)])?;
    both.agree("a flat one", MIB)?;
    both.ok("cuArrayDestroy", &[array])?;
    let code = both.call("cuArray3DCreate_v2", &[at(&mut array), at(&mut shape(1 << 14, 1 << 14, 0))])?;
    ensure!(code == OUT_OF_MEMORY, "{code}");
    both.agree("no array", 0)
}

fn physical(both: &Both) -> anyhow::Result<()> {
    let (mut handle, mut again, mut address) = (0u64, 0u64, 0u64);
    both.ok("cuMemCreate", &[at(&mut handle), 64 * MIB, at(&mut props(HOST)), 0])?;
    both.agree("of the host", 0)?;
    both.ok("cuMemRelease", &[handle])?;
    both.ok("cuMemCreate", &[at(&mut handle), 64 * MIB, at(&mut props(DEVICE)), 0])?;
    both.agree("created", 64 * MIB)?;
    both.ok("cuMemAddressReserve", &[at(&mut address), 64 * MIB, 0, 0, 0])?;
    both.ok("cuMemMap", &[address, 64 * MIB, 0, handle, 0])?;
    both.ok("cuMemRetainAllocationHandle", &[at(&mut again), address])?;
    both.ok("cuMemRelease", &[handle])?;
    both.ok("cuMemUnmap", &[address, 64 * MIB])?;
    both.agree("kept by the retained handle", 64 * MIB)?;
    both.ok("cuMemMap", &[address, 64 * MIB, 0, again, 0])?;
    both.ok("cuMemRelease", &[again])?;
    both.agree("kept by its mapping", 64 * MIB)?;
    both.ok("cuMemUnmap", &[address, 64 * MIB])?;
    both.agree("gone", 0)?;
    let code = both.call("cuMemCreate", &[at(&mut handle), LIMIT + 2 * MIB, at(&mut props(DEVICE)), 0])?;
    ensure!(code == OUT_OF_MEMORY, "{code}");
    Ok(())
}

fn pools(both: &Both, flavour: &str) -> anyhow::Result<()> {
    let name = |name: &str| format!("{name}{flavour}");
    let (mut one, mut two, mut pool) = (0u64, 0u64, 0u64);
    both.ok(&name("cuMemAllocAsync"), &[at(&mut one), 40 * MIB, 0])?;
    ensure!(both.agree_somehow("stream-ordered")? >= 40 * MIB);
    both.ok(&name("cuMemFreeAsync"), &[one, 0])?;
    both.ok("cuStreamSynchronize", &[0])?;
    both.agree("freed and synchronised", 0)?;
    both.ok("cuMemPoolCreate", &[at(&mut pool), at(&mut props(DEVICE))])?;
    let mut all = u64::MAX;
    both.ok("cuMemPoolSetAttribute", &[pool, 4, at(&mut all)])?;
    both.ok(&name("cuMemAllocFromPoolAsync"), &[at(&mut one), 100 * MIB, pool, 0])?;
    both.ok(&name("cuMemAllocFromPoolAsync"), &[at(&mut two), 100 * MIB, pool, 0])?;
    both.ok(&name("cuMemFreeAsync"), &[one, 0])?;
    both.ok("cuStreamSynchronize", &[0])?;
    ensure!(both.agree_somehow("kept by the pool")? >= 200 * MIB);
    // What the pool keeps unused makes room for others.
    let mut other = 0u64;
    both.ok("cuMemAlloc_v2", &[at(&mut other), 400 * MIB])?;
    ensure!(both.agree_somehow("the pool is trimmed")? <= LIMIT);
    both.ok("cuMemFree_v2", &[other])?;
    both.ok("cuMemPoolTrimTo", &[pool, 0])?;
    both.agree_somehow("trimmed")?;
    both.ok("cuMemFree_v2", &[two])?;
    both.ok("cuMemPoolDestroy", &[pool])?;
    both.agree("destroyed", 0)
}

fn graphs(both: &Both) -> anyhow::Result<()> {
    let (mut graph, mut node, mut run, mut stream, mut address) = (0u64, 0u64, 0u64, 0u64, 0u64);
    both.ok("cuStreamCreate", &[at(&mut stream), 1])?;
    both.ok("cuGraphCreate", &[at(&mut graph), 0])?;
    // CUDA_MEM_ALLOC_NODE_PARAMS: pool properties, no access list, size, address.
    let mut wanted = [0u64; 15];
    (wanted[0], wanted[1], wanted[13]) = (1, 1, 32 * MIB);
    both.ok("cuGraphAddMemAllocNode", &[at(&mut node), graph, 0, 0, at(&mut wanted)])?;
    let mut free = 0u64;
    both.ok("cuGraphAddMemFreeNode", &[at(&mut free), graph, at(&mut node), 1, wanted[14]])?;
    both.ok("cuGraphInstantiateWithFlags", &[at(&mut run), graph, 0])?;
    both.agree_somehow("instantiated")?;
    for _ in 0..3 {
        both.ok("cuGraphLaunch", &[run, stream])?;
        ensure!(both.agree_somehow("launched")? >= 32 * MIB);
    }
    both.ok("cuStreamSynchronize", &[stream])?;
    both.ok("cuDeviceGraphMemTrim", &[0])?;
    both.agree("trimmed", 0)?;
    both.ok("cuGraphExecDestroy", &[run])?;
    both.ok("cuGraphDestroy", &[graph])?;
    both.ok("cuStreamBeginCapture_v2", &[stream, 0])?;
    both.ok("cuMemAllocAsync", &[at(&mut address), 48 * MIB, stream])?;
    both.ok("cuMemFreeAsync", &[address, stream])?;
    both.ok("cuStreamEndCapture", &[stream, at(&mut graph)])?;
    both.agree("captured", 0)?;
    both.ok("cuGraphInstantiateWithFlags", &[at(&mut run), graph, 0])?;
    both.ok("cuGraphLaunch", &[run, stream])?;
    ensure!(both.agree_somehow("a captured graph launched")? >= 48 * MIB);
    both.ok("cuStreamSynchronize", &[stream])?;
    both.ok("cuGraphExecDestroy", &[run])?;
    both.ok("cuDeviceGraphMemTrim", &[0])?;
    both.agree("the captured one trimmed", 0)
}

/// Through the addresses cuGetProcAddress gives, for each version and flavour.
fn by_address(both: &Both) -> anyhow::Result<()> {
    type Function = extern "C" fn(u64, u64, u64) -> i32;
    let find = |name: &std::ffi::CStr, version: u64, flags: u64| -> anyhow::Result<Function> {
        let mut found = 0u64;
        let mut status = 0u64;
        let arguments = [name.as_ptr() as u64, at(&mut found), version, flags, at(&mut status)];
        both.ok("cuGetProcAddress_v2", &arguments)?;
        // SAFETY: a driver function that takes up to three integers or pointers.
        Ok(unsafe { std::mem::transmute::<usize, Function>(found as usize) })
    };
    for version in [11_030, 12_000, 13_000] {
        for flags in [0, 1, 2] {
            let mut address = 0u64;
            ensure!(find(c"cuMemAlloc", version, flags)?(at(&mut address), 7 * MIB, 0) == 0);
            both.agree("by address", 7 * MIB)?;
            ensure!(find(c"cuMemFree", version, flags)?(address, 0, 0) == 0);
            ensure!(find(c"cuMemAllocAsync", version, flags)?(at(&mut address), 7 * MIB, 0) == 0);
            ensure!(both.agree_somehow("by address, stream-ordered")? >= 7 * MIB);
            ensure!(find(c"cuMemFreeAsync", version, flags)?(address, 0, 0) == 0);
            both.ok("cuStreamSynchronize", &[0])?;
            both.agree("freed by address", 0)?;
        }
    }
    Ok(())
}

pub(crate) fn agree(bench: &Bench) -> anyhow::Result<()> {
    bench.share("s", LIMIT, 0)?;
    Tenant::start(bench, &[], &["families"])?.ready().map(drop)
}
