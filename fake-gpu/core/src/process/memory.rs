//! Device memory of a process.
//!
//! Sizes are charged rounded up to 512 bytes, the alignment of a real driver's small allocations. Real drivers take
//! whole 2 MiB blocks from the GPU and fill them with small ones; here the sum is exact.
//!
//! An address lies in a span, and a span shows a part of a store: that is the memory itself. Most spans have a store of
//! their own; memory that is mapped, or handed out by a pool, is charged by whoever makes the store.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Context, Own, Process};
use crate::FakeGpuError;
use crate::contents::Contents;

/// Allocations are charged in multiples of this many bytes.
const GRANULE: u64 = 512;

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Device memory at an address of 64 bits.
    Device,
    /// Device memory at an address of 32 bits, as in the first version of the CUDA driver API.
    Narrow,
    /// Memory the host can use under the same address. What has no room on the GPU, or was sent to the host
    /// ([`Process::settle_at`]), lies there; the rest is charged to the GPU.
    Managed,
}

/// Memory, wherever it is mapped.
#[derive(Debug, Clone)]
pub struct Store {
    bytes: u64,
    contents: Arc<Mutex<Contents>>,
}

impl Store {
    /// So many bytes of zero.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, contents: Arc::default() }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stretch of addresses.
#[derive(Debug)]
pub(super) struct Span {
    /// GPU and, if it goes with one, the context's index.
    gpu: usize,
    context: Option<usize>,
    /// As asked.
    bytes: u64,
    /// As charged by this span.
    charged: u64,
    store: Store,
    /// Where in the store it begins.
    offset: u64,
    /// Of managed memory, what lies on the host: stretches of the store, in order and apart.
    on_host: Vec<Range<u64>>,
}

impl Span {
    /// Stretches of a part of it that lie on the host, or those that do not.
    fn stretches(&self, part: &Range<u64>, on_host: bool) -> Vec<Range<u64>> {
        let (mut at, mut host, mut gpu) = (part.start, Vec::new(), Vec::new());
        for away in &self.on_host {
            let away = away.start.max(part.start)..away.end.min(part.end);
            if away.start < away.end {
                gpu.push(at..away.start);
                at = away.end;
                host.push(away);
            }
        }
        gpu.push(at..part.end);
        let mut found = if on_host { host } else { gpu };
        found.retain(|stretch| stretch.start < stretch.end);
        found
    }
}

impl Process {
    /// Free and total bytes of a GPU; total is without what the driver keeps.
    pub fn memory(&self, gpu: usize) -> (u64, u64) {
        let mut locked = self.gpus.lock();
        if !self.is_timeless() {
            locked.reap(Some(self.slot));
        }
        let total = locked.usable(gpu);
        (total.saturating_sub(locked.used(gpu)), total)
    }

    /// Charges bytes that are handed out in another way than by [`Process::alloc`].
    ///
    /// # Errors
    /// [`FakeGpuError::OutOfMemory`], [`FakeGpuError::Lost`].
    pub fn charge(&self, gpu: usize, bytes: u64) -> Result<(), FakeGpuError> {
        let mut locked = self.gpus.lock();
        if locked.gpus[gpu].xid == super::OFF_THE_BUS {
            return Err(FakeGpuError::Lost);
        }
        locked.charge(self.slot, gpu, bytes)
    }

    /// Takes a charge back.
    pub fn uncharge(&self, gpu: usize, bytes: u64) {
        self.gpus.lock().uncharge(self.slot, gpu, bytes);
    }

    /// Charges what the driver needs for itself.
    ///
    /// # Errors
    /// Those of [`Process::charge`].
    pub fn charge_overhead(&self, gpu: usize, bytes: u64) -> Result<(), FakeGpuError> {
        self.charge(gpu, bytes)?;
        self.gpus.lock().slots[self.slot].overhead[gpu] += bytes;
        Ok(())
    }

    /// Takes a charge for the driver back.
    pub fn uncharge_overhead(&self, gpu: usize, bytes: u64) {
        let mut locked = self.gpus.lock();
        locked.uncharge(self.slot, gpu, bytes);
        let overhead = &mut locked.slots[self.slot].overhead[gpu];
        *overhead = overhead.saturating_sub(bytes);
    }

    /// Allocates; gives an address.
    ///
    /// # Errors
    /// [`FakeGpuError::OutOfMemory`], [`FakeGpuError::Lost`].
    pub fn alloc(&self, context: Context, bytes: u64, kind: Kind) -> Result<u64, FakeGpuError> {
        let whole = bytes.checked_next_multiple_of(GRANULE).ok_or(FakeGpuError::OutOfMemory)?;
        let charged = match kind {
            Kind::Managed => self.charge_up_to(context.gpu, whole)?,
            Kind::Device | Kind::Narrow => self.charge(context.gpu, whole).map(|()| whole)?,
        };
        let store = Store::new(whole);
        let mut own = self.own();
        let Some(address) = own.place(&store, kind) else {
            drop(own);
            self.uncharge(context.gpu, charged);
            return Err(FakeGpuError::OutOfMemory);
        };
        let (gpu, context) = (context.gpu, Some(context.index));
        let on_host = Vec::from_iter((charged < whole).then_some(charged..whole));
        own.live.insert(address, Span { gpu, context, bytes, charged, store, offset: 0, on_host });
        Ok(address)
    }

    /// Charges so many bytes, or as many as there is room for; gives them.
    fn charge_up_to(&self, gpu: usize, bytes: u64) -> Result<u64, FakeGpuError> {
        let mut locked = self.gpus.lock();
        if locked.gpus[gpu].xid == super::OFF_THE_BUS {
            return Err(FakeGpuError::Lost);
        }
        let room = |locked: &crate::Locked<'_>| locked.usable(gpu).saturating_sub(locked.used(gpu));
        if room(&locked) < bytes {
            locked.reap(Some(self.slot));
        }
        let room = room(&locked);
        let some = bytes.min(room / GRANULE * GRANULE);
        locked.charge(self.slot, gpu, some).map(|()| some)
    }

    /// Moves a part of managed memory to the host, or to the GPU as far as that has room. False if there is no such
    /// part. Nothing the program has asked for is ever moved by itself.
    pub fn settle_at(&self, address: u64, bytes: u64, on_host: bool) -> bool {
        let mut own = self.own();
        let Some((begin, span)) = own.live.range_mut(..=address).next_back() else { return false };
        let start = (address - begin) / GRANULE * GRANULE;
        let end = (address - begin).checked_add(bytes).and_then(|end| end.checked_next_multiple_of(GRANULE));
        let Some(end) = end.filter(|end| *end <= span.store.bytes) else { return false };
        // What has to move lies at the other place now.
        for stretch in span.stretches(&(start..end), !on_host) {
            let length = stretch.end - stretch.start;
            if on_host {
                self.uncharge(span.gpu, length);
                span.charged -= length;
                span.on_host.push(stretch);
            } else {
                let moved = self.charge_up_to(span.gpu, length).unwrap_or(0);
                span.charged += moved;
                let back = stretch.start..stretch.start + moved;
                let apart = |away: &Range<u64>| {
                    [away.start..away.end.min(back.start), away.start.max(back.end)..away.end]
                };
                span.on_host = span
                    .on_host
                    .iter()
                    .flat_map(|away| {
                        if away.start < back.end && back.start < away.end {
                            apart(away).into()
                        } else {
                            vec![away.clone()]
                        }
                    })
                    .filter(|away| away.start < away.end)
                    .collect();
            }
        }
        span.on_host.sort_by_key(|away| away.start);
        true
    }

    /// Frees; false for an address no allocation begins at.
    pub fn free(&self, address: u64) -> bool {
        let Some(span) = self.own().live.remove(&address) else { return false };
        if span.charged > 0 {
            self.uncharge(span.gpu, span.charged);
        }
        true
    }

    /// Frees what goes with a context.
    pub(super) fn free_all(&self, context: Context) {
        let mut freed = 0;
        self.own().live.retain(|_, span| {
            let stays = span.context != Some(context.index);
            freed += if stays { 0 } else { span.charged };
            stays
        });
        self.uncharge(context.gpu, freed);
    }

    /// Addresses for so many bytes, at a multiple of `align`; nothing is there yet.
    pub fn reserve(&self, bytes: u64, align: u64) -> Option<u64> {
        let mut own = self.own();
        let address = own.next.checked_next_multiple_of(align.max(GRANULE))?;
        own.next = address.checked_add(bytes)?.checked_next_multiple_of(GRANULE)?.checked_add(GRANULE)?;
        Some(address)
    }

    /// Shows a part of a store at an address; false if something is there already or the part lies outside.
    pub fn map(&self, gpu: usize, address: u64, bytes: u64, store: &Store, offset: u64) -> bool {
        let mut own = self.own();
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= store.bytes);
        let Some(end) = address.checked_add(bytes).filter(|_| inside && bytes > 0) else { return false };
        let before = own.live.range(..end).next_back();
        if before.is_some_and(|(begin, span)| begin + span.bytes > address) {
            return false;
        }
        own.live.insert(
            address,
            Span { gpu, context: None, bytes, charged: 0, store: store.clone(), offset, on_host: Vec::new() },
        );
        true
    }

    /// Context of the allocation that begins at an address, if it goes with one.
    pub fn context_of(&self, address: u64) -> Option<Context> {
        let own = self.own();
        let span = own.live.get(&address)?;
        Some(Context { index: span.context?, gpu: span.gpu })
    }

    /// GPU of the allocation an address lies in.
    pub fn gpu_of(&self, address: u64) -> Option<usize> {
        let own = self.own();
        let (begin, span) = own.live.range(..=address).next_back()?;
        (address - begin < span.bytes).then_some(span.gpu)
    }

    /// Begin and size of the allocation an address lies in.
    pub fn allocation_at(&self, address: u64) -> Option<(u64, u64)> {
        let own = self.own();
        let (begin, span) = own.live.range(..=address).next_back()?;
        (address - begin < span.bytes).then_some((*begin, span.bytes))
    }

    /// Whether all of these bytes are somewhere.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        self.own().parts(address, bytes).is_some()
    }

    /// Copies device memory out. False if bytes of it are nowhere.
    pub fn read(&self, from: u64, to: &mut [u8]) -> bool {
        let Some(parts) = self.own().parts(from, to.len() as u64) else { return false };
        let mut rest = to;
        for (store, offset, length) in parts {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(length as usize);
            store.contents().read(offset as usize, part);
            rest = behind;
        }
        true
    }

    /// Changes `length` bytes of device memory in place, in one or several pieces. False if bytes of it are nowhere.
    ///
    /// # Errors
    /// The host has no memory for the contents.
    pub fn write(&self, to: u64, length: u64, mut put: impl FnMut(&mut [u8])) -> std::io::Result<bool> {
        let Some(parts) = self.own().parts(to, length) else { return Ok(false) };
        for (store, offset, length) in parts {
            let length = usize::try_from(length).map_err(std::io::Error::other)?;
            put(store.contents().write(store.bytes, offset as usize, length)?);
        }
        Ok(true)
    }

    /// Sets device memory to zero. False if bytes of it are nowhere.
    ///
    /// # Errors
    /// The host has no memory for the contents.
    pub fn zero(&self, to: u64, length: u64) -> std::io::Result<bool> {
        let Some(parts) = self.own().parts(to, length) else { return Ok(false) };
        for (store, offset, length) in parts {
            let mut contents = store.contents();
            match () {
                () if contents.is_untouched() => {}
                () if offset == 0 && length == store.bytes => contents.clear(),
                () => contents.write(store.bytes, offset as usize, length as usize)?.fill(0),
            }
        }
        Ok(true)
    }
}

impl Own {
    /// An address for a store; `None` if there is no such address or no host memory.
    fn place(&mut self, store: &Store, kind: Kind) -> Option<u64> {
        // A gap between allocations: no access reaches from one into the next.
        let step = store.bytes.checked_add(GRANULE)?;
        match kind {
            Kind::Device => {
                let address = self.next;
                self.next = address.checked_add(step)?;
                Some(address)
            }
            Kind::Narrow => {
                let address = self.next_narrow;
                let end = address.checked_add(step)?;
                u32::try_from(end).ok()?;
                self.next_narrow = end;
                Some(address)
            }
            Kind::Managed => Some(store.contents().write(store.bytes, 0, 1).ok()?.as_ptr() as u64),
        }
    }

    /// The parts of stores that lie behind each other at an address.
    fn parts(&self, from: u64, length: u64) -> Option<Vec<(Store, u64, u64)>> {
        let end = from.checked_add(length)?;
        let (mut at, mut parts) = (from, Vec::new());
        while at < end {
            let (begin, span) = self.live.range(..=at).next_back()?;
            let into = at - begin;
            let rest = span.bytes.checked_sub(into).filter(|rest| *rest > 0)?;
            let part = rest.min(end - at);
            parts.push((span.store.clone(), span.offset + into, part));
            at += part;
        }
        Some(parts)
    }
}
