//! Device memory of a process.
//!
//! Sizes are charged rounded up to 512 bytes, the alignment of a real driver's small allocations. Real drivers take
//! whole 2 MiB blocks from the GPU and fill them with small ones; here the sum is exact.

use super::{Allocation, Context, Own, Process};
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
    /// Memory the host can use under the same address. It is charged to the GPU whole.
    Managed,
}

impl Process {
    /// Free and total bytes of a GPU; total is without what the driver keeps.
    pub fn memory(&self, gpu: usize) -> (u64, u64) {
        let mut locked = self.gpus.lock();
        locked.reap(Some(self.slot));
        let total = locked.usable(gpu);
        (total.saturating_sub(locked.used(gpu)), total)
    }

    /// Allocates; gives an address.
    ///
    /// # Errors
    /// [`FakeGpuError::OutOfMemory`], [`FakeGpuError::Lost`].
    pub fn alloc(&self, context: Context, bytes: u64, kind: Kind) -> Result<u64, FakeGpuError> {
        let charged = bytes.checked_next_multiple_of(GRANULE).ok_or(FakeGpuError::OutOfMemory)?;
        let mut locked = self.gpus.lock();
        if locked.gpus[context.gpu].xid == super::OFF_THE_BUS {
            return Err(FakeGpuError::Lost);
        }
        locked.charge(self.slot, context.gpu, charged)?;
        drop(locked);
        let placed = self.own().place(charged, kind);
        let Some((address, contents)) = placed else {
            self.give_back(context.gpu, charged);
            return Err(FakeGpuError::OutOfMemory);
        };
        let (gpu, context) = (context.gpu, context.index);
        self.own().live.insert(address, Allocation { gpu, context, bytes, charged, contents });
        Ok(address)
    }

    fn give_back(&self, gpu: usize, bytes: u64) {
        let mut locked = self.gpus.lock();
        let memory = &mut locked.slots[self.slot].memory[gpu];
        *memory = memory.saturating_sub(bytes);
    }

    /// Frees; false for an address no allocation begins at.
    pub fn free(&self, address: u64) -> bool {
        let Some(allocation) = self.own().live.remove(&address) else { return false };
        self.give_back(allocation.gpu, allocation.charged);
        true
    }

    /// Context of the allocation that begins at an address.
    pub fn context_of(&self, address: u64) -> Option<Context> {
        self.own().live.get(&address).map(|a| Context { index: a.context, gpu: a.gpu })
    }

    /// Begin and size of the allocation an address lies in.
    pub fn allocation_at(&self, address: u64) -> Option<(u64, u64)> {
        let own = self.own();
        let (begin, allocation) = own.live.range(..=address).next_back()?;
        (address - begin < allocation.bytes).then_some((*begin, allocation.bytes))
    }

    /// Copies device memory out. False if the bytes do not all lie in one allocation.
    pub fn read(&self, from: u64, to: &mut [u8]) -> bool {
        let own = self.own();
        let Some((begin, allocation)) = own.live.range(..=from).next_back() else { return false };
        let offset = from - begin;
        if offset.checked_add(to.len() as u64).is_none_or(|end| end > allocation.bytes) {
            return false;
        }
        allocation.contents.read(offset as usize, to);
        true
    }

    /// Changes `length` bytes of device memory in place. False if they do not all lie in one allocation.
    ///
    /// # Errors
    /// The host has no memory for the contents.
    pub fn write(&self, to: u64, length: u64, put: impl FnOnce(&mut [u8])) -> std::io::Result<bool> {
        let mut own = self.own();
        let Some((begin, allocation)) = own.live.range_mut(..=to).next_back() else { return Ok(false) };
        let offset = to - begin;
        if offset.checked_add(length).is_none_or(|end| end > allocation.bytes) {
            return Ok(false);
        }
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        put(allocation.contents.write(allocation.bytes, offset as usize, length)?);
        Ok(true)
    }

    /// Sets device memory to zero. False if the bytes do not all lie in one allocation.
    ///
    /// # Errors
    /// The host has no memory for the contents.
    pub fn zero(&self, to: u64, length: u64) -> std::io::Result<bool> {
        let mut own = self.own();
        let Some((begin, allocation)) = own.live.range_mut(..=to).next_back() else { return Ok(false) };
        let is_whole = *begin == to && allocation.bytes == length;
        let fits = (to - begin).checked_add(length).is_some_and(|end| end <= allocation.bytes);
        if fits && (is_whole || allocation.contents.is_untouched()) {
            if is_whole {
                allocation.contents.clear();
            }
            return Ok(true);
        }
        drop(own);
        self.write(to, length, |bytes| bytes.fill(0))
    }
}

impl Own {
    /// An address for so many bytes, and what is there; `None` if there is no such address or no host memory.
    fn place(&mut self, bytes: u64, kind: Kind) -> Option<(u64, Contents)> {
        let step = bytes.max(GRANULE);
        match kind {
            Kind::Device => {
                let address = self.next;
                self.next = address.checked_add(step)?;
                Some((address, Contents::default()))
            }
            Kind::Narrow => {
                let address = self.next_narrow;
                let end = address.checked_add(step)?;
                u32::try_from(end).ok()?;
                self.next_narrow = end;
                Some((address, Contents::default()))
            }
            Kind::Managed => {
                let mut contents = Contents::default();
                let address = contents.write(step, 0, 1).ok()?.as_ptr() as u64;
                Some((address, contents))
            }
        }
    }
}
