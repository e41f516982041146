//! The file, field by field. `repr(C)`, native byte order, no pointers; a change of any of it raises [`VERSION`].
//!
//! | part | count | what |
//! |---|---|---|
//! | [`Header`] | 1 | magic, version, number of GPUs, how time passes, Xids so far |
//! | [`GpuRecord`] | [`MAX_GPUS`] | identity, health, memory and timeline of a GPU |
//! | [`SlotRecord`] | [`MAX_PROCESSES`] | a process and what it holds of each GPU |
//! | [`ContextRecord`] | [`MAX_CONTEXTS`] | a CUDA context: where its queue stands |
//! | [`ThreadRecord`] | [`MAX_THREADS`] | a thread that virtual time waits for |
//! | [`ExportRecord`] | [`MAX_EXPORTS`] | memory that more than one process may hold |
//! | [`Queue`] | [`MAX_CONTEXTS`] | a ring of launches, copies and event records |
//! | [`Stamps`] | [`MAX_CONTEXTS`] | when each event of the context was reached |
//!
//! Queues and stamps are large and apart from the rest, so that bringing a GPU up to date touches few pages. The file is
//! sparse: what no context uses takes no room.
//!
//! Byte 0 is the lock everything is changed under. Byte `SLOT_LOCKS + n` is kept locked by the process of slot n, byte
//! `THREAD_LOCKS + n` by that of thread n. Times are nanoseconds of the file's clock: the machine's monotonic one, or its
//! own.

/// `fakegpu1`.
pub const MAGIC: u64 = 0x3175_7067_656b_6166;
/// Of this layout.
pub const VERSION: u32 = 3;
/// GPUs of a node.
pub const MAX_GPUS: usize = 16;
/// Processes that use GPUs of a node at once; a multiple of 64.
pub const MAX_PROCESSES: usize = 512;
/// CUDA contexts of a node; a multiple of 64.
pub const MAX_CONTEXTS: usize = 512;
/// Threads virtual time waits for.
pub const MAX_THREADS: usize = 512;
/// Pieces of memory that more than one process may hold.
pub const MAX_EXPORTS: usize = 1024;
/// Most launches a context can queue before the next one blocks; as on real hardware.
pub const QUEUE: usize = 1024;
/// Events of a context.
pub const EVENTS: usize = 4096;
/// Xids that are kept for programs that wait for them.
pub const XIDS: usize = 64;
/// Intervals of [`SAMPLE`] nanoseconds whose busy time is kept.
pub const SAMPLES: usize = 8;
/// NVML's shortest sampling period: a sixth of a second.
pub const SAMPLE: u64 = 1_000_000_000 / 6;
/// Lock bytes lie past the data, where nothing is stored.
pub const SLOT_LOCKS: i64 = 1 << 40;
/// As above, for threads.
pub const THREAD_LOCKS: i64 = 2 << 40;

/// [`TimingRecord::mode`]: the machine's clock.
pub const REAL: u32 = 0;
/// [`TimingRecord::mode`]: the file's clock, which moves when every attached thread waits.
pub const VIRTUAL: u32 = 1;
/// [`TimingRecord::mode`]: nothing takes time and nothing is accounted.
pub const NONE: u32 = 2;

/// Start of the file.
#[repr(C)]
#[derive(Debug)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// GPUs in use.
    pub gpus: u32,
    /// Slots from here on were never used.
    pub slots: u32,
    /// Threads from here on were never used.
    pub threads: u32,
    /// How time passes.
    pub timing: TimingRecord,
    /// Virtual time.
    pub clock: ClockRecord,
    /// Exports made so far; each has its number.
    pub exported: u64,
    /// Xids raised so far. Number n (from 0) lies at `n % XIDS`.
    pub raised: u64,
    /// The latest of them.
    pub xids: [XidRecord; XIDS],
}

/// How time passes; never changed after the file was made.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimingRecord {
    /// [`REAL`], [`VIRTUAL`] or [`NONE`].
    pub mode: u32,
    /// 1: kernels are stopped at the end of a slice and resumed; 0: they run to their end.
    pub preemptible: u32,
    /// 1: a context without work gives way at once; 0: it keeps the GPU until its slice ends.
    pub gives_way: u32,
    /// Items a context queues before the next one blocks, at most [`QUEUE`].
    pub queue: u32,
    /// Length of a slice.
    pub slice: u64,
    /// Cost of changing the context.
    pub switch: u64,
    /// In virtual time, what a launch costs its thread.
    pub launch: u64,
    /// In virtual time, what an event record costs its thread.
    pub record: u64,
    /// GPU time an event record takes.
    pub marker: u64,
    /// In virtual time, what any other call that looks at the GPU costs its thread.
    pub query: u64,
    /// In virtual time, how late a waiting thread goes on.
    pub wake: u64,
    /// Processes virtual time waits for before it begins.
    pub participants: u32,
    /// Unused.
    pub pad: u32,
}

/// Virtual time.
#[repr(C)]
#[derive(Debug)]
pub struct ClockRecord {
    /// Now.
    pub now: u64,
    /// The one thread that runs, plus one; 0 if none does.
    pub running: u32,
    /// Processes that came so far.
    pub joined: u32,
    /// Threads that came so far.
    pub attached: u64,
}

/// One Xid.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XidRecord {
    /// GPU it concerns.
    pub gpu: u32,
    /// Its number.
    pub xid: u32,
}

/// Busy time of one interval.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Time divided by [`SAMPLE`].
    pub number: u64,
    /// Busy nanoseconds in it.
    pub busy: u64,
}

/// Busy time of the latest intervals: number n lies at `n % SAMPLES`.
pub type Samples = [Sample; SAMPLES];

/// Who has the GPU, and what it has done so far.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// Up to when the timeline has been played.
    pub at: u64,
    /// End of the slice under way; 0 when a new one begins with the next work.
    pub slice_end: u64,
    /// What is left of the change of context under way.
    pub switch_left: u64,
    /// Nanoseconds kernels ran so far.
    pub busy: u64,
    /// Nanoseconds contexts were changed so far.
    pub switching: u64,
    /// The context that ran last, plus one; 0 if none did or it is gone.
    pub current: u32,
    /// Unused.
    pub pad: u32,
}

/// A step of the timeline that is being written: its new values. Whoever finds one that its writer did not live to
/// complete writes it again.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// 1 while the values below are being copied to their places.
    pub valid: u32,
    /// Context concerned, plus one; 0 for none.
    pub context: u32,
    /// Of the GPU.
    pub scheduler: Scheduler,
    /// Of the context.
    pub begun: u64,
    /// Of the context.
    pub done: u64,
    /// Of the context's process.
    pub busy: u64,
    /// Event reached by the step, plus one; 0 for none.
    pub stamp: u32,
    /// Unused.
    pub pad: u32,
}

/// One GPU.
#[repr(C)]
#[derive(Debug)]
pub struct GpuRecord {
    /// NVML UUID, zero padded.
    pub uuid: [u8; 48],
    /// Product name, zero padded.
    pub product: [u8; 64],
    /// Memory in bytes.
    pub total: u64,
    /// Of it the driver's, in bytes.
    pub reserved: u64,
    /// Bytes a context takes for itself.
    pub context_overhead: u64,
    /// Bytes a loaded module takes.
    pub module_overhead: u64,
    /// Most bytes processes held at once.
    pub peak: u64,
    /// Bytes of its memory written in a microsecond; 0: in no time.
    pub memory_rate: u64,
    /// Bytes copied to or from the host in a microsecond; 0: in no time.
    pub copy_rate: u64,
    /// Compute capability.
    pub compute: [u32; 2],
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Threads a multiprocessor holds.
    pub threads: u32,
    /// FP32 cores of a multiprocessor.
    pub cores: u32,
    /// NVML brand.
    pub brand: u32,
    /// NVML architecture.
    pub architecture: u32,
    /// PCI bus number.
    pub bus: u32,
    /// Bus number of the PCIe root above it.
    pub root: u32,
    /// NUMA node.
    pub numa: u32,
    /// 0: works. Otherwise the Xid that broke it.
    pub xid: u32,
    /// Number of its NVLink group; 0: it has no links.
    pub nvlink: u32,
    /// Its timeline.
    pub scheduler: Scheduler,
    /// Its timeline's next step, while it is written.
    pub step: Step,
    /// For utilisation.
    pub samples: Samples,
    /// A bit per context of this GPU.
    pub contexts: [u64; MAX_CONTEXTS / 64],
}

/// One process.
#[repr(C)]
#[derive(Debug)]
pub struct SlotRecord {
    /// 0: free.
    pub used: u32,
    /// Process id in the process's own pid namespace.
    pub pid: u32,
    /// Inode number of that pid namespace.
    pub pid_namespace: u64,
    /// Bytes held on each GPU.
    pub memory: [u64; MAX_GPUS],
    /// Of them what contexts and modules take for themselves.
    pub overhead: [u64; MAX_GPUS],
    /// Most bytes held on each GPU at once.
    pub peak: [u64; MAX_GPUS],
    /// Nanoseconds its kernels ran on each GPU.
    pub busy: [u64; MAX_GPUS],
}

/// One CUDA context. Its items run one after another, whatever streams they came from.
#[repr(C)]
#[derive(Debug)]
pub struct ContextRecord {
    /// 0: free.
    pub used: u32,
    /// Slot of its process.
    pub slot: u32,
    /// Its GPU.
    pub gpu: u32,
    /// Unused.
    pub pad: u32,
    /// Number of items that have ended so far.
    pub begun: u64,
    /// Number of items queued so far.
    pub queued: u64,
    /// Nanoseconds the first item that has not ended has run.
    pub done: u64,
    /// End of the copy at the head of the queue; 0 if none is under way.
    pub copy_until: u64,
    /// For utilisation by process.
    pub samples: Samples,
}

/// A thread that takes part in virtual time.
#[repr(C)]
#[derive(Debug)]
pub struct ThreadRecord {
    /// 0: free.
    pub used: u32,
    /// Changes when the thread is to run; it sleeps on this word.
    pub word: u32,
    /// 1 while it waits for its time, 2 while it is away and time goes on without it.
    pub state: u32,
    /// Among those due at once the lowest runs first, then who came first.
    pub rank: u32,
    /// When it wants to go on.
    pub wake_at: u64,
    /// Its number among all threads that ever came.
    pub number: u64,
    /// Its thread id, and the inode number of the pid namespace that is in.
    pub thread: u64,
    /// As above.
    pub namespace: u64,
}

/// Memory that more than one process may hold.
#[repr(C)]
#[derive(Debug)]
pub struct ExportRecord {
    /// Its number, from 1; 0: free.
    pub number: u64,
    /// Bytes, as charged to its owner.
    pub bytes: u64,
    /// GPU, or [`MAX_GPUS`] for host memory.
    pub gpu: u32,
    /// Slot that is charged.
    pub owner: u32,
    /// A bit per slot that holds it, the owner's included.
    pub holders: [u64; MAX_PROCESSES / 64],
}

/// [`Item::kind`]: a kernel.
pub const KERNEL: u32 = 0;
/// [`Item::kind`]: a copy; it takes its context's time but not the GPU's.
pub const COPY: u32 = 1;

/// One entry of a context's queue.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// Nanoseconds it takes.
    pub length: u64,
    /// Event it reaches at its end, plus one; 0 for none.
    pub stamp: u32,
    /// [`KERNEL`] or [`COPY`].
    pub kind: u32,
}

/// Ring of items: number n lies at `n % QUEUE`.
pub type Queue = [Item; QUEUE];

/// When an event was reached.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Number in the queue of the item that wrote it, plus one; 0 for never.
    pub sequence: u64,
    /// When.
    pub time: u64,
}

/// Event stamps of a context.
pub type Stamps = [Stamp; EVENTS];

/// The whole file.
#[repr(C)]
#[derive(Debug)]
pub struct Layout {
    /// First.
    pub header: Header,
    /// GPUs.
    pub gpus: [GpuRecord; MAX_GPUS],
    /// Processes.
    pub slots: [SlotRecord; MAX_PROCESSES],
    /// Contexts.
    pub contexts: [ContextRecord; MAX_CONTEXTS],
    /// Threads.
    pub threads: [ThreadRecord; MAX_THREADS],
    /// Shared memory.
    pub exports: [ExportRecord; MAX_EXPORTS],
    /// Queues of contexts.
    pub queues: [Queue; MAX_CONTEXTS],
    /// Events of contexts.
    pub stamps: [Stamps; MAX_CONTEXTS],
}

/// Text up to the first zero byte.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Puts text into a zero-padded field, cut to fit with a zero behind it.
pub fn put_text(field: &mut [u8], text: &str) {
    let room = field.len().saturating_sub(1);
    field.fill(0);
    for (to, from) in field.iter_mut().take(room).zip(text.bytes()) {
        *to = from;
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_layout_is_what_version_3_says() {
        assert_eq!((offset_of!(Header, magic), offset_of!(Header, version)), (0, 8));
        assert_eq!((size_of::<TimingRecord>(), size_of::<ClockRecord>()), (80, 24));
        assert_eq!(size_of::<Header>(), 24 + 80 + 24 + 16 + 8 * XIDS);
        assert_eq!((size_of::<Scheduler>(), size_of::<Step>()), (48, 88));
        assert_eq!(size_of::<GpuRecord>(), 216 + 48 + 88 + size_of::<Samples>() + MAX_CONTEXTS / 8);
        assert_eq!(size_of::<SlotRecord>(), 16 + 4 * 8 * MAX_GPUS);
        assert_eq!((size_of::<Item>(), size_of::<Stamp>(), size_of::<ThreadRecord>()), (16, 16, 48));
        assert_eq!(size_of::<ContextRecord>(), 48 + size_of::<Samples>());
        assert_eq!(size_of::<ExportRecord>(), 24 + MAX_PROCESSES / 8);
        assert_eq!(offset_of!(Layout, gpus), size_of::<Header>());
        let slots = size_of::<Header>() + MAX_GPUS * size_of::<GpuRecord>();
        assert_eq!(offset_of!(Layout, slots), slots);
        let contexts = slots + MAX_PROCESSES * size_of::<SlotRecord>();
        assert_eq!(offset_of!(Layout, contexts), contexts);
        let threads = contexts + MAX_CONTEXTS * size_of::<ContextRecord>();
        assert_eq!(offset_of!(Layout, threads), threads);
        let exports = threads + MAX_THREADS * size_of::<ThreadRecord>();
        assert_eq!(offset_of!(Layout, exports), exports);
        let queues = exports + MAX_EXPORTS * size_of::<ExportRecord>();
        assert_eq!(offset_of!(Layout, queues), queues);
        assert_eq!(offset_of!(Layout, stamps), queues + MAX_CONTEXTS * QUEUE * 16);
    }

    #[test]
    fn text_is_cut_to_its_field() {
        let mut field = [7; 4];
        put_text(&mut field, "Tesla");
        assert_eq!((field, text(&field)), (*b"Tes\0", "Tes".to_owned()));
    }
}
