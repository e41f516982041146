//! Graphs that allocate.

use std::ffi::{c_char, c_void};

use super::{given, twins};
use crate::abi::{ALLOC_NODE, AllocNode, NodeParameters};
use crate::launch::meant;
use crate::{Code, SUCCESS, capture, check, code, graph, real};

/// Tells of an allocation node that was added.
fn added(done: Code, owner: usize, node: Option<&AllocNode>) -> Code {
    if let (SUCCESS, Some(node)) = (done, node) {
        graph::added(owner, node.pool.location.device(), node.bytes as u64);
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddMemAllocNode(
    node: *mut usize,
    graph: usize,
    after: *const usize,
    count: usize,
    wanted: *mut AllocNode,
) -> Code {
    // SAFETY: the caller's arguments, unchanged; its pointer, valid or null.
    unsafe { added(real::cuGraphAddMemAllocNode(node, graph, after, count, wanted), graph, wanted.as_ref()) }
}

/// # Safety
/// The caller's pointer, valid or null.
unsafe fn alloc_node<'a>(wanted: *const NodeParameters) -> Option<&'a AllocNode> {
    // SAFETY: as above; the union is read as an allocation only when it is one.
    unsafe { wanted.as_ref() }.filter(|w| w.kind == ALLOC_NODE).map(|w| &w.alloc)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode(
    node: *mut usize,
    graph: usize,
    after: *const usize,
    count: usize,
    wanted: *mut NodeParameters,
) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    unsafe { added(real::cuGraphAddNode(node, graph, after, count, wanted), graph, alloc_node(wanted)) }
}

macro_rules! add_hooks {
    ($($name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            node: *mut usize,
            graph: usize,
            after: *const usize,
            edges: *const c_void,
            count: usize,
            wanted: *mut NodeParameters,
        ) -> Code {
            // SAFETY: the caller's arguments, unchanged.
            unsafe { added(real::$name(node, graph, after, edges, count, wanted), graph, alloc_node(wanted)) }
        }
    )*};
}

add_hooks! {
    cuGraphAddNode_v2;
    cuGraphAddNode_v3;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphClone(clone: *mut usize, graph: usize) -> Code {
    // SAFETY: the caller's arguments, unchanged.
    match unsafe { given(real::cuGraphClone(clone, graph), clone) } {
        Ok(made) => {
            graph::cloned(graph, made);
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: usize) -> Code {
    graph::destroyed(graph);
    // SAFETY: the caller's argument, unchanged.
    unsafe { real::cuGraphDestroy(graph) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: usize) -> Code {
    graph::executable_destroyed(executable);
    // SAFETY: the caller's argument, unchanged.
    unsafe { real::cuGraphExecDestroy(executable) }
}

macro_rules! instantiate_hooks {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(made: *mut usize, graph: usize, $($argument: $type),*) -> Code {
            // SAFETY: the caller's arguments, unchanged.
            let call = || unsafe { given(real::$name(made, graph, $($argument),*), made) };
            code(graph::instantiate(graph, call))
        }
    )*};
}

instantiate_hooks! {
    cuGraphInstantiate(node: *mut usize, log: *mut c_char, room: usize);
    cuGraphInstantiate_v2(node: *mut usize, log: *mut c_char, room: usize);
    cuGraphInstantiateWithFlags(flags: u64);
    cuGraphInstantiateWithParams(parameters: *mut c_void);
    cuGraphInstantiateWithParams_ptsz(parameters: *mut c_void);
}

twins! {
    cuGraphUpload cuGraphUpload_ptsz(executable: usize, stream: usize) => |upload| {
        // SAFETY: the caller's arguments, unchanged.
        code(graph::run(executable, || unsafe { check(upload(executable, stream)) }))
    };
    cuStreamEndCapture cuStreamEndCapture_ptsz(stream: usize, graph: *mut usize) => |end| {
        // SAFETY: the caller's arguments, unchanged.
        let ended = unsafe { given(end(stream, graph), graph) };
        graph::capture_ended(stream, ended.unwrap_or(0));
        capture::end(meant(stream, DEFAULT));
        ended.err().unwrap_or(SUCCESS)
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGraphMemTrim(device: i32) -> Code {
    // SAFETY: the caller's argument, unchanged.
    let done = unsafe { real::cuDeviceGraphMemTrim(device) };
    if done == SUCCESS {
        graph::trimmed(device);
    }
    done
}
