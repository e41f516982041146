//! Graphs and their nodes. What runs is an executable made of one ([`exec`]).

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;

use crate::driver::{Driver, Objects, driver};
use crate::node::{AllocParams, HostParams, KERNEL_PARAMS_V1, KernelParams, Kind, NodeParams, SetParams};
use crate::{Code, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, SUCCESS, code, give, give_if_wanted};

pub(crate) mod exec;
pub(crate) mod memory;

/// Graphs, nodes and executables.
#[derive(Default)]
pub(crate) struct Graphs {
    /// Handle -> its nodes, in the order they came.
    graphs: HashMap<usize, Vec<usize>>,
    nodes: HashMap<usize, Node>,
    pub(crate) execs: HashMap<usize, exec::Exec>,
    pub(crate) memory: memory::GraphMemory,
}

#[derive(Clone)]
struct Node {
    graph: usize,
    before: Vec<usize>,
    kind: Kind,
}

impl Graphs {
    /// Whether a node is one of `ends` or comes before one of them.
    pub(crate) fn is_before(&self, node: usize, ends: &[usize]) -> bool {
        let (mut open, mut seen) = (ends.to_vec(), HashSet::new());
        while let Some(next) = open.pop() {
            if next == node {
                return true;
            }
            if seen.insert(next) {
                open.extend(self.nodes.get(&next).into_iter().flat_map(|n| &n.before));
            }
        }
        false
    }

    /// Nodes in an order in which each comes behind those it depends on.
    fn sorted(&self, graph: usize) -> Result<Vec<(usize, Kind)>, Code> {
        let mut rest = self.graphs.get(&graph).ok_or(INVALID_HANDLE)?.clone();
        let (mut done, mut sorted) = (HashSet::new(), Vec::new());
        while !rest.is_empty() {
            let is_free = |handle: &usize| {
                self.nodes.get(handle).is_none_or(|n| n.before.iter().all(|b| done.contains(b)))
            };
            let (free, waiting): (Vec<usize>, Vec<usize>) = rest.iter().partition(|handle| is_free(handle));
            if free.is_empty() {
                // A circle.
                return Err(INVALID_VALUE);
            }
            for handle in free {
                done.insert(handle);
                match self.nodes.get(&handle).map(|n| n.kind.clone()) {
                    Some(Kind::Child(child)) => sorted.extend(self.sorted(child)?),
                    Some(kind) => sorted.push((handle, kind)),
                    None => {}
                }
            }
            rest = waiting;
        }
        Ok(sorted)
    }
}

/// A graph without nodes.
pub(crate) fn create(objects: &mut Objects) -> usize {
    let graph = objects.handle();
    objects.graphs.graphs.insert(graph, Vec::new());
    graph
}

/// Ends a graph; false if there is none.
pub(crate) fn destroy(objects: &mut Objects, graph: usize) -> bool {
    objects.graphs.nodes.retain(|_, node| node.graph != graph);
    objects.graphs.graphs.remove(&graph).is_some()
}

/// Adds a node behind others of the same graph.
pub(crate) fn add(objects: &mut Objects, graph: usize, before: &[usize], kind: Kind) -> Result<usize, Code> {
    let is_here = |node: &usize| objects.graphs.nodes.get(node).is_some_and(|n| n.graph == graph);
    let is_itself = matches!(kind, Kind::Child(child) if child == graph);
    if is_itself || !objects.graphs.graphs.contains_key(&graph) || !before.iter().all(is_here) {
        return Err(INVALID_VALUE);
    }
    let node = objects.handle();
    objects.graphs.nodes.insert(node, Node { graph, before: before.to_vec(), kind });
    if let Some(nodes) = objects.graphs.graphs.get_mut(&graph) {
        nodes.push(node);
    }
    Ok(node)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: *mut usize, flags: u32) -> Code {
    if flags != 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's pointer.
    unsafe { give(graph, || Ok(create(&mut driver()?.objects()))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: usize) -> Code {
    code(driver().and_then(|d| destroy(&mut d.objects(), graph).then_some(()).ok_or(INVALID_VALUE)))
}

/// Nodes that depend on each other keep doing so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphClone(clone: *mut usize, graph: usize) -> Code {
    let copy = || {
        let driver = driver()?;
        let mut objects = driver.objects();
        let nodes = objects.graphs.graphs.get(&graph).ok_or(INVALID_VALUE)?.clone();
        let (made, mut names) = (create(&mut objects), HashMap::new());
        for node in nodes {
            let Some(Node { before, kind, .. }) = objects.graphs.nodes.get(&node).cloned() else { continue };
            if matches!(kind, Kind::Alloc { .. } | Kind::Free(_)) {
                // Memory belongs to one graph.
                return Err(NOT_SUPPORTED);
            }
            let before: Vec<usize> = before.iter().filter_map(|b| names.get(b).copied()).collect();
            names.insert(node, add(&mut objects, made, &before, kind)?);
        }
        Ok(made)
    };
    // SAFETY: the caller's pointer.
    unsafe { give(clone, copy) }
}

/// Without a list, how many there are; else as many as there is room for, then null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize) -> Code {
    if count.is_null() {
        return INVALID_VALUE;
    }
    let found = driver().and_then(|d| d.objects().graphs.graphs.get(&graph).cloned().ok_or(INVALID_VALUE));
    let found = match found {
        Ok(found) => found,
        Err(code) => return code,
    };
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(found.len()) };
    if nodes.is_null() {
        return SUCCESS;
    }
    for at in 0..room {
        // SAFETY: the caller gives so many.
        unsafe { nodes.add(at).write(found.get(at).copied().unwrap_or(0)) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphNodeGetType(node: usize, kind: *mut i32) -> Code {
    let find = || driver()?.objects().graphs.nodes.get(&node).map(|n| n.kind.number()).ok_or(INVALID_VALUE);
    // SAFETY: the caller's pointer.
    unsafe { give(kind, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroyNode(node: usize) -> Code {
    let end = |driver: &Driver| {
        let mut objects = driver.objects();
        let is_memory = |n: &Node| matches!(n.kind, Kind::Alloc { .. } | Kind::Free(_));
        if objects.graphs.nodes.get(&node).ok_or(INVALID_VALUE).map(is_memory)? {
            return Err(NOT_SUPPORTED);
        }
        objects.graphs.nodes.remove(&node);
        objects.graphs.nodes.values_mut().for_each(|n| n.before.retain(|b| *b != node));
        objects.graphs.graphs.values_mut().for_each(|nodes| nodes.retain(|n| *n != node));
        Ok(())
    };
    code(driver().and_then(end))
}

/// Where a new node goes: the pointer to write it to, the graph, and the nodes before it.
struct Place(*mut usize, usize, *const usize, usize);

impl Place {
    /// # Safety
    /// The pointers are null or valid, the list for so many nodes.
    unsafe fn put(&self, make: impl FnOnce(&Driver) -> Result<Kind, Code>) -> Code {
        let Self(node, graph, before, count) = *self;
        if before.is_null() && count > 0 {
            return INVALID_VALUE;
        }
        // SAFETY: the caller gives so many; none if the list is null.
        let before = if count == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(before, count) } };
        let make = || {
            let driver = driver()?;
            let kind = make(driver)?;
            add(&mut driver.objects(), graph, before, kind)
        };
        // SAFETY: the caller's pointer.
        unsafe { give(node, make) }
    }
}

/// Functions that add a node: how each makes it of its parameters.
macro_rules! adds {
    ($($name:ident($($argument:ident: $type:ty),*) $driver:ident => $kind:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            node: *mut usize, graph: usize, before: *const usize, count: usize, $($argument: $type),*
        ) -> Code {
            // SAFETY: the caller's pointers.
            unsafe { Place(node, graph, before, count).put(|$driver| $kind) }
        }
    )*};
}

adds! {
    cuGraphAddEmptyNode() _driver => Ok(Kind::Empty);
    cuGraphAddKernelNode(params: *const c_void) driver => KernelParams::read(params, KERNEL_PARAMS_V1)?.kind(driver);
    cuGraphAddKernelNode_v2(params: *const c_void) driver =>
        KernelParams::read(params, size_of::<KernelParams>())?.kind(driver);
    cuGraphAddMemsetNode(params: *const SetParams, _context: usize) _driver =>
        params.as_ref().ok_or(INVALID_VALUE)?.kind();
    cuGraphAddMemcpyNode(params: *const crate::copy::Copy3d, _context: usize) _driver =>
        params.as_ref().ok_or(INVALID_VALUE)?.copy().map(Kind::Copy);
    cuGraphAddHostNode(params: *const HostParams) _driver => {
        let HostParams { function, data } = *params.as_ref().ok_or(INVALID_VALUE)?;
        if function == 0 { Err(INVALID_VALUE) } else { Ok(Kind::Host { function, data }) }
    };
    cuGraphAddChildGraphNode(child: usize) driver => {
        let objects = driver.objects();
        let is_known = objects.graphs.graphs.contains_key(&child);
        is_known.then_some(Kind::Child(child)).ok_or(INVALID_VALUE)
    };
    cuGraphAddEventRecordNode(event: usize) driver => event_kind(driver, event).map(Kind::Record);
    cuGraphAddEventWaitNode(event: usize) driver => event_kind(driver, event).map(|_| Kind::Wait);
    cuGraphAddMemAllocNode(params: *mut AllocParams) driver => {
        memory::alloc_kind(driver, params.as_mut().ok_or(INVALID_VALUE)?)
    };
    cuGraphAddMemFreeNode(address: u64) driver => {
        driver.objects().graphs.is_memory(address).then_some(Kind::Free(address)).ok_or(INVALID_VALUE)
    };
}

fn event_kind(driver: &Driver, event: usize) -> Result<usize, Code> {
    driver.objects().events.contains_key(&event).then_some(event).ok_or(INVALID_HANDLE)
}

impl Graphs {
    /// Whether an address is of an allocation node.
    fn is_memory(&self, address: u64) -> bool {
        self.nodes.values().any(|n| matches!(n.kind, Kind::Alloc { address: a, .. } if a == address))
    }
}

/// A node of any type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode(
    node: *mut usize,
    graph: usize,
    before: *const usize,
    count: usize,
    params: *mut NodeParams,
) -> Code {
    // SAFETY: the caller's pointer.
    let Some(params) = (unsafe { params.as_mut() }) else { return INVALID_VALUE };
    let (kind, first) = (params.kind, params.params[0]);
    let at = params.params.as_mut_ptr();
    // SAFETY: the caller's pointers; the parameters are of the type they say they are and fit into the structure.
    unsafe {
        match kind {
            0 => cuGraphAddKernelNode_v2(node, graph, before, count, at.cast()),
            // Flags and a reserved word stand before the copy.
            1 => cuGraphAddMemcpyNode(node, graph, before, count, at.add(1).cast(), 0),
            2 => cuGraphAddMemsetNode(node, graph, before, count, at.cast(), 0),
            3 => cuGraphAddHostNode(node, graph, before, count, at.cast()),
            4 => cuGraphAddChildGraphNode(node, graph, before, count, first as usize),
            5 => cuGraphAddEmptyNode(node, graph, before, count),
            6 => cuGraphAddEventWaitNode(node, graph, before, count, first as usize),
            7 => cuGraphAddEventRecordNode(node, graph, before, count, first as usize),
            10 => cuGraphAddMemAllocNode(node, graph, before, count, at.cast()),
            11 => cuGraphAddMemFreeNode(node, graph, before, count, first),
            _ => NOT_SUPPORTED,
        }
    }
}

/// With data of the edges, which says nothing here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddNode_v2(
    node: *mut usize,
    graph: usize,
    before: *const usize,
    _edges: *const c_void,
    count: usize,
    params: *mut NodeParams,
) -> Code {
    // SAFETY: the caller's pointers, passed on.
    unsafe { cuGraphAddNode(node, graph, before, count, params) }
}

/// # Safety
/// `params` is null or valid for so many bytes.
unsafe fn set_kernel(node: usize, params: *const c_void, bytes: usize) -> Result<(), Code> {
    let driver = driver()?;
    // SAFETY: the caller's pointer, and the parameters of its function.
    let kind = unsafe { KernelParams::read(params, bytes)?.kind(driver)? };
    let mut objects = driver.objects();
    match objects.graphs.nodes.get_mut(&node) {
        Some(Node { kind: old @ Kind::Kernel(_), .. }) => {
            *old = kind;
            Ok(())
        }
        _ => Err(INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetParams(node: usize, params: *const c_void) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { set_kernel(node, params, KERNEL_PARAMS_V1) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetParams_v2(node: usize, params: *const c_void) -> Code {
    // SAFETY: the caller's pointer.
    code(unsafe { set_kernel(node, params, size_of::<KernelParams>()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemFreeNodeGetParams(node: usize, address: *mut u64) -> Code {
    let find = || match driver()?.objects().graphs.nodes.get(&node).map(|n| &n.kind) {
        Some(Kind::Free(address)) => Ok(*address),
        _ => Err(INVALID_VALUE),
    };
    // SAFETY: the caller's pointer.
    unsafe { give(address, find) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphMemAllocNodeGetParams(node: usize, params: *mut AllocParams) -> Code {
    // SAFETY: the caller's pointer.
    let Some(params) = (unsafe { params.as_mut() }) else { return INVALID_VALUE };
    let found = driver().and_then(|d| match d.objects().graphs.nodes.get(&node).map(|n| &n.kind) {
        Some(Kind::Alloc { bytes, address, .. }) => Ok((*bytes, *address)),
        _ => Err(INVALID_VALUE),
    });
    let set = |(bytes, address): (u64, u64)| (params.bytes, params.address) = (bytes as usize, address);
    code(found.map(set))
}

/// Edges of a graph: without lists, how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetEdges(
    graph: usize,
    from: *mut usize,
    to: *mut usize,
    count: *mut usize,
) -> Code {
    if count.is_null() {
        return INVALID_VALUE;
    }
    let edges = driver().and_then(|driver| {
        let objects = driver.objects();
        let nodes = objects.graphs.graphs.get(&graph).ok_or(INVALID_VALUE)?;
        let of = |node: &usize| {
            objects.graphs.nodes.get(node).map(|n| n.before.iter().map(|b| (*b, *node)).collect())
        };
        Ok(nodes.iter().filter_map(of).collect::<Vec<Vec<(usize, usize)>>>().concat())
    });
    let edges = match edges {
        Ok(edges) => edges,
        Err(code) => return code,
    };
    // SAFETY: not null, so valid.
    let room = unsafe { count.replace(edges.len()) };
    for (at, (source, target)) in edges.into_iter().enumerate().take(room) {
        // SAFETY: the caller gives so many in each list that is not null.
        unsafe {
            give_if_wanted(if from.is_null() { from } else { from.add(at) }, source);
            give_if_wanted(if to.is_null() { to } else { to.add(at) }, target);
        }
    }
    SUCCESS
}
