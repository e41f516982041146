//! Every family of device memory on the fake driver: what it takes of the GPU, when it gives it back, what it refuses.

mod node;

use std::ffi::c_void;

use node::cuda::{Cuda, cu};
use node::{MIB, Node, T4};

const BLOCK: usize = 2 << 20;

/// `CUmemAllocationProp` or `CUmemPoolProps` for a device, with room for either.
fn props(location: i32, device: i32, handles: i32) -> [i32; 22] {
    let mut props = [0; 22];
    props[..4].copy_from_slice(&[1, handles, location, device]);
    props
}

fn create(cuda: &Cuda, bytes: usize, props: &[i32; 22]) -> Result<u64, i32> {
    let mut handle = 0u64;
    let code = cu!(cuda, cuMemCreate(&raw mut handle => *mut u64, bytes => usize, props.as_ptr() => *const i32, 0 => u64));
    if code == 0 { Ok(handle) } else { Err(code) }
}

fn reserve(cuda: &Cuda, bytes: usize) -> u64 {
    let mut address = 0u64;
    let code = cu!(cuda, cuMemAddressReserve(&raw mut address => *mut u64, bytes => usize, 0 => usize, 0 => u64, 0 => u64));
    assert_eq!(code, 0);
    address
}

fn map(cuda: &Cuda, address: u64, bytes: usize, handle: u64) -> i32 {
    cu!(cuda, cuMemMap(address => u64, bytes => usize, 0 => usize, handle => u64, 0 => u64))
}

fn pool_attribute(cuda: &Cuda, pool: usize, attribute: i32) -> u64 {
    let mut value = 0u64;
    let to = (&raw mut value).cast::<c_void>();
    assert_eq!(cu!(cuda, cuMemPoolGetAttribute(pool => usize, attribute => i32, to => *mut c_void)), 0);
    value
}

fn from_pool(cuda: &Cuda, pool: usize, bytes: usize) -> Result<u64, i32> {
    let mut address = 0u64;
    let code = cu!(cuda, cuMemAllocFromPoolAsync(&raw mut address => *mut u64, bytes => usize, pool => usize, 0 => usize));
    if code == 0 { Ok(address) } else { Err(code) }
}

#[test]
fn arrays_of_every_dimension_and_their_levels_are_charged_once() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    // Width, height, depth; float with four channels, no flags.
    let shape = |w: usize, h: usize, d: usize| [w as u64, h as u64, d as u64, 0x20 | 4 << 32, 0];
    let (mut array, mut mipmap, mut level) = (0usize, 0usize, 0usize);
    for (w, h, d) in [(65_536, 0, 0), (256, 256, 0), (64, 32, 32)] {
        let wanted = shape(w, h, d);
        assert_eq!(
            cu!(cuda, cuArray3DCreate_v2(&raw mut array => *mut usize, wanted.as_ptr() => *const u64)),
            0
        );
        assert_eq!(cuda.free_bytes(), T4 - MIB, "{w} {h} {d}");
        let mut need = [0u64; 4];
        let asked =
            cu!(cuda, cuArrayGetMemoryRequirements(need.as_mut_ptr() => *mut u64, array => usize, 0 => i32));
        assert_eq!((asked, need[0]), (0, MIB));
        assert_eq!(cu!(cuda, cuArrayDestroy(array => usize)), 0);
        assert_eq!(cuda.free_bytes(), T4);
    }
    let flat = [256u64, 256, 0x20 | 4 << 32];
    assert_eq!(cu!(cuda, cuArrayCreate_v2(&raw mut array => *mut usize, flat.as_ptr() => *const u64)), 0);
    let wanted = shape(256, 256, 0);
    assert_eq!(
        cu!(cuda, cuMipmappedArrayCreate(&raw mut mipmap => *mut usize, wanted.as_ptr() => *const u64, 3 => u32)),
        0
    );
    // 1 MiB, 256 KiB and 64 KiB.
    assert_eq!(cuda.free_bytes(), T4 - MIB - (MIB + MIB / 4 + MIB / 16));
    assert_eq!(
        cu!(cuda, cuMipmappedArrayGetLevel(&raw mut level => *mut usize, mipmap => usize, 2 => u32)),
        0
    );
    assert_eq!(cu!(cuda, cuArrayDestroy(level => usize)), 400);
    assert_eq!(cu!(cuda, cuMipmappedArrayDestroy(mipmap => usize)), 0);
    assert_eq!(cuda.free_bytes(), T4 - MIB);
    let too_much = shape(1 << 17, 1 << 15, 0);
    assert_eq!(
        cu!(cuda, cuArray3DCreate_v2(&raw mut mipmap => *mut usize, too_much.as_ptr() => *const u64)),
        2
    );
    let wrong = [256u64, 256, 0, 0x77 | 1 << 32, 0];
    assert_eq!(cu!(cuda, cuArray3DCreate_v2(&raw mut mipmap => *mut usize, wrong.as_ptr() => *const u64)), 1);
}

#[test]
fn physical_memory_lives_as_long_as_a_handle_or_a_mapping() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let device = props(1, 0, 0);
    let mut granularity = 0usize;
    let asked = cu!(cuda, cuMemGetAllocationGranularity(&raw mut granularity => *mut usize, device.as_ptr() => *const i32, 0 => i32));
    assert_eq!((asked, granularity), (0, BLOCK));
    assert_eq!(create(&cuda, 1000, &device), Err(1));
    let handle = create(&cuda, 2 * BLOCK, &device).unwrap();
    assert_eq!(cuda.free_bytes(), T4 - 4 * MIB);
    let address = reserve(&cuda, 4 * BLOCK);
    assert_eq!(cuda.free_bytes(), T4 - 4 * MIB);
    assert_eq!(map(&cuda, address, 2 * BLOCK, handle), 0);
    assert_eq!(map(&cuda, address, 2 * BLOCK, handle), 208);
    assert_eq!(map(&cuda, address + 3 * BLOCK as u64, 2 * BLOCK, handle), 1);
    let access = [1i32, 0, 3];
    let set = cu!(cuda, cuMemSetAccess(address => u64, 2 * BLOCK => usize, access.as_ptr() => *const i32, 1 => usize));
    assert_eq!((set, cu!(cuda, cuMemsetD8_v2(address => u64, 9 => u8, 2 * BLOCK => usize))), (0, 0));
    // Held once more through the address, then let go of twice: the mapping keeps it.
    let mut again = 0u64;
    assert_eq!(cu!(cuda, cuMemRetainAllocationHandle(&raw mut again => *mut u64, address => u64)), 0);
    assert_eq!(again, handle);
    assert_eq!((cu!(cuda, cuMemRelease(handle => u64)), cu!(cuda, cuMemRelease(handle => u64))), (0, 0));
    assert_eq!((cuda.free_bytes(), cu!(cuda, cuMemRelease(handle => u64))), (T4 - 4 * MIB, 1));
    assert_eq!(cu!(cuda, cuMemAddressFree(address => u64, 4 * BLOCK => usize)), 1);
    assert_eq!(cu!(cuda, cuMemUnmap(address => u64, BLOCK => usize)), 1);
    assert_eq!(cu!(cuda, cuMemUnmap(address => u64, 2 * BLOCK => usize)), 0);
    assert_eq!(cuda.free_bytes(), T4);
    assert_eq!(cu!(cuda, cuMemAddressFree(address => u64, 4 * BLOCK => usize)), 0);
}

#[test]
fn physical_memory_is_charged_where_it_is_made_and_the_hosts_not_at_all() {
    let node = Node::new("T4x2");
    let cuda = Cuda::start(&node);
    let other = create(&cuda, BLOCK, &props(1, 1, 0)).unwrap();
    let host = create(&cuda, BLOCK, &props(2, 0, 0)).unwrap();
    let used = || [0, 1].map(|gpu| node.gpus().lock().used(gpu));
    assert_eq!(used(), [0, BLOCK as u64]);
    assert_eq!(create(&cuda, BLOCK, &props(1, 2, 0)), Err(101));
    assert_eq!((cu!(cuda, cuMemRelease(other => u64)), cu!(cuda, cuMemRelease(host => u64))), (0, 0));
    assert_eq!(used(), [0, 0]);
}

#[test]
fn an_exported_handle_is_the_same_memory_when_it_is_imported() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (plain, shared) = (props(1, 0, 0), props(1, 0, 1));
    let (mut file, mut imported) = (-1i32, 0u64);
    let export = |handle: u64, file: *mut i32| cu!(cuda, cuMemExportToShareableHandle(file.cast() => *mut c_void, handle => u64, 1 => i32, 0 => u64));
    let handle = create(&cuda, BLOCK, &plain).unwrap();
    assert_eq!(export(handle, &raw mut file), 1);
    assert_eq!(cu!(cuda, cuMemRelease(handle => u64)), 0);
    let handle = create(&cuda, BLOCK, &shared).unwrap();
    assert_eq!(export(handle, &raw mut file), 0);
    let import = |file: i32, to: *mut u64| cu!(cuda, cuMemImportFromShareableHandle(to => *mut u64, file as usize => usize, 1 => i32));
    assert_eq!((import(file, &raw mut imported), imported), (0, handle));
    assert_eq!(cuda.free_bytes(), T4 - 2 * MIB);
    assert_eq!(cu!(cuda, cuMemRelease(handle => u64)), 0);
    assert_eq!(cuda.free_bytes(), T4 - 2 * MIB);
    assert_eq!(cu!(cuda, cuMemRelease(imported => u64)), 0);
    assert_eq!((cuda.free_bytes(), import(file, &raw mut imported)), (T4, 1));
    // SAFETY: the test's own descriptor.
    unsafe { libc::close(file) };
}

#[test]
fn a_pool_keeps_what_is_freed_until_something_is_waited_for() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let mut pool = 0usize;
    assert_eq!(cu!(cuda, cuDeviceGetDefaultMemPool(&raw mut pool => *mut usize, 0 => i32)), 0);
    let first = from_pool(&cuda, pool, 3 << 20).unwrap();
    assert_eq!([5, 6, 7, 8].map(|a| pool_attribute(&cuda, pool, a)), [4 * MIB, 4 * MIB, 3 * MIB, 3 * MIB]);
    assert_eq!(cuda.free_bytes(), T4 - 4 * MIB);
    // The rest of the block is used first.
    let second = from_pool(&cuda, pool, 1 << 20).unwrap();
    assert_eq!(cuda.free_bytes(), T4 - 4 * MIB);
    for address in [first, second] {
        assert_eq!(cu!(cuda, cuMemFreeAsync(address => u64, 0 => usize)), 0);
    }
    assert_eq!((pool_attribute(&cuda, pool, 5), pool_attribute(&cuda, pool, 7)), (4 * MIB, 0));
    cuda.synchronize();
    assert_eq!((pool_attribute(&cuda, pool, 5), pool_attribute(&cuda, pool, 6)), (0, 4 * MIB));
    assert_eq!(cuda.free_bytes(), T4);
}

#[test]
fn a_release_threshold_is_kept_until_the_pool_is_trimmed() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let mut pool = 0usize;
    let device = props(1, 0, 0);
    assert_eq!(cu!(cuda, cuMemPoolCreate(&raw mut pool => *mut usize, device.as_ptr() => *const i32)), 0);
    let mut threshold = 6 * MIB;
    let from = (&raw mut threshold).cast::<c_void>();
    assert_eq!(cu!(cuda, cuMemPoolSetAttribute(pool => usize, 4 => i32, from => *mut c_void)), 0);
    let address = from_pool(&cuda, pool, 10 << 20).unwrap();
    assert_eq!(cu!(cuda, cuMemFreeAsync(address => u64, 0 => usize)), 0);
    cuda.synchronize();
    assert_eq!(cuda.free_bytes(), T4 - 6 * MIB);
    assert_eq!(cu!(cuda, cuMemPoolTrimTo(pool => usize, 3 << 20 => usize)), 0);
    assert_eq!(cuda.free_bytes(), T4 - 4 * MIB);
    assert_eq!(from_pool(&cuda, pool, 1 << 40), Err(2));
    assert_eq!(cu!(cuda, cuMemPoolDestroy(pool => usize)), 0);
    assert_eq!((cuda.free_bytes(), from_pool(&cuda, pool, 512)), (T4, Err(1)));
}

#[test]
fn a_pool_that_is_destroyed_ends_with_its_last_allocation() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let mut pool = 0usize;
    let device = props(1, 0, 0);
    assert_eq!(cu!(cuda, cuMemPoolCreate(&raw mut pool => *mut usize, device.as_ptr() => *const i32)), 0);
    let address = from_pool(&cuda, pool, BLOCK).unwrap();
    assert_eq!(cu!(cuda, cuMemPoolDestroy(pool => usize)), 0);
    assert_eq!(cuda.free_bytes(), T4 - 2 * MIB);
    assert_eq!(cu!(cuda, cuMemFree_v2(address => u64)), 0);
    assert_eq!(cuda.free_bytes(), T4);
}

#[test]
fn memory_is_opened_by_other_processes_and_paid_for_by_its_owner() {
    let node = Node::new("T4");
    let owner = Cuda::start(&node);
    let address = owner.alloc(BLOCK);
    let mut handle = [0u64; 8];
    assert_eq!(cu!(owner, cuIpcGetMemHandle(handle.as_mut_ptr() => *mut u64, address => u64)), 0);
    let mut managed = 0u64;
    assert_eq!(cu!(owner, cuMemAllocManaged(&raw mut managed => *mut u64, BLOCK => usize, 1 => u32)), 0);
    assert_eq!(cu!(owner, cuIpcGetMemHandle([0u64; 8].as_mut_ptr() => *mut u64, managed => u64)), 1);
    // What is its own cannot be opened.
    let mut opened = 0u64;
    assert_eq!(
        cu!(owner, cuIpcOpenMemHandle_v2(&raw mut opened => *mut u64, handle => [u64; 8], 1 => u32)),
        201
    );
    // SAFETY: the child uses none of its parent's locks but the allocator's, which glibc repairs, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut ok = false;
        if std::fs::copy(node.path("lib/libcuda.so.1"), node.path("lib/libcuda-child.so")).is_ok() {
            // SAFETY: another file, so another library with no state of the parent's.
            if let Ok(library) = unsafe { libloading::Library::new(node.path("lib/libcuda-child.so")) } {
                let cuda = Cuda(library);
                let mut context = 0usize;
                let started = cu!(cuda, cuInit(0 => u32)) == 0
                    && cu!(cuda, cuCtxCreate_v2(&raw mut context => *mut usize, 0 => u32, 0 => i32)) == 0;
                let before = cuda.free_bytes();
                let code = cu!(cuda, cuIpcOpenMemHandle_v2(&raw mut opened => *mut u64, handle => [u64; 8], 1 => u32));
                let same = cuda.free_bytes() == before;
                let freed = cu!(cuda, cuMemFree_v2(opened => u64));
                let closed = cu!(cuda, cuIpcCloseMemHandle(opened => u64));
                ok = started && code == 0 && same && freed == 1 && closed == 0;
                std::mem::forget(cuda);
            }
        }
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!ok)) };
    }
    let mut status = 0;
    // SAFETY: a child of this process and a pointer to a local.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 0);
    assert_eq!(cu!(owner, cuMemFree_v2(address => u64)), 0);
    assert_eq!(owner.free_bytes(), T4 - 2 * MIB);
}

#[test]
fn contexts_modules_and_buffers_take_what_their_model_says() {
    let node = Node::described("gpus: [{model: T4, contextMiB: 100, moduleMiB: 3}]");
    let cuda = Cuda::start(&node);
    assert_eq!(cuda.free_bytes(), T4 - 100 * MIB);
    cuda.function(c"spin");
    assert_eq!(cuda.free_bytes(), T4 - 103 * MIB);
    // The heap of malloc in kernels: 8 MiB are the context's.
    assert_eq!(cu!(cuda, cuCtxSetLimit(2 => i32, 18 << 20 => usize)), 0);
    let status = node.gpus().status_of(0);
    assert_eq!((status.used, status.processes[0].overhead), (113 * MIB, 113 * MIB));
    let mut context = 0usize;
    assert_eq!(cu!(cuda, cuCtxGetCurrent(&raw mut context => *mut usize)), 0);
    assert_eq!(cu!(cuda, cuCtxDestroy_v2(context => usize)), 0);
    assert_eq!(node.gpus().status_of(0).used, 0);
}

#[test]
fn what_is_known_of_an_address_can_be_asked() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let address = cuda.alloc(4096);
    let ask = |attribute: i32, address: u64| {
        let mut value = 0u64;
        let to = (&raw mut value).cast::<c_void>();
        let code = cu!(cuda, cuPointerGetAttribute(to => *mut c_void, attribute => i32, address => u64));
        (code, value)
    };
    assert_eq!(
        [2, 8, 9, 11, 12].map(|a| ask(a, address + 100)),
        [(0, 2), (0, 0), (0, 0), (0, address), (0, 4096)]
    );
    let (mut host, mut managed) = (0usize, 0u64);
    assert_eq!(cu!(cuda, cuMemAllocHost_v2(&raw mut host => *mut usize, 4096 => usize)), 0);
    assert_eq!(cu!(cuda, cuMemAllocManaged(&raw mut managed => *mut u64, 4096 => usize, 1 => u32)), 0);
    assert_eq!((ask(2, host as u64), ask(8, managed), ask(2, 0x1234)), ((0, 1), (0, 1), (1, 0)));
    assert_eq!(cuda.free_bytes(), T4 - 8192);
}
