//! The file, field by field. `repr(C)`, native byte order, no pointers; a change of any of it raises [`VERSION`].
//!
//! | part | count | what |
//! |---|---|---|
//! | [`Header`] | 1 | magic, version, number of GPUs |
//! | [`GpuRecord`] | [`MAX_GPUS`] | identity and timeline of a GPU |
//! | [`SlotRecord`] | [`MAX_PROCESSES`] | a process and what it allocated on each GPU, in bytes |
//! | [`ContextRecord`] | [`MAX_CONTEXTS`] | a CUDA context: its queue and event stamps |
//!
//! Byte 0 is the lock everything is changed under. Byte `SLOT_LOCKS + n` is kept locked by the process of slot n.

/// `fakegpu1`.
pub const MAGIC: u64 = 0x3175_7067_656b_6166;
/// Of this layout.
pub const VERSION: u32 = 1;
/// GPUs of a node.
pub const MAX_GPUS: usize = 16;
/// Processes that use GPUs of a node at once.
pub const MAX_PROCESSES: usize = 256;
/// CUDA contexts of a node.
pub const MAX_CONTEXTS: usize = 256;
/// Launches a context queues before the next one blocks, as on real hardware.
pub const QUEUE: usize = 1024;
/// Events of a context.
pub const EVENTS: usize = 2048;
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
    /// Compute capability.
    pub compute: [u32; 2],
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// NVML brand.
    pub brand: u32,
    /// NVML architecture.
    pub architecture: u32,
    /// PCI bus number.
    pub bus: u32,
    /// NUMA node.
    pub numa: u32,
    /// 0: works. Otherwise the Xid that broke it.
    pub xid: u32,
    /// When the last kernel that was begun ends, in nanoseconds of the monotonic clock.
    pub free_at: u64,
    /// Length of all kernels begun so far, in nanoseconds.
    pub busy: u64,
    /// Context that ran last; the round goes on behind it.
    pub last_context: u32,
    /// Utilisation of the last whole window, in percent.
    pub utilization: u32,
    /// Begin of the current window.
    pub window_start: u64,
    /// Busy time at that moment.
    pub window_busy: u64,
}

/// One process.
#[repr(C)]
#[derive(Debug)]
pub struct SlotRecord {
    /// 0: free.
    pub used: u32,
    /// Process id in the process's own pid namespace.
    pub pid: u32,
    /// Bytes allocated on each GPU.
    pub memory: [u64; MAX_GPUS],
}

/// One entry of a context's queue.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// When it was queued.
    pub queued_at: u64,
    /// Nanoseconds it occupies the GPU; 0 for an event.
    pub length: u64,
    /// When it ends; meaningful once it was begun.
    pub ends_at: u64,
    /// Event stamp it writes, plus one; 0 for a kernel.
    pub stamp: u32,
    /// Unused.
    pub pad: u32,
}

/// When an event was reached.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Number in the queue of the item that wrote it, plus one; 0 for never.
    pub sequence: u64,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
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
    /// Nanoseconds of kernels begun so far.
    pub busy: u64,
    /// Ring of items: number n lies at `n % QUEUE`.
    pub queue: [Item; QUEUE],
    /// Event stamps.
    pub stamps: [Stamp; EVENTS],
}

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
}

/// Text up to the first zero byte.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_layout_is_what_version_1_says() {
        assert_eq!(size_of::<Header>(), 16);
        assert_eq!(size_of::<GpuRecord>(), 200);
        assert_eq!(size_of::<SlotRecord>(), 8 + 8 * MAX_GPUS);
        assert_eq!((size_of::<Item>(), size_of::<Stamp>()), (32, 16));
        assert_eq!(size_of::<ContextRecord>(), 48 + 32 * QUEUE + 16 * EVENTS);
        assert_eq!(offset_of!(Layout, gpus), 16);
        assert_eq!(offset_of!(Layout, slots), 16 + 200 * MAX_GPUS);
    }
}
