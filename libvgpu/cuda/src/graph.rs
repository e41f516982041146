//! Memory of graphs: allocation nodes, added or captured. A GPU keeps it apart from its pools.
//!
//! Memory is taken when a graph is instantiated, uploaded or launched. The sum of its nodes is charged before the first
//! of each; afterwards the GPU's graph memory is charged what the driver says it has reserved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vgpu_core::pointers::Parts;

use crate::state::state;
use crate::{Code, SUCCESS, pool, real};

/// `CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT`.
const RESERVED: i32 = 2;

/// Bytes by device ordinal.
type Needs = HashMap<i32, u64>;

/// Whether graphs of this process have taken memory: programs without need not look for what has become of it.
static ANY: AtomicBool = AtomicBool::new(false);

/// What this process knows of graphs that allocate; all others are not here.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    /// CUgraph.
    graphs: HashMap<usize, Needs>,
    /// CUstream that is being captured.
    captured: HashMap<usize, Needs>,
    /// CUgraphExec, and whether its memory is reserved already.
    executable: HashMap<usize, (Needs, bool)>,
    /// Graph memory of each device.
    charged: HashMap<i32, Parts>,
}

fn graphs() -> MutexGuard<'static, Graphs> {
    state().graphs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State of graphs of this process.
pub(crate) type Shared = Mutex<Graphs>;

fn add(needs: &mut Needs, device: i32, bytes: u64) {
    let sum = needs.entry(device).or_default();
    *sum = sum.saturating_add(bytes);
}

/// An allocation node was added.
pub(crate) fn added(graph: usize, device: Option<i32>, bytes: u64) {
    if let Some(device) = device {
        add(graphs().graphs.entry(graph).or_default(), device, bytes);
    }
}

/// Whether an allocation on a stream becomes a node, because the stream is being captured.
pub(crate) fn is_captured(stream: usize, device: i32, bytes: u64) -> bool {
    let mut status = 0;
    // SAFETY: a pointer to a local.
    let asked = unsafe { real::stream_is_capturing(stream, &raw mut status) };
    let captured = asked == SUCCESS && status != 0;
    if captured {
        add(graphs().captured.entry(stream).or_default(), device, bytes);
    }
    captured
}

/// A capture ended in a graph (0: in none).
pub(crate) fn capture_ended(stream: usize, graph: usize) {
    let mut graphs = graphs();
    if let Some(needs) = graphs.captured.remove(&stream).filter(|_| graph != 0) {
        graphs.graphs.insert(graph, needs);
    }
}

/// A graph was copied.
pub(crate) fn cloned(from: usize, to: usize) {
    let mut graphs = graphs();
    if let Some(needs) = graphs.graphs.get(&from).cloned() {
        graphs.graphs.insert(to, needs);
    }
}

/// A graph is gone.
pub(crate) fn destroyed(graph: usize) {
    graphs().graphs.remove(&graph);
}

/// An executable graph is gone.
pub(crate) fn executable_destroyed(executable: usize) {
    graphs().executable.remove(&executable);
}

/// Instantiates a graph.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` if its memory does not fit, else the driver's.
pub(crate) fn instantiate(graph: usize, call: impl FnOnce() -> Result<usize, Code>) -> Result<(), Code> {
    let Some(needs) = graphs().graphs.get(&graph).cloned() else { return call().map(drop) };
    let executable = with_memory(&needs, call)?;
    graphs().executable.insert(executable, (needs, false));
    Ok(())
}

/// Uploads or launches an executable graph.
///
/// # Errors
/// As [`instantiate`].
pub(crate) fn run(executable: usize, call: impl FnOnce() -> Result<(), Code>) -> Result<(), Code> {
    let known = graphs().executable.get(&executable).cloned();
    match known {
        None => call(),
        Some((needs, true)) => with_memory(&needs.into_keys().map(|d| (d, 0)).collect(), call),
        Some((needs, false)) => {
            with_memory(&needs, call)?;
            if let Some(known) = graphs().executable.get_mut(&executable) {
                known.1 = true;
            }
            Ok(())
        }
    }
}

fn with_memory<T>(needs: &Needs, call: impl FnOnce() -> Result<T, Code>) -> Result<T, Code> {
    let state = state();
    let mut charges = Vec::with_capacity(needs.len());
    for (ordinal, bytes) in needs {
        let device = state.device(*ordinal)?;
        if !device.shares.is_empty() {
            charges.push((*ordinal, device, device.charge(*ordinal, *bytes)?));
        }
    }
    let made = call()?;
    ANY.store(true, Ordering::Relaxed);
    let mut graphs = graphs();
    for (ordinal, device, mut charge) in charges {
        if let Some(reserved) = reserved(ordinal) {
            pool::bring(device, graphs.charged.entry(ordinal).or_default(), reserved, Some(&mut charge));
        }
    }
    Ok(made)
}

fn reserved(ordinal: i32) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: the attribute has 64 bits; a pointer to a local.
    let asked = unsafe { real::graph_memory(ordinal, RESERVED, (&raw mut value).cast()) };
    (asked == SUCCESS).then_some(value)
}

/// Brings the charge of a GPU's graph memory to what it has reserved now.
#[inline]
pub(crate) fn settle(ordinal: i32) {
    if ANY.load(Ordering::Relaxed) {
        settle_any(ordinal);
    }
}

#[cold]
fn settle_any(ordinal: i32) {
    let mut graphs = graphs();
    let Some(charged) = graphs.charged.get_mut(&ordinal) else { return };
    if let (Some(reserved), Ok(device)) = (reserved(ordinal), state().device(ordinal)) {
        pool::bring(device, charged, reserved, None);
    }
}

/// Gives unused graph memory back to the GPU.
pub(crate) fn trim(ordinal: i32) {
    if !graphs().charged.contains_key(&ordinal) {
        return;
    }
    // SAFETY: a device ordinal. Failing leaves it as it was.
    unsafe { real::cuDeviceGraphMemTrim(ordinal) };
    trimmed(ordinal);
}

/// Graph memory was trimmed: graphs that are not running have to take theirs again.
pub(crate) fn trimmed(ordinal: i32) {
    graphs().executable.values_mut().for_each(|known| known.1 = false);
    settle(ordinal);
}
