//! Stream capture: what a stream is given becomes nodes of a graph instead of work.
//!
//! Other streams join by waiting for an event recorded in a captured one, and have to be joined again before the end.
//! While a capture is under way its own streams and events cannot be waited for or asked; and unless it is relaxed, calls
//! that may wait or allocate are refused to its thread, or to every thread if it is global. What breaks these rules
//! invalidates the capture.

use std::cell::Cell;
use std::collections::HashMap;
use std::thread::ThreadId;

use crate::driver::{ContextObject, Driver, Objects, driver};
use crate::stream::{LEGACY, key};
use crate::{
    Code, INVALID_VALUE, STREAM_CAPTURE_IMPLICIT, STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_ISOLATION,
    STREAM_CAPTURE_MERGE, STREAM_CAPTURE_UNJOINED, STREAM_CAPTURE_UNMATCHED, STREAM_CAPTURE_UNSUPPORTED,
    STREAM_CAPTURE_WRONG_THREAD, SUCCESS, code, give, give_if_wanted, per_thread,
};

/// `CUstreamCaptureMode`.
const GLOBAL: i32 = 0;
const RELAXED: i32 = 2;

/// `CUstreamCaptureStatus`.
const INACTIVE: i32 = 0;
const ACTIVE: i32 = 1;
const INVALIDATED: i32 = 2;

/// Captures under way.
#[derive(Default)]
pub(crate) struct Captures {
    next: u64,
    live: HashMap<u64, Capture>,
    /// Event -> the capture it was recorded in and the nodes it stands for.
    events: HashMap<usize, (u64, Vec<usize>)>,
}

struct Capture {
    /// Key of the stream it began in.
    origin: usize,
    mode: i32,
    thread: ThreadId,
    context: usize,
    graph: usize,
    is_valid: bool,
    /// Key of a stream -> nodes its next one depends on.
    streams: HashMap<usize, Vec<usize>>,
}

/// Where the work of a stream goes.
pub(crate) enum Target {
    Queue(ContextObject),
    Graph(u64),
}

thread_local! {
    /// Of this thread: what it must not call while others capture.
    static MODE: Cell<i32> = const { Cell::new(GLOBAL) };
}

impl Captures {
    fn of(&self, key: usize) -> Option<u64> {
        self.live.iter().find(|(_, capture)| capture.streams.contains_key(&key)).map(|(id, _)| *id)
    }

    /// Whether an event stands for nodes of a capture.
    pub(crate) fn has_event(&self, event: usize) -> bool {
        self.events.contains_key(&event)
    }

    /// An event is recorded anew, or gone.
    pub(crate) fn forget_event(&mut self, event: usize) {
        self.events.remove(&event);
    }

    /// A context is gone.
    pub(crate) fn forget_context(&mut self, context: usize) {
        self.live.retain(|_, capture| capture.context != context);
    }
}

/// Where the work of a stream goes; what is queued on the legacy stream would wait for blocking streams that capture.
pub(crate) fn target(driver: &Driver, stream: usize) -> Result<Target, Code> {
    let (handle, object) = driver.of_stream(stream)?;
    let mut objects = driver.objects();
    if objects.captures.live.is_empty() {
        return Ok(Target::Queue(object));
    }
    if let Some(id) = objects.captures.of(key(stream)) {
        let is_valid = objects.captures.live.get(&id).is_some_and(|c| c.is_valid);
        return if is_valid { Ok(Target::Graph(id)) } else { Err(STREAM_CAPTURE_INVALIDATED) };
    }
    if stream <= LEGACY {
        let streams = &objects.streams;
        let is_blocking = |key: &usize| streams.get(key).is_none_or(|s| s.flags == 0);
        let is_met = |c: &Capture| c.context == handle && c.is_valid && c.streams.keys().any(is_blocking);
        let met: Vec<u64> =
            objects.captures.live.iter().filter(|(_, c)| is_met(c)).map(|(id, _)| *id).collect();
        if !met.is_empty() {
            invalidate(&mut objects, &met);
            return Err(STREAM_CAPTURE_IMPLICIT);
        }
    }
    Ok(Target::Queue(object))
}

fn invalidate(objects: &mut Objects, ids: &[u64]) {
    objects.captures.live.iter_mut().filter(|(id, _)| ids.contains(id)).for_each(|(_, c)| c.is_valid = false);
}

/// Refuses to wait for or ask a stream that captures.
pub(crate) fn refuse_stream(driver: &Driver, stream: usize) -> Result<(), Code> {
    let mut objects = driver.objects();
    match objects.captures.of(key(stream)) {
        Some(id) => {
            invalidate(&mut objects, &[id]);
            Err(STREAM_CAPTURE_UNSUPPORTED)
        }
        None => Ok(()),
    }
}

/// Refuses a call that may wait or allocate while captures forbid it to this thread.
pub(crate) fn refuse_unsafe(driver: &Driver) -> Result<(), Code> {
    let mut objects = driver.objects();
    if objects.captures.live.is_empty() || MODE.get() == RELAXED {
        return Ok(());
    }
    let (own, mode) = (std::thread::current().id(), MODE.get());
    let forbids = |c: &Capture| {
        let is_own = c.thread == own;
        c.is_valid && (is_own && c.mode != RELAXED || c.mode == GLOBAL && mode == GLOBAL)
    };
    let met: Vec<u64> = objects.captures.live.iter().filter(|(_, c)| forbids(c)).map(|(id, _)| *id).collect();
    invalidate(&mut objects, &met);
    if met.is_empty() { Ok(()) } else { Err(STREAM_CAPTURE_UNSUPPORTED) }
}

/// Refuses a call that waits for everything of a context in which a capture is under way.
pub(crate) fn refuse_context(driver: &Driver, context: usize) -> Result<(), Code> {
    let mut objects = driver.objects();
    let captures = &objects.captures;
    let met = captures.live.iter().filter(|(_, c)| c.context == context && c.is_valid);
    let met: Vec<u64> = met.map(|(id, _)| *id).collect();
    invalidate(&mut objects, &met);
    drop(objects);
    if met.is_empty() { refuse_unsafe(driver) } else { Err(STREAM_CAPTURE_UNSUPPORTED) }
}

/// Adds a node behind what a stream has captured.
pub(crate) fn add(driver: &Driver, id: u64, stream: usize, kind: crate::node::Kind) -> Result<usize, Code> {
    let mut objects = driver.objects();
    let key = key(stream);
    let capture = objects.captures.live.get(&id).ok_or(STREAM_CAPTURE_INVALIDATED)?;
    let (graph, before) = (capture.graph, capture.streams.get(&key).cloned().unwrap_or_default());
    let node = crate::graph::add(&mut objects, graph, &before, kind)?;
    if let Some(capture) = objects.captures.live.get_mut(&id) {
        capture.streams.insert(key, vec![node]);
    }
    Ok(node)
}

/// Records an event in a captured stream: it stands for what the stream has captured so far.
pub(crate) fn record(driver: &Driver, id: u64, stream: usize, event: usize) {
    let mut objects = driver.objects();
    let nodes = objects.captures.live.get(&id).and_then(|c| c.streams.get(&key(stream))).cloned();
    objects.captures.events.insert(event, (id, nodes.unwrap_or_default()));
}

/// A stream waits for an event. True if that is a matter of captures.
pub(crate) fn wait(driver: &Driver, stream: usize, event: usize) -> Result<bool, Code> {
    let mut objects = driver.objects();
    let key = key(stream);
    let own = objects.captures.of(key);
    let Some((id, nodes)) = objects.captures.events.get(&event).cloned() else {
        if let Some(id) = own {
            // It would depend on what is not in the graph.
            invalidate(&mut objects, &[id]);
            return Err(STREAM_CAPTURE_ISOLATION);
        }
        return Ok(false);
    };
    let of_event = objects.captures.live.get_mut(&id);
    match (of_event, own) {
        (None, None) => Ok(false),
        (Some(capture), None) if capture.is_valid => {
            capture.streams.insert(key, nodes);
            Ok(true)
        }
        (Some(capture), Some(own)) if own == id && capture.is_valid => {
            let before = capture.streams.entry(key).or_default();
            before.extend(nodes);
            before.sort_unstable();
            before.dedup();
            Ok(true)
        }
        (Some(capture), _) if !capture.is_valid => Err(STREAM_CAPTURE_INVALIDATED),
        (_, own) => {
            invalidate(&mut objects, &[id, own.unwrap_or(id)]);
            Err(STREAM_CAPTURE_MERGE)
        }
    }
}

fn begin(stream: usize, mode: i32) -> Result<(), Code> {
    let driver = driver()?;
    let (context, _) = driver.of_stream(stream)?;
    if !(GLOBAL..=RELAXED).contains(&mode) {
        return Err(INVALID_VALUE);
    }
    if stream <= LEGACY {
        return Err(STREAM_CAPTURE_UNSUPPORTED);
    }
    let key = key(stream);
    let mut objects = driver.objects();
    if objects.captures.of(key).is_some() {
        return Err(crate::ILLEGAL_STATE);
    }
    let graph = crate::graph::create(&mut objects);
    objects.captures.next += 1;
    let (id, thread) = (objects.captures.next, std::thread::current().id());
    let streams = HashMap::from([(key, Vec::new())]);
    let capture = Capture { origin: key, mode, thread, context, graph, is_valid: true, streams };
    objects.captures.live.insert(id, capture);
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: i32) -> Code {
    code(begin(stream, mode))
}

/// The first version is global.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture(stream: usize) -> Code {
    code(begin(stream, GLOBAL))
}

fn end(stream: usize) -> Result<usize, Code> {
    let driver = driver()?;
    driver.of_stream(stream)?;
    let key = key(stream);
    let mut objects = driver.objects();
    let id = objects.captures.of(key).ok_or(crate::ILLEGAL_STATE)?;
    let capture = objects.captures.live.get(&id).ok_or(crate::ILLEGAL_STATE)?;
    if capture.origin != key {
        invalidate(&mut objects, &[id]);
        return Err(STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
        return Err(STREAM_CAPTURE_WRONG_THREAD);
    }
    let Some(capture) = objects.captures.live.remove(&id) else { return Err(crate::ILLEGAL_STATE) };
    objects.captures.events.retain(|_, (of, _)| *of != id);
    let joined = capture.streams.get(&key).cloned().unwrap_or_default();
    let is_joined = |nodes: &Vec<usize>| nodes.iter().all(|n| objects.graphs.is_before(*n, &joined));
    let failure = match () {
        () if !capture.is_valid => STREAM_CAPTURE_INVALIDATED,
        () if !capture.streams.values().all(is_joined) => STREAM_CAPTURE_UNJOINED,
        () => return Ok(capture.graph),
    };
    crate::graph::destroy(&mut objects, capture.graph);
    Err(failure)
}

/// A graph, or null with the reason.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> Code {
    if graph.is_null() {
        return INVALID_VALUE;
    }
    let (found, why) = match end(stream) {
        Ok(found) => (found, SUCCESS),
        Err(why) => (0, why),
    };
    // SAFETY: the caller's pointer, not null.
    unsafe { graph.write(found) };
    why
}

fn status(stream: usize) -> Result<(i32, u64, usize, Vec<usize>), Code> {
    let driver = driver()?;
    driver.of_stream(stream)?;
    let objects = driver.objects();
    let found = objects.captures.of(key(stream)).and_then(|id| Some((id, objects.captures.live.get(&id)?)));
    Ok(match found {
        None => (INACTIVE, 0, 0, Vec::new()),
        Some((id, capture)) if !capture.is_valid => (INVALIDATED, id, 0, Vec::new()),
        Some((id, capture)) => {
            let before = capture.streams.get(&key(stream)).cloned().unwrap_or_default();
            (ACTIVE, id, capture.graph, before)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: usize, state: *mut i32) -> Code {
    // SAFETY: the caller's pointer.
    unsafe { give(state, || status(stream).map(|found| found.0)) }
}

/// The first version tells state and id.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo(stream: usize, state: *mut i32, id: *mut u64) -> Code {
    // SAFETY: the caller's pointers, passed on.
    unsafe {
        cuStreamGetCaptureInfo_v2(
            stream,
            state,
            id,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    }
}

thread_local! {
    /// The nodes the latest answer of this thread points to.
    static NODES: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// All but the state may be null. The list of nodes stays until the thread asks again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: usize,
    state: *mut i32,
    id: *mut u64,
    graph: *mut usize,
    nodes: *mut *const usize,
    count: *mut usize,
) -> Code {
    if state.is_null() {
        return INVALID_VALUE;
    }
    let (found, number, in_graph, before) = match status(stream) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let length = before.len();
    let list = NODES.try_with(|kept| {
        kept.replace(before);
        kept.borrow().as_ptr()
    });
    // SAFETY: the caller's pointers; the state's is not null.
    unsafe {
        state.write(found);
        give_if_wanted(id, number);
        give_if_wanted(graph, in_graph);
        give_if_wanted(nodes, list.unwrap_or(std::ptr::null()));
        give_if_wanted(count, length);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut i32) -> Code {
    if mode.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's pointer, not null.
    let wanted = unsafe { *mode };
    if !(GLOBAL..=RELAXED).contains(&wanted) {
        return INVALID_VALUE;
    }
    // SAFETY: as above.
    unsafe { mode.write(MODE.replace(wanted)) };
    SUCCESS
}

per_thread! {
    cuStreamBeginCapture_ptsz = cuStreamBeginCapture(; stream; );
    cuStreamBeginCapture_v2_ptsz = cuStreamBeginCapture_v2(; stream; mode: i32);
    cuStreamEndCapture_ptsz = cuStreamEndCapture(; stream; graph: *mut usize);
    cuStreamIsCapturing_ptsz = cuStreamIsCapturing(; stream; state: *mut i32);
    cuStreamGetCaptureInfo_ptsz = cuStreamGetCaptureInfo(; stream; state: *mut i32, id: *mut u64);
    cuStreamGetCaptureInfo_v2_ptsz = cuStreamGetCaptureInfo_v2(; stream; state: *mut i32, id: *mut u64,
        graph: *mut usize, nodes: *mut *const usize, count: *mut usize);
}
