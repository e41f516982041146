//! Executables: a graph's nodes in an order, run at once by a launch.
//!
//! A launch takes one place in the context's queue, as long as the kernels and memsets of its nodes together, and one
//! before it for the copies. Contents change when it is launched.

use std::ffi::{c_char, c_void};

use crate::capture::{Target, target};
use crate::driver::{Driver, driver};
use crate::node::{KERNEL_PARAMS_V1, KernelParams, Kind};
use crate::{
    Code, GRAPH_EXEC_UPDATE_FAILURE, INVALID_HANDLE, INVALID_VALUE, SUCCESS, code, give, give_if_wanted,
    of_gpu, per_thread,
};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH` and `_UPLOAD`.
const AUTO_FREE: u64 = 1;
const UPLOAD: u64 = 2;
/// All flags.
const FLAGS: u64 = 15;

/// A graph that can run.
#[derive(Clone)]
pub(crate) struct Exec {
    pub(crate) nodes: Vec<(usize, Kind)>,
    flags: u64,
}

fn instantiate(graph: usize, flags: u64) -> Result<usize, Code> {
    let driver = driver()?;
    let (_, object) = driver.current()?;
    if flags & !FLAGS != 0 {
        return Err(INVALID_VALUE);
    }
    let mut objects = driver.objects();
    let nodes = objects.graphs.sorted(graph)?;
    let handle = objects.handle();
    let exec = Exec { nodes, flags };
    if flags & UPLOAD != 0 {
        objects.graphs.memory.reserve(&driver.process, handle, &exec.nodes, object.context.gpu())?;
    }
    objects.graphs.execs.insert(handle, exec);
    Ok(handle)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, flags: u64) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(exec, || instantiate(graph, flags)) }
}

/// The first versions tell the node that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiate_v2(
    exec: *mut usize,
    graph: usize,
    node: *mut usize,
    _log: *mut c_char,
    _room: usize,
) -> Code {
    // SAFETY: the caller's pointers.
    unsafe {
        give_if_wanted(node, 0);
        cuGraphInstantiateWithFlags(exec, graph, 0)
    }
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Debug)]
pub struct InstantiateParams {
    flags: u64,
    upload: usize,
    node: usize,
    result: i32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithParams(
    exec: *mut usize,
    graph: usize,
    params: *mut InstantiateParams,
) -> Code {
    // SAFETY: the caller's pointer.
    let Some(params) = (unsafe { params.as_mut() }) else { return INVALID_VALUE };
    // SAFETY: the caller's pointer.
    let made = unsafe { give(exec, || instantiate(graph, params.flags)) };
    // `CUDA_GRAPH_INSTANTIATE_SUCCESS` and `_ERROR`.
    (params.node, params.result) = (0, i32::from(made != SUCCESS));
    made
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecGetFlags(exec: usize, flags: *mut u64) -> Code {
    let find = || driver()?.objects().graphs.execs.get(&exec).map(|e| e.flags).ok_or(INVALID_VALUE);
    // SAFETY: the caller's pointer.
    unsafe { give(flags, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: usize) -> Code {
    let end = |driver: &Driver| {
        let mut objects = driver.objects();
        objects.graphs.memory.forget(exec);
        objects.graphs.execs.remove(&exec).map(drop).ok_or(INVALID_VALUE)
    };
    code(driver().and_then(end))
}

/// Takes the memory its nodes need, so that the first launch does not have to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(exec: usize, stream: usize) -> Code {
    let upload = |driver: &Driver| {
        let (_, object) = driver.of_stream(stream)?;
        let mut objects = driver.objects();
        let nodes = objects.graphs.execs.get(&exec).ok_or(INVALID_VALUE)?.nodes.clone();
        objects.graphs.memory.reserve(&driver.process, exec, &nodes, object.context.gpu())
    };
    code(driver().and_then(upload))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: usize, stream: usize) -> Code {
    let run = |driver: &Driver| {
        let (_, object) = driver.of_stream(stream)?;
        let known = driver.objects().graphs.execs.get(&exec).cloned();
        let Exec { nodes, flags } = known.ok_or(INVALID_VALUE)?;
        if let Target::Graph(id) = target(driver, stream)? {
            return nodes
                .into_iter()
                .try_for_each(|(_, kind)| crate::capture::add(driver, id, stream, kind).map(drop));
        }
        let gpu = object.context.gpu();
        let is_freeing = flags & AUTO_FREE != 0;
        driver.objects().graphs.memory.launch(&driver.process, exec, &nodes, gpu, is_freeing)?;
        let process = &driver.process;
        let copied: u64 =
            nodes.iter().map(|(_, kind)| if let Kind::Copy(copy) = kind { copy.bytes() } else { 0 }).sum();
        let length = |kind: &Kind| match kind {
            Kind::Kernel(nanos) => *nanos,
            Kind::Set(set) => process.length_of(gpu, set.bytes(), false),
            _ => 0,
        };
        let nanos = nodes.iter().map(|(_, kind)| length(kind)).fold(0, u64::saturating_add);
        for (_, kind) in &nodes {
            match kind {
                Kind::Set(set) => set.apply(driver)?,
                // SAFETY: what a node copies lives as long as the node, by its contract.
                Kind::Copy(copy) => unsafe { copy.apply(driver)? },
                _ => {}
            }
        }
        if copied > 0 {
            process.queue_copy(object.context, copied).map_err(|e| of_gpu(&e))?;
        }
        process.launch(object.context, nanos).map_err(|e| of_gpu(&e))?;
        for (_, kind) in nodes {
            match kind {
                Kind::Record(event) => {
                    let known = driver.objects().events.get(&event).copied().ok_or(INVALID_HANDLE)?;
                    crate::event::put(driver, event, known)?;
                }
                // SAFETY: the node's function and data are a host function's.
                Kind::Host { function, data } => unsafe {
                    crate::launch::call_host(driver, object.context, function, data);
                },
                _ => {}
            }
        }
        Ok(())
    };
    code(driver().and_then(run))
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Debug)]
pub struct UpdateResult {
    result: i32,
    node: usize,
    from: usize,
}

/// `CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED`, `_NODE_TYPE_CHANGED` and `_NOT_SUPPORTED`.
const TOPOLOGY: i32 = 2;
const TYPE: i32 = 3;
const UNSUPPORTED: i32 = 7;

fn update(exec: usize, graph: usize) -> Result<Result<(), (i32, usize)>, Code> {
    let driver = driver()?;
    let mut objects = driver.objects();
    let new = objects.graphs.sorted(graph)?;
    let old = objects.graphs.execs.get_mut(&exec).ok_or(INVALID_VALUE)?;
    if old.nodes.len() != new.len() {
        return Ok(Err((TOPOLOGY, 0)));
    }
    for ((_, was), (node, is)) in old.nodes.iter().zip(&new) {
        if was.number() != is.number() {
            return Ok(Err((TYPE, *node)));
        }
        if matches!(is, Kind::Alloc { .. } | Kind::Free(_)) {
            return Ok(Err((UNSUPPORTED, *node)));
        }
    }
    // Nodes keep their handles: changes of single nodes go by those of the first graph.
    old.nodes.iter_mut().zip(new).for_each(|((_, kind), (_, new))| *kind = new);
    Ok(Ok(()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate_v2(exec: usize, graph: usize, result: *mut UpdateResult) -> Code {
    let (found, code) = match update(exec, graph) {
        Ok(Ok(())) => (UpdateResult { result: 0, node: 0, from: 0 }, SUCCESS),
        Ok(Err((result, node))) => (UpdateResult { result, node, from: 0 }, GRAPH_EXEC_UPDATE_FAILURE),
        Err(code) => return code,
    };
    // SAFETY: the caller's pointer.
    unsafe { give_if_wanted(result, found) };
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecUpdate(
    exec: usize,
    graph: usize,
    node: *mut usize,
    result: *mut i32,
) -> Code {
    let mut info = UpdateResult { result: 0, node: 0, from: 0 };
    // SAFETY: a pointer to a local, then the caller's pointers.
    unsafe {
        let code = cuGraphExecUpdate_v2(exec, graph, &raw mut info);
        give_if_wanted(node, info.node);
        give_if_wanted(result, info.result);
        code
    }
}

/// # Safety
/// `params` is null or valid for so many bytes.
unsafe fn set_kernel(exec: usize, node: usize, params: *const c_void, bytes: usize) -> Result<(), Code> {
    let driver = driver()?;
    // SAFETY: the caller's pointer, and the parameters of its function.
    let new = unsafe { KernelParams::read(params, bytes)?.kind(driver)? };
    let mut objects = driver.objects();
    let nodes = &mut objects.graphs.execs.get_mut(&exec).ok_or(INVALID_VALUE)?.nodes;
    match nodes.iter_mut().find(|(handle, _)| *handle == node) {
        Some((_, kind @ Kind::Kernel(_))) => {
            *kind = new;
            Ok(())
        }
        _ => Err(INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams(
    exec: usize,
    node: usize,
    params: *const c_void,
) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { set_kernel(exec, node, params, KERNEL_PARAMS_V1) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    exec: usize,
    node: usize,
    params: *const c_void,
) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { set_kernel(exec, node, params, size_of::<KernelParams>()) })
}

crate::twins! {
    cuGraphInstantiate = cuGraphInstantiate_v2(exec: *mut usize, graph: usize, node: *mut usize, log: *mut c_char, room: usize);
    cuGraphInstantiateWithParams_ptsz = cuGraphInstantiateWithParams(exec: *mut usize, graph: usize, params: *mut InstantiateParams);
}

per_thread! {
    cuGraphUpload_ptsz = cuGraphUpload(exec: usize; stream; );
    cuGraphLaunch_ptsz = cuGraphLaunch(exec: usize; stream; );
}
