//! The file, field by field. `repr(C)`, native byte order, no pointers; a change of any of it raises [`VERSION`].
//!
//! | part | count | what |
//! |---|---|---|
//! | [`Header`] | 1 | magic, version, number of GPUs, Xids so far |
//! | [`GpuRecord`] | [`MAX_GPUS`] | identity, health and timeline of a GPU |
//! | [`SlotRecord`] | [`MAX_PROCESSES`] | a process and what it holds of each GPU |
//! | [`ContextRecord`] | [`MAX_CONTEXTS`] | a CUDA context: where its queue stands |
//! | [`Queue`] | [`MAX_CONTEXTS`] | a ring of launches and event records |
//! | [`Stamps`] | [`MAX_CONTEXTS`] | when each event of the context was reached |
//!
//! Queues and stamps are large and apart from the rest, so that bringing a GPU up to date touches few pages. The file is
//! sparse: what no context uses takes no room.
//!
//! Byte 0 is the lock everything is changed under. Byte `SLOT_LOCKS + n` is kept locked by the process of slot n.
//! Times are nanoseconds of the monotonic clock.

/// `fakegpu1`.
pub const MAGIC: u64 = 0x3175_7067_656b_6166;
/// Of this layout.
pub const VERSION: u32 = 2;
/// GPUs of a node.
pub const MAX_GPUS: usize = 16;
/// Processes that use GPUs of a node at once.
pub const MAX_PROCESSES: usize = 256;
/// CUDA contexts of a node; a multiple of 64.
pub const MAX_CONTEXTS: usize = 256;
/// Launches a context queues before the next one blocks, as on real hardware.
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
    /// Xids raised so far. Number n (from 0) lies at `n % XIDS`.
    pub raised: u64,
    /// The latest of them.
    pub xids: [XidRecord; XIDS],
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

/// Busy time of the latest intervals.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Samples {
    /// Begin of the part of the latest kernel that is not in the samples yet.
    pub open_from: u64,
    /// Its end.
    pub open_until: u64,
    /// Interval n lies at `n % SAMPLES`.
    pub ring: [Sample; SAMPLES],
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
    /// Context that ran last; the round goes on behind it.
    pub last_context: u32,
    /// When the last kernel that was begun ends.
    pub free_at: u64,
    /// Length of all kernels begun so far, in nanoseconds.
    pub busy: u64,
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
    /// Length of all its kernels begun on each GPU, in nanoseconds.
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
    /// Number of items begun so far.
    pub begun: u64,
    /// Number of items queued so far.
    pub queued: u64,
    /// When the last item that was begun ends.
    pub ends_at: u64,
    /// Length of all kernels begun so far, in nanoseconds.
    pub busy: u64,
    /// For utilisation by process.
    pub samples: Samples,
}

/// One entry of a context's queue.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// When it was queued.
    pub queued_at: u64,
    /// Nanoseconds it occupies the GPU; 0 for an event.
    pub length: u64,
    /// Event stamp it writes, plus one; 0 for a kernel.
    pub stamp: u32,
    /// Unused.
    pub pad: u32,
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
    /// Their queues.
    pub queues: [Queue; MAX_CONTEXTS],
    /// Their events.
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
    fn the_layout_is_what_version_2_says() {
        assert_eq!((offset_of!(Header, magic), offset_of!(Header, version)), (0, 8));
        assert_eq!(size_of::<Header>(), 24 + 8 * XIDS);
        assert_eq!(size_of::<Samples>(), 16 + 16 * SAMPLES);
        assert_eq!(size_of::<GpuRecord>(), 200 + size_of::<Samples>() + MAX_CONTEXTS / 8);
        assert_eq!(size_of::<SlotRecord>(), 16 + 2 * 8 * MAX_GPUS);
        assert_eq!((size_of::<Item>(), size_of::<Stamp>()), (24, 16));
        assert_eq!(size_of::<ContextRecord>(), 48 + size_of::<Samples>());
        let (gpus, slots) = (size_of::<Header>(), MAX_GPUS * size_of::<GpuRecord>());
        assert_eq!(offset_of!(Layout, gpus), gpus);
        assert_eq!(offset_of!(Layout, slots), gpus + slots);
        let contexts = gpus + slots + MAX_PROCESSES * size_of::<SlotRecord>();
        assert_eq!(offset_of!(Layout, contexts), contexts);
        let queues = contexts + MAX_CONTEXTS * size_of::<ContextRecord>();
        assert_eq!(offset_of!(Layout, queues), queues);
        assert_eq!(offset_of!(Layout, stamps), queues + MAX_CONTEXTS * QUEUE * 24);
        assert_eq!(size_of::<Layout>(), queues + MAX_CONTEXTS * (QUEUE * 24 + EVENTS * 16));
    }

    #[test]
    fn text_is_cut_to_its_field() {
        let mut field = [7; 4];
        put_text(&mut field, "Tesla");
        assert_eq!((field, text(&field)), (*b"Tes\0", "Tes".to_owned()));
    }
}
