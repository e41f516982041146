//! The driver API as a program calls it: result codes, symbols, streams, contents.

mod node;

use std::ffi::{CStr, c_char, c_void};

use node::cuda::{Cuda, cu};
use node::{MIB, Node, T4};

#[test]
fn before_cuinit_only_the_version_is_known() {
    let node = Node::new("T4");
    let cuda = Cuda::load(&node);
    let (mut count, mut version) = (0, 0);
    assert_eq!(cu!(cuda, cuDeviceGetCount(&raw mut count => *mut i32)), 3);
    assert_eq!(cu!(cuda, cuDriverGetVersion(&raw mut version => *mut i32)), 0);
    assert_eq!(version, 12_040);
    assert_eq!(cu!(cuda, cuInit(1 => u32)), 1);
    assert_eq!(cu!(cuda, cuInit(0 => u32)), 0);
    assert_eq!(cu!(cuda, cuDeviceGetCount(&raw mut count => *mut i32)), 0);
    assert_eq!(count, 1);
}

#[test]
fn without_a_context_calls_that_need_one_say_so() {
    let node = Node::new("T4");
    let cuda = Cuda::load(&node);
    assert_eq!(cu!(cuda, cuInit(0 => u32)), 0);
    let mut address = 0u64;
    assert_eq!(cu!(cuda, cuMemAlloc_v2(&raw mut address => *mut u64, 512 => usize)), 201);
    assert_eq!(cu!(cuda, cuCtxSynchronize()), 201);
    let mut context = 7usize;
    assert_eq!(cu!(cuda, cuCtxGetCurrent(&raw mut context => *mut usize)), 0);
    assert_eq!(context, 0);
}

#[test]
fn a_destroyed_context_is_told_from_none() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let mut context = 0usize;
    assert_eq!(cu!(cuda, cuCtxGetCurrent(&raw mut context => *mut usize)), 0);
    assert_eq!(cu!(cuda, cuCtxPushCurrent_v2(context => usize)), 0);
    assert_eq!(cu!(cuda, cuCtxDestroy_v2(context => usize)), 0);
    assert_eq!(cu!(cuda, cuCtxSynchronize()), 709);
    assert_eq!(cu!(cuda, cuCtxDestroy_v2(context => usize)), 201);
}

#[test]
fn bad_arguments_have_the_codes_of_cuda_h() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let mut number = 0;
    assert_eq!(cu!(cuda, cuDeviceGet(&raw mut number => *mut i32, 1 => i32)), 101);
    assert_eq!(cu!(cuda, cuDeviceGetAttribute(&raw mut number => *mut i32, 9999 => i32, 0 => i32)), 1);
    assert_eq!(cu!(cuda, cuMemAlloc_v2(std::ptr::null_mut() => *mut u64, 512 => usize)), 1);
    let mut address = 0u64;
    assert_eq!(cu!(cuda, cuMemAlloc_v2(&raw mut address => *mut u64, 0 => usize)), 1);
    assert_eq!(cu!(cuda, cuMemAlloc_v2(&raw mut address => *mut u64, usize::MAX => usize)), 2);
    assert_eq!(cu!(cuda, cuMemFree_v2(0xdead_0000 => u64)), 1);
    assert_eq!(cu!(cuda, cuMemFree_v2(0 => u64)), 0);
    assert_eq!(cu!(cuda, cuStreamSynchronize(0x7777 => usize)), 400);
    assert_eq!(cu!(cuda, cuEventQuery(0x7777 => usize)), 400);
    assert_eq!(cuda.launch(0x7777, 1), 400);
    let image = c"\x7fELF".as_ptr().cast();
    let mut module = 0usize;
    assert_eq!(cu!(cuda, cuModuleLoadData(&raw mut module => *mut usize, image => *const c_void)), 200);
    let mut name = std::ptr::null();
    assert_eq!(cu!(cuda, cuGetErrorName(2 => i32, &raw mut name => *mut *const c_char)), 0);
    // SAFETY: the driver has just given a C string.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(cu!(cuda, cuGetErrorName(12345 => i32, &raw mut name => *mut *const c_char)), 1);
}

#[test]
fn every_family_of_allocations_is_counted_and_given_back() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (mut wide, mut pitch, mut narrow) = (0u64, 0usize, 0u32);
    let mib = MIB as usize;
    let linear = cuda.alloc(mib);
    assert_eq!(
        cu!(cuda, cuMemAllocPitch_v2(&raw mut wide => *mut u64, &raw mut pitch => *mut usize, 1000 => usize, 1024 => usize, 4 => u32)),
        0
    );
    assert_eq!((pitch, cuda.free_bytes()), (1024, T4 - 2 * MIB));
    let pitched = wide;
    assert_eq!(cu!(cuda, cuMemAllocManaged(&raw mut wide => *mut u64, mib => usize, 1 => u32)), 0);
    // SAFETY: managed memory is the host's too.
    unsafe { (wide as *mut u8).write(1) };
    let managed = wide;
    assert_eq!(cu!(cuda, cuMemAllocAsync(&raw mut wide => *mut u64, mib => usize, 0 => usize)), 0);
    assert_eq!(cu!(cuda, cuMemAlloc(&raw mut narrow => *mut u32, MIB as u32 => u32)), 0);
    // A pool takes whole blocks of 2 MiB.
    assert_eq!(cuda.free_bytes(), T4 - 6 * MIB);
    for address in [linear, pitched, managed] {
        assert_eq!(cu!(cuda, cuMemFree_v2(address => u64)), 0);
    }
    assert_eq!(cu!(cuda, cuMemFreeAsync(wide => u64, 0 => usize)), 0);
    assert_eq!(cu!(cuda, cuMemFree(narrow => u32)), 0);
    assert_eq!(cu!(cuda, cuStreamSynchronize(0 => usize)), 0);
    assert_eq!(cuda.free_bytes(), T4);
}

#[test]
fn what_is_copied_in_comes_out_and_copies_end_with_the_allocation() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (first, second) = (cuda.alloc(1024), cuda.alloc(1024));
    let (sent, mut got) = ([7u8; 1024], [0u8; 1024]);
    assert_eq!(
        cu!(cuda, cuMemcpyHtoD_v2(first => u64, sent.as_ptr().cast() => *const c_void, 1024 => usize)),
        0
    );
    assert_eq!(cu!(cuda, cuMemcpyDtoD_v2(second => u64, first => u64, 1024 => usize)), 0);
    assert_eq!(cu!(cuda, cuMemsetD32_v2(second + 4 => u64, 0x0102_0304 => u32, 1 => usize)), 0);
    assert_eq!(
        cu!(cuda, cuMemcpyDtoH_v2(got.as_mut_ptr().cast() => *mut c_void, second => u64, 1024 => usize)),
        0
    );
    assert_eq!(got[..9], [7, 7, 7, 7, 4, 3, 2, 1, 7]);
    assert_eq!(
        cu!(cuda, cuMemcpyHtoD_v2(first + 1 => u64, sent.as_ptr().cast() => *const c_void, 1024 => usize)),
        1
    );
    assert_eq!(cu!(cuda, cuMemsetD8_v2(first => u64, 0 => u8, 1025 => usize)), 1);
}

#[test]
fn events_time_a_kernel_by_the_gpus_clock() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (start, end, spin) = (cuda.event(), cuda.event(), cuda.function(c"spin"));
    let mut millis = 0f32;
    assert_eq!(cu!(cuda, cuEventElapsedTime(&raw mut millis => *mut f32, start => usize, end => usize)), 400);
    // Everything is queued while the first kernel runs, however slow this thread is.
    assert_eq!(cuda.launch(spin, 200_000_000), 0);
    assert_eq!(cu!(cuda, cuEventRecord(start => usize, 0 => usize)), 0);
    assert_eq!(cuda.launch(spin, 30_000_000), 0);
    assert_eq!(cu!(cuda, cuEventRecord(end => usize, 0 => usize)), 0);
    assert_eq!(cu!(cuda, cuEventQuery(end => usize)), 600);
    assert_eq!(cu!(cuda, cuStreamQuery(0 => usize)), 600);
    assert_eq!(cu!(cuda, cuEventElapsedTime(&raw mut millis => *mut f32, start => usize, end => usize)), 600);
    assert_eq!(cu!(cuda, cuEventSynchronize(end => usize)), 0);
    assert_eq!(cu!(cuda, cuEventElapsedTime(&raw mut millis => *mut f32, start => usize, end => usize)), 0);
    assert_eq!(millis, 30.0);
}

#[test]
fn a_function_of_another_name_has_a_length_too() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let other = cuda.function(c"other");
    assert_eq!(cuda.launch(other, 30_000_000), 0);
    assert_eq!(cu!(cuda, cuCtxSynchronize()), 0);
    assert_eq!(node.gpus().busy_nanos(&node.uuid(0)).unwrap(), 10_000);
}

#[test]
fn a_primary_context_is_shared_counted_and_reset() {
    let node = Node::new("T4");
    let cuda = Cuda::load(&node);
    assert_eq!(cu!(cuda, cuInit(0 => u32)), 0);
    let (mut one, mut two, mut flags, mut active) = (0usize, 0usize, 0u32, 0);
    for context in [&raw mut one, &raw mut two] {
        assert_eq!(cu!(cuda, cuDevicePrimaryCtxRetain(context => *mut usize, 0 => i32)), 0);
    }
    assert_eq!(one, two);
    assert_eq!(cu!(cuda, cuCtxSetCurrent(one => usize)), 0);
    cuda.alloc(MIB as usize);
    assert_eq!(cu!(cuda, cuDevicePrimaryCtxReset_v2(0 => i32)), 0);
    assert_eq!(
        cu!(cuda, cuDevicePrimaryCtxGetState(0 => i32, &raw mut flags => *mut u32, &raw mut active => *mut i32)),
        0
    );
    assert_eq!((active, node.gpus().status_of(0).used), (0, 0));
    assert_eq!(cu!(cuda, cuDevicePrimaryCtxRetain(&raw mut two => *mut usize, 0 => i32)), 0);
    assert_eq!((one == two, cuda.free_bytes()), (true, T4));
    for _ in 0..3 {
        assert_eq!(cu!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32)), 0);
    }
    assert_eq!(cu!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32)), 201);
    assert_eq!(node.gpus().status_of(0).processes.len(), 0);
}

#[test]
fn every_symbol_the_lookup_gives_is_the_exported_one() {
    let node = Node::new("T4");
    let cuda = Cuda::load(&node);
    let cases: [(&CStr, i32, u64, &CStr); 6] = [
        (c"cuMemAlloc", 2000, 0, c"cuMemAlloc"),
        (c"cuMemAlloc", 12_000, 0, c"cuMemAlloc_v2"),
        (c"cuLaunchKernel", 12_000, 2, c"cuLaunchKernel_ptsz"),
        (c"cuMemcpyHtoD", 12_000, 2, c"cuMemcpyHtoD_v2_ptds"),
        (c"cuGetProcAddress", 11_030, 0, c"cuGetProcAddress"),
        (c"cuGetProcAddress", 12_000, 0, c"cuGetProcAddress_v2"),
    ];
    for (name, version, flags, exported) in cases {
        // SAFETY: an address is read, nothing is called.
        let want = *unsafe { cuda.0.get::<*const c_void>(exported.to_bytes_with_nul()) }.unwrap();
        let (mut old, mut new, mut status) = (std::ptr::null(), std::ptr::null(), 9);
        assert_eq!(
            cu!(cuda, cuGetProcAddress(name.as_ptr() => *const c_char, &raw mut old => *mut *const c_void, version => i32, flags => u64)),
            0
        );
        assert_eq!(
            cu!(cuda, cuGetProcAddress_v2(name.as_ptr() => *const c_char, &raw mut new => *mut *const c_void, version => i32, flags => u64, &raw mut status => *mut i32)),
            0
        );
        assert_eq!((old, new, status), (want, want, 0), "{name:?} {version} {flags}");
    }
    let (mut found, mut status) = (std::ptr::dangling(), 9);
    assert_eq!(
        cu!(cuda, cuGetProcAddress_v2(c"cuNothing".as_ptr() => *const c_char, &raw mut found => *mut *const c_void, 12_000 => i32, 0 => u64, &raw mut status => *mut i32)),
        500
    );
    assert_eq!((found, status), (std::ptr::null(), 1));
    let mut table = std::ptr::null();
    let id = [0u8; 16];
    assert_eq!(
        cu!(cuda, cuGetExportTable(&raw mut table => *mut *const c_void, id.as_ptr().cast() => *const c_void)),
        500
    );
}

#[test]
fn a_forked_child_has_no_driver() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    // SAFETY: the child makes one call, which looks at its process id and returns, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut count = 0;
        let code = cu!(cuda, cuDeviceGetCount(&raw mut count => *mut i32));
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: a child of this process and a pointer to a local.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 3);
    assert_eq!(cuda.free_bytes(), T4);
}
