//! Physical memory made by cuMemCreate: it lives while a handle to it or a mapping of it does.
//!
//! Handles are counted (creation, each retain and each import of a known one), mappings are kept by address. What was
//! charged for a block comes back when both are gone. Handles of memory another process made are not known here: their
//! owner pays.

use std::collections::{BTreeMap, HashMap};

#[derive(Debug)]
struct Block<C> {
    handles: u64,
    mappings: u64,
    charge: C,
}

/// All blocks of this process.
#[derive(Debug)]
pub struct VirtualMemory<C> {
    next: u64,
    /// Handle -> block and count.
    handles: HashMap<u64, (u64, u64)>,
    blocks: HashMap<u64, Block<C>>,
    /// Address -> size and block.
    mappings: BTreeMap<u64, (u64, u64)>,
}

impl<C> Default for VirtualMemory<C> {
    fn default() -> Self {
        Self { next: 0, handles: HashMap::new(), blocks: HashMap::new(), mappings: BTreeMap::new() }
    }
}

impl<C> VirtualMemory<C> {
    /// A block was made.
    pub fn create(&mut self, handle: u64, charge: C) {
        let block = self.next;
        self.next = block.wrapping_add(1);
        self.handles.insert(handle, (block, 1));
        self.blocks.insert(block, Block { handles: 1, mappings: 0, charge });
    }

    /// The driver gave a handle once more; `address` is where its memory is mapped, if that is known.
    pub fn retain(&mut self, handle: u64, address: Option<u64>) {
        let mapped = address.and_then(|a| self.block_at(a));
        let Some(block) = self.handles.get(&handle).map(|h| h.0).or(mapped) else { return };
        let counted = self.handles.entry(handle).or_insert((block, 0));
        counted.1 = counted.1.saturating_add(1);
        if let Some(found) = self.blocks.get_mut(&block) {
            found.handles = found.handles.saturating_add(1);
        }
    }

    fn block_at(&self, address: u64) -> Option<u64> {
        let (from, (size, block)) = self.mappings.range(..=address).next_back()?;
        (address.wrapping_sub(*from) < *size).then_some(*block)
    }

    /// A handle was given back. The charge of its block, if that is gone now.
    pub fn release(&mut self, handle: u64) -> Option<C> {
        let counted = self.handles.get_mut(&handle)?;
        let block = counted.0;
        counted.1 = counted.1.saturating_sub(1);
        if counted.1 == 0 {
            self.handles.remove(&handle);
        }
        let found = self.blocks.get_mut(&block)?;
        found.handles = found.handles.saturating_sub(1);
        self.end(block)
    }

    /// A block was mapped.
    pub fn map(&mut self, address: u64, size: u64, handle: u64) {
        let Some((block, _)) = self.handles.get(&handle).copied() else { return };
        if let Some(found) = self.blocks.get_mut(&block) {
            found.mappings = found.mappings.saturating_add(1);
            self.mappings.insert(address, (size, block));
        }
    }

    /// A range was unmapped, which holds whole mappings. The charges of the blocks that are gone now.
    pub fn unmap(&mut self, address: u64, size: u64) -> Vec<C> {
        let gone: Vec<(u64, u64)> =
            self.mappings.range(address..address.saturating_add(size)).map(|(a, (_, b))| (*a, *b)).collect();
        let mut charges = Vec::new();
        for (from, block) in gone {
            self.mappings.remove(&from);
            if let Some(found) = self.blocks.get_mut(&block) {
                found.mappings = found.mappings.saturating_sub(1);
            }
            charges.extend(self.end(block));
        }
        charges
    }

    fn end(&mut self, block: u64) -> Option<C> {
        let found = self.blocks.get(&block)?;
        if found.handles > 0 || found.mappings > 0 {
            return None;
        }
        self.blocks.remove(&block).map(|b| b.charge)
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    const A: u64 = 0x7f00_0000_0000;
    const SIZE: u64 = 2 << 20;

    fn mapped() -> VirtualMemory<u8> {
        let mut memory = VirtualMemory::default();
        memory.create(1, 10);
        memory.map(A, SIZE, 1);
        memory
    }

    #[test]
    fn memory_ends_with_the_later_of_handle_and_mapping() {
        let mut memory = mapped();
        assert_eq!(memory.release(1), None);
        assert_eq!(memory.unmap(A, SIZE), [10]);
        let mut memory = mapped();
        assert!(memory.unmap(A, SIZE).is_empty());
        assert_eq!(memory.release(1), Some(10));
    }

    #[test]
    fn a_retained_handle_keeps_it() {
        for handle in [1, 2] {
            let mut memory = mapped();
            memory.retain(handle, Some(A + 5));
            assert_eq!(memory.release(1), None);
            assert!(memory.unmap(A, SIZE).is_empty());
            assert_eq!(memory.release(handle), Some(10));
        }
    }

    #[test]
    fn one_unmap_ends_all_mappings_in_its_range() {
        let mut memory = VirtualMemory::default();
        for handle in 1..=3 {
            memory.create(handle, handle);
            memory.map(A + handle * SIZE, SIZE, handle);
            memory.release(handle);
        }
        assert_eq!(memory.unmap(A + SIZE, 2 * SIZE), [1, 2]);
        assert_eq!(memory.unmap(A, 10 * SIZE), [3]);
    }

    #[test]
    fn memory_of_others_costs_nothing() {
        let mut memory = VirtualMemory::<u8>::default();
        memory.retain(9, None);
        memory.map(A, SIZE, 9);
        assert!(memory.unmap(A, SIZE).is_empty());
        assert_eq!(memory.release(9), None);
    }

    #[test]
    fn a_handle_number_used_again_is_another_block() {
        let mut memory = mapped();
        memory.release(1);
        memory.create(1, 20);
        assert_eq!(memory.release(1), Some(20));
        assert_eq!(memory.unmap(A, SIZE), [10]);
    }
}
