//! Graphs, their memory, and stream capture on the fake driver.

mod node;

use std::ffi::c_void;

use node::cuda::{Cuda, cu};
use node::{MIB, Node, T4};

const BLOCK: u64 = 2 << 20;

/// `CUDA_KERNEL_NODE_PARAMS` of one thread.
#[repr(C)]
struct KernelParams {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    parameters: *mut *mut c_void,
    extra: usize,
    kernel: usize,
    context: usize,
}

fn graph(cuda: &Cuda) -> usize {
    let mut graph = 0usize;
    assert_eq!(cu!(cuda, cuGraphCreate(&raw mut graph => *mut usize, 0 => u32)), 0);
    graph
}

fn add_kernel(cuda: &Cuda, graph: usize, before: &[usize], function: usize, mut nanos: u64) -> usize {
    let mut parameters = [(&raw mut nanos).cast::<c_void>()];
    let params = KernelParams {
        function,
        grid: [1; 3],
        block: [1; 3],
        shared: 0,
        parameters: parameters.as_mut_ptr(),
        extra: 0,
        kernel: 0,
        context: 0,
    };
    let mut node = 0usize;
    let code = cu!(cuda, cuGraphAddKernelNode_v2(
        &raw mut node => *mut usize, graph => usize, before.as_ptr() => *const usize, before.len() => usize, &raw const params => *const KernelParams));
    assert_eq!(code, 0);
    node
}

/// An allocation node on device 0: (node, address).
fn add_alloc(cuda: &Cuda, graph: usize, before: &[usize], bytes: u64) -> (usize, u64) {
    // `CUDA_MEM_ALLOC_NODE_PARAMS`: pinned memory of device 0.
    let mut params = [0u64; 15];
    (params[0], params[1], params[13]) = (1, 1, bytes);
    let mut node = 0usize;
    let code = cu!(cuda, cuGraphAddMemAllocNode(
        &raw mut node => *mut usize, graph => usize, before.as_ptr() => *const usize, before.len() => usize, params.as_mut_ptr() => *mut u64));
    assert_eq!(code, 0);
    (node, params[14])
}

fn instantiate(cuda: &Cuda, graph: usize, flags: u64) -> usize {
    let mut exec = 0usize;
    assert_eq!(
        cu!(cuda, cuGraphInstantiateWithFlags(&raw mut exec => *mut usize, graph => usize, flags => u64)),
        0
    );
    exec
}

fn run(cuda: &Cuda, exec: usize) -> i32 {
    cu!(cuda, cuGraphLaunch(exec => usize, 0 => usize))
}

fn busy(node: &Node) -> u64 {
    node.gpus().busy_nanos(&node.uuid(0)).unwrap()
}

fn memory(cuda: &Cuda) -> [u64; 4] {
    [0, 1, 2, 3].map(|attribute| {
        let mut value = 0u64;
        let to = (&raw mut value).cast::<c_void>();
        assert_eq!(cu!(cuda, cuDeviceGetGraphMemAttribute(0 => i32, attribute => i32, to => *mut c_void)), 0);
        value
    })
}

fn begin(cuda: &Cuda, stream: usize, mode: i32) -> i32 {
    cu!(cuda, cuStreamBeginCapture_v2(stream => usize, mode => i32))
}

fn end(cuda: &Cuda, stream: usize) -> (i32, usize) {
    let mut graph = 7usize;
    (cu!(cuda, cuStreamEndCapture(stream => usize, &raw mut graph => *mut usize)), graph)
}

fn state(cuda: &Cuda, stream: usize) -> i32 {
    let mut state = 9;
    assert_eq!(cu!(cuda, cuStreamIsCapturing(stream => usize, &raw mut state => *mut i32)), 0);
    state
}

#[test]
fn a_launch_takes_as_long_as_the_graphs_kernels_and_memsets() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (spin, target) = (cuda.function(c"spin"), cuda.alloc(3_000_000));
    let graph = graph(&cuda);
    let first = add_kernel(&cuda, graph, &[], spin, 40_000);
    add_kernel(&cuda, graph, &[first], spin, 2_000);
    // `CUDA_MEMSET_NODE_PARAMS`: 3,000,000 bytes at 300 GB/s.
    let params = [target, 0, 7 | 1 << 32, 3_000_000, 1];
    let mut set = 0usize;
    let code = cu!(cuda, cuGraphAddMemsetNode(
        &raw mut set => *mut usize, graph => usize, std::ptr::null() => *const usize, 0 => usize, params.as_ptr() => *const u64, 0 => usize));
    assert_eq!(code, 0);
    let exec = instantiate(&cuda, graph, 0);
    assert_eq!((run(&cuda, exec), run(&cuda, exec)), (0, 0));
    cuda.synchronize();
    assert_eq!(busy(&node), 2 * (42_000 + 10_000));
    let mut byte = [0u8];
    assert_eq!(
        cu!(cuda, cuMemcpyDtoH_v2(byte.as_mut_ptr() => *mut u8, target + 2_999_999 => u64, 1 => usize)),
        0
    );
    assert_eq!(byte, [7]);
    assert_eq!(cu!(cuda, cuGraphExecDestroy(exec => usize)), 0);
    assert_eq!((run(&cuda, exec), cu!(cuda, cuGraphDestroy(graph => usize))), (1, 0));
}

#[test]
fn an_executable_can_be_updated_by_a_graph_of_the_same_form() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let spin = cuda.function(c"spin");
    let (one, two, other) = (graph(&cuda), graph(&cuda), graph(&cuda));
    add_kernel(&cuda, one, &[], spin, 1_000);
    add_kernel(&cuda, two, &[], spin, 5_000);
    let exec = instantiate(&cuda, one, 0);
    let mut result = [0u64; 3];
    assert_eq!(
        cu!(cuda, cuGraphExecUpdate_v2(exec => usize, two => usize, result.as_mut_ptr() => *mut u64)),
        0
    );
    assert_eq!(
        cu!(cuda, cuGraphExecUpdate_v2(exec => usize, other => usize, result.as_mut_ptr() => *mut u64)),
        910
    );
    assert_eq!(run(&cuda, exec), 0);
    cuda.synchronize();
    assert_eq!((busy(&node), result[0] as u32), (5_000, 2));
}

#[test]
fn memory_of_a_graph_is_taken_by_its_first_launch_and_kept_until_it_is_trimmed() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let graph = graph(&cuda);
    let (alloc, address) = add_alloc(&cuda, graph, &[], 3 * MIB);
    let mut free = 0usize;
    let code = cu!(cuda, cuGraphAddMemFreeNode(
        &raw mut free => *mut usize, graph => usize, &raw const alloc => *const usize, 1 => usize, address => u64));
    assert_eq!(code, 0);
    let exec = instantiate(&cuda, graph, 0);
    assert_eq!(cuda.free_bytes(), T4);
    assert_eq!((run(&cuda, exec), run(&cuda, exec)), (0, 0));
    assert_eq!((cuda.free_bytes(), memory(&cuda)), (T4 - 2 * BLOCK, [0, 3 * MIB, 2 * BLOCK, 2 * BLOCK]));
    assert_eq!(cu!(cuda, cuDeviceGraphMemTrim(0 => i32)), 0);
    assert_eq!((cuda.free_bytes(), memory(&cuda)[2]), (T4, 0));
    // An upload takes it beforehand, so that the launch need not.
    assert_eq!(cu!(cuda, cuGraphUpload(exec => usize, 0 => usize)), 0);
    assert_eq!((cuda.free_bytes(), memory(&cuda)[0]), (T4 - 2 * BLOCK, 0));
    assert_eq!((run(&cuda, exec), cuda.free_bytes()), (0, T4 - 2 * BLOCK));
}

#[test]
fn what_a_graph_allocated_is_freed_by_the_program_or_at_the_next_launch() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let graph = graph(&cuda);
    let (_, address) = add_alloc(&cuda, graph, &[], BLOCK);
    let exec = instantiate(&cuda, graph, 0);
    assert_eq!((run(&cuda, exec), run(&cuda, exec)), (0, 1));
    assert_eq!(cu!(cuda, cuMemsetD8_v2(address => u64, 1 => u8, BLOCK as usize => usize)), 0);
    assert_eq!((cu!(cuda, cuMemFree_v2(address => u64)), run(&cuda, exec)), (0, 0));
    assert_eq!(cu!(cuda, cuMemFreeAsync(address => u64, 0 => usize)), 0);
    let freeing = instantiate(&cuda, graph, 1);
    assert_eq!((run(&cuda, freeing), run(&cuda, freeing), memory(&cuda)[0]), (0, 0, BLOCK));
    let huge = self::graph(&cuda);
    add_alloc(&cuda, huge, &[], 1 << 40);
    let exec = instantiate(&cuda, huge, 0);
    assert_eq!(run(&cuda, exec), 2);
}

#[test]
fn what_a_captured_stream_is_given_runs_with_the_graph() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (spin, stream, other) = (cuda.function(c"spin"), cuda.stream(), cuda.stream());
    let (fork, join) = (cuda.event(), cuda.event());
    assert_eq!((begin(&cuda, stream, 0), state(&cuda, stream), state(&cuda, other)), (0, 1, 0));
    assert_eq!(begin(&cuda, stream, 0), 401);
    assert_eq!(cuda.launch_on(stream, spin, 1_000), 0);
    assert_eq!(cu!(cuda, cuEventRecord(fork => usize, stream => usize)), 0);
    assert_eq!(cu!(cuda, cuStreamWaitEvent(other => usize, fork => usize, 0 => u32)), 0);
    assert_eq!((state(&cuda, other), cuda.launch_on(other, spin, 20_000)), (1, 0));
    assert_eq!(cu!(cuda, cuEventRecord(join => usize, other => usize)), 0);
    assert_eq!(cu!(cuda, cuStreamWaitEvent(stream => usize, join => usize, 0 => u32)), 0);
    let mut address = 0u64;
    assert_eq!(cu!(cuda, cuMemAllocAsync(&raw mut address => *mut u64, 512 => usize, stream => usize)), 0);
    assert_eq!(cu!(cuda, cuMemFreeAsync(address => u64, stream => usize)), 0);
    let (mut id, mut graph, mut count, mut list, mut now) = (0u64, 0usize, 0usize, std::ptr::null(), 0);
    let info = cu!(cuda, cuStreamGetCaptureInfo_v2(
        stream => usize, &raw mut now => *mut i32, &raw mut id => *mut u64, &raw mut graph => *mut usize,
        &raw mut list => *mut *const usize, &raw mut count => *mut usize));
    assert_eq!((info, now, id > 0, count), (0, 1, true, 1));
    let (code, made) = end(&cuda, stream);
    assert_eq!((code, made, state(&cuda, stream), state(&cuda, other)), (0, graph, 0, 0));
    assert_eq!((busy(&node), cuda.free_bytes()), (0, T4));
    let mut nodes = 0usize;
    assert_eq!(
        cu!(cuda, cuGraphGetNodes(graph => usize, std::ptr::null_mut() => *mut usize, &raw mut nodes => *mut usize)),
        0
    );
    let exec = instantiate(&cuda, graph, 0);
    assert_eq!((nodes, run(&cuda, exec)), (4, 0));
    cuda.synchronize();
    assert_eq!(busy(&node), 21_000);
}

#[test]
fn waiting_for_a_capture_invalidates_it() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (spin, stream, event) = (cuda.function(c"spin"), cuda.stream(), cuda.event());
    let breaking: [&dyn Fn() -> i32; 4] = [
        &|| cu!(cuda, cuStreamSynchronize(stream => usize)),
        &|| cu!(cuda, cuStreamQuery(stream => usize)),
        &|| cu!(cuda, cuCtxSynchronize()),
        &|| cu!(cuda, cuStreamDestroy_v2(stream => usize)),
    ];
    for wait in breaking {
        assert_eq!((begin(&cuda, stream, 2), wait()), (0, 900));
        assert_eq!((state(&cuda, stream), cuda.launch_on(stream, spin, 1)), (2, 901));
        assert_eq!(end(&cuda, stream), (901, 0));
    }
    // An event of a capture stands for no moment; asking does no harm.
    assert_eq!((begin(&cuda, stream, 2), cu!(cuda, cuEventRecord(event => usize, stream => usize))), (0, 0));
    assert_eq!(
        [cu!(cuda, cuEventQuery(event => usize)), cu!(cuda, cuEventSynchronize(event => usize))],
        [907; 2]
    );
    assert_eq!(end(&cuda, stream).0, 0);
}

#[test]
fn a_global_capture_forbids_calls_that_may_wait_to_every_thread_and_a_relaxed_one_to_none() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (stream, event) = (cuda.stream(), cuda.event());
    let mut context = 0usize;
    assert_eq!(cu!(cuda, cuCtxGetCurrent(&raw mut context => *mut usize)), 0);
    let elsewhere = |mode: i32| {
        std::thread::scope(|scope| {
            let ask = || {
                let mut mode = mode;
                assert_eq!(cu!(cuda, cuCtxSetCurrent(context => usize)), 0);
                assert_eq!(cu!(cuda, cuThreadExchangeStreamCaptureMode(&raw mut mode => *mut i32)), 0);
                cu!(cuda, cuEventQuery(event => usize))
            };
            scope.spawn(ask).join().unwrap()
        })
    };
    let alloc = || {
        let mut address = 0u64;
        let code = cu!(cuda, cuMemAlloc_v2(&raw mut address => *mut u64, 512 => usize));
        if code == 0 {
            assert_eq!(cu!(cuda, cuMemFree_v2(address => u64)), 0);
        }
        code
    };
    // (mode, allocation in the thread, query of another event in a strict and in a relaxed other thread, end)
    for (mode, own, strict, relaxed, ends) in [(0, 900, 0, 0, 901), (1, 900, 0, 0, 901), (2, 0, 0, 0, 0)] {
        assert_eq!(
            (begin(&cuda, stream, mode), alloc(), elsewhere(0), elsewhere(2)),
            (0, own, strict, relaxed)
        );
        assert_eq!(end(&cuda, stream).0, ends, "mode {mode}");
    }
    for (mode, strict, ends) in [(0, 900, 901), (1, 0, 0)] {
        assert_eq!((begin(&cuda, stream, mode), elsewhere(2), elsewhere(0)), (0, 0, strict));
        assert_eq!(end(&cuda, stream).0, ends, "mode {mode}");
    }
}

#[test]
fn captures_must_be_joined_isolated_and_ended_where_they_began() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let (spin, stream, other) = (cuda.function(c"spin"), cuda.stream(), cuda.stream());
    let (fork, outside) = (cuda.event(), cuda.event());
    // A fork that never joins again.
    assert_eq!((begin(&cuda, stream, 0), cuda.launch_on(stream, spin, 1)), (0, 0));
    assert_eq!(cu!(cuda, cuEventRecord(fork => usize, stream => usize)), 0);
    assert_eq!(cu!(cuda, cuStreamWaitEvent(other => usize, fork => usize, 0 => u32)), 0);
    assert_eq!((cuda.launch_on(other, spin, 1), end(&cuda, other)), (0, (903, 0)));
    assert_eq!(end(&cuda, stream), (901, 0));
    assert_eq!((begin(&cuda, stream, 0), cuda.launch_on(stream, spin, 1)), (0, 0));
    assert_eq!(cu!(cuda, cuEventRecord(fork => usize, stream => usize)), 0);
    assert_eq!(cu!(cuda, cuStreamWaitEvent(other => usize, fork => usize, 0 => u32)), 0);
    assert_eq!((cuda.launch_on(other, spin, 1), end(&cuda, stream)), (0, (904, 0)));
    // Work that is not in the graph.
    assert_eq!(cu!(cuda, cuEventRecord(outside => usize, other => usize)), 0);
    assert_eq!(begin(&cuda, stream, 0), 0);
    assert_eq!(cu!(cuda, cuStreamWaitEvent(stream => usize, outside => usize, 0 => u32)), 905);
    assert_eq!(end(&cuda, stream), (901, 0));
    // The end in another thread.
    assert_eq!(begin(&cuda, stream, 1), 0);
    let code = std::thread::scope(|scope| scope.spawn(|| end(&cuda, stream).0).join().unwrap());
    assert_eq!((code, end(&cuda, stream).0), (908, 0));
    // The legacy stream would wait for a blocking stream that captures.
    let mut blocking = 0usize;
    assert_eq!(cu!(cuda, cuStreamCreate(&raw mut blocking => *mut usize, 0 => u32)), 0);
    assert_eq!((begin(&cuda, blocking, 2), cuda.launch(spin, 1), end(&cuda, blocking)), (0, 906, (901, 0)));
    assert_eq!((begin(&cuda, stream, 2), cuda.launch(spin, 1), end(&cuda, stream).0), (0, 0, 0));
    assert_eq!((begin(&cuda, 0, 0), end(&cuda, stream).0), (900, 401));
}

#[test]
fn kernels_of_libraries_run_in_any_context_and_load_when_they_are_first_used() {
    let node = Node::described("gpus: [{model: T4, moduleMiB: 2}]");
    let cuda = Cuda::start(&node);
    let (mut library, mut kernel, mut function) = (0usize, 0usize, 0usize);
    let none = std::ptr::null_mut::<c_void>();
    let code = cu!(cuda, cuLibraryLoadData(
        &raw mut library => *mut usize, node::cuda::PTX.as_ptr().cast() => *const c_void, none => *mut c_void, none => *mut c_void,
        0 => u32, none => *mut c_void, none => *mut c_void, 0 => u32));
    assert_eq!(code, 0);
    assert_eq!(
        cu!(cuda, cuLibraryGetKernel(&raw mut kernel => *mut usize, library => usize, c"spin".as_ptr().cast() => *const u8)),
        0
    );
    assert_eq!(cuda.free_bytes(), T4);
    assert_eq!(cuda.launch(kernel, 3_000), 0);
    assert_eq!(cuda.free_bytes(), T4 - 2 * MIB);
    assert_eq!(cu!(cuda, cuKernelGetFunction(&raw mut function => *mut usize, kernel => usize)), 0);
    assert_eq!(cuda.launch(function, 4_000), 0);
    cuda.synchronize();
    assert_eq!((busy(&node), cu!(cuda, cuLibraryUnload(library => usize))), (7_000, 0));
    assert_eq!((cuda.free_bytes(), cuda.launch(kernel, 1), cuda.launch(function, 1)), (T4, 400, 400));
}

#[test]
fn launches_of_every_kind_take_their_time() {
    let node = Node::new("T4");
    let cuda = Cuda::start(&node);
    let spin = cuda.function(c"spin");
    let mut nanos = 1_000u64;
    let mut parameters = [(&raw mut nanos).cast::<c_void>()];
    let list = parameters.as_mut_ptr();
    let cooperative = |grid: u32| {
        cu!(cuda, cuLaunchCooperativeKernel(
            spin => usize, grid => u32, 1 => u32, 1 => u32, 1024 => u32, 1 => u32, 1 => u32, 0 => u32, 0 => usize, list => *mut *mut c_void))
    };
    // A T4 has 40 multiprocessors of 1,024 threads.
    assert_eq!((cooperative(40), cooperative(41)), (0, 720));
    let threaded = cu!(cuda, cuLaunchKernel_ptsz(
        spin => usize, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 0 => u32, 0 => usize,
        list => *mut *mut c_void, std::ptr::null_mut() => *mut *mut c_void));
    assert_eq!(threaded, 0);
    let mut config = [0u64; 7];
    (config[0], config[1], config[2]) = (1 | 1 << 32, 1 | 1 << 32, 1 | 1 << 32);
    let extended = cu!(cuda, cuLaunchKernelEx(
        config.as_ptr() => *const u64, spin => usize, list => *mut *mut c_void, std::ptr::null_mut() => *mut *mut c_void));
    assert_eq!(extended, 0);
    assert_eq!(cu!(cuda, cuFuncSetBlockShape(spin => usize, 32 => i32, 1 => i32, 1 => i32)), 0);
    assert_eq!(cu!(cuda, cuParamSeti(spin => usize, 0 => i32, 5_000 => u32)), 0);
    assert_eq!(cu!(cuda, cuParamSetSize(spin => usize, 8 => u32)), 0);
    assert_eq!(
        (cu!(cuda, cuLaunch(spin => usize)), cu!(cuda, cuLaunchGrid(spin => usize, 0 => i32, 1 => i32))),
        (0, 1)
    );
    cuda.synchronize();
    assert_eq!(busy(&node), 3_000 + 5_000);
}
