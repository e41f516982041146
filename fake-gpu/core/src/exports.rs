//! Memory that more than one process may hold: what was exported by handle or by IPC.
//!
//! Its bytes are charged once, to the process that made it for as long as that holds it, then to one of the others. They
//! are free when nobody holds it any more, however the holders ended.

use crate::layout::{ExportRecord, MAX_EXPORTS, MAX_GPUS, MAX_PROCESSES};
use crate::{FakeGpuError, Locked};

fn bit(slot: usize) -> (usize, u64) {
    (slot / 64, 1 << (slot % 64))
}

fn first_holder(record: &ExportRecord) -> Option<usize> {
    (0..MAX_PROCESSES).find(|slot| record.holders[bit(*slot).0] & bit(*slot).1 != 0)
}

impl Locked<'_> {
    /// Makes memory that a slot is charged for known to others; gives its number.
    ///
    /// # Errors
    /// [`FakeGpuError::Full`].
    pub(crate) fn export(
        &mut self,
        slot: usize,
        gpu: Option<usize>,
        bytes: u64,
    ) -> Result<u64, FakeGpuError> {
        let free = (0..MAX_EXPORTS).find(|i| self.exports[*i].number == 0);
        let index = free.ok_or(FakeGpuError::Full("exports"))?;
        let number = self.header.exported + 1;
        self.header.exported = number;
        let record = &mut self.exports[index];
        (record.bytes, record.gpu, record.owner) = (bytes, gpu.unwrap_or(MAX_GPUS) as u32, slot as u32);
        record.holders = [0; MAX_PROCESSES / 64];
        record.holders[bit(slot).0] = bit(slot).1;
        record.number = number;
        Ok(number)
    }

    fn export_index(&self, number: u64) -> Option<usize> {
        (0..MAX_EXPORTS).find(|i| number != 0 && self.exports[*i].number == number)
    }

    /// Lets a slot hold exported memory: its GPU (`None`: host memory), its bytes and its owner.
    pub(crate) fn import(&mut self, slot: usize, number: u64) -> Option<(Option<usize>, u64, usize)> {
        self.reap(Some(slot));
        let record = self.export_index(number).map(|i| &mut self.exports[i])?;
        record.holders[bit(slot).0] |= bit(slot).1;
        let gpu = (record.gpu as usize) < MAX_GPUS;
        Some((gpu.then_some(record.gpu as usize), record.bytes, record.owner as usize))
    }

    /// A slot no longer holds exported memory.
    pub(crate) fn drop_export(&mut self, slot: usize, number: u64) {
        if let Some(index) = self.export_index(number) {
            self.leave(slot, index);
        }
    }

    /// A slot no longer holds any.
    pub(crate) fn drop_exports(&mut self, slot: usize) {
        for index in 0..MAX_EXPORTS {
            let record = &self.exports[index];
            if record.number != 0 && record.holders[bit(slot).0] & bit(slot).1 != 0 {
                self.leave(slot, index);
            }
        }
    }

    fn leave(&mut self, slot: usize, index: usize) {
        let record = &mut self.exports[index];
        record.holders[bit(slot).0] &= !bit(slot).1;
        let (bytes, gpu, owner) = (record.bytes, record.gpu as usize, record.owner as usize);
        let heir = first_holder(record);
        match heir {
            None => record.number = 0,
            Some(heir) if owner == slot => record.owner = heir as u32,
            Some(_) => return,
        }
        if gpu < MAX_GPUS {
            self.uncharge(owner, gpu, bytes);
            if let Some(heir) = heir {
                // It was there before: it fits.
                let record = &mut self.slots[heir];
                record.memory[gpu] += bytes;
                record.peak[gpu] = record.peak[gpu].max(record.memory[gpu]);
            }
        }
    }
}
