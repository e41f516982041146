//! What device memory holds: pages of the host, taken as they are first written.
//!
//! An allocation that is never written costs nothing, however large. Bytes that were not written read as zero, and
//! setting an allocation's bytes to zero from end to end gives its pages back.

use std::io;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

/// Bytes of one allocation.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pages: Option<MmapMut>,
}

impl Contents {
    /// Copies out; what was never written is zero. `from..from + to.len()` lies inside the allocation.
    pub(crate) fn read(&self, from: usize, to: &mut [u8]) {
        match self.pages.as_deref().and_then(|pages| pages.get(from..from.checked_add(to.len())?)) {
            Some(bytes) => to.copy_from_slice(bytes),
            None => to.fill(0),
        }
    }

    /// The bytes `from..from + length` of an allocation of `size` bytes, for writing.
    pub(crate) fn write(&mut self, size: u64, from: usize, length: usize) -> io::Result<&mut [u8]> {
        if self.pages.is_none() {
            let size = usize::try_from(size).map_err(io::Error::other)?;
            self.pages = Some(MmapOptions::new().len(size).no_reserve_swap().map_anon()?);
        }
        let pages = self.pages.as_deref_mut().unwrap_or_default();
        let end = from.checked_add(length).filter(|end| *end <= pages.len());
        end.map(|end| &mut pages[from..end]).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// All bytes are zero again; the pages go back to the host, their addresses stay.
    pub(crate) fn clear(&mut self) {
        if let Some(pages) = &mut self.pages {
            // SAFETY: the mapping is private and anonymous, so its bytes only become zero, and no reference to them is
            // alive beside `&mut self`.
            if unsafe { pages.unchecked_advise(UncheckedAdvice::DontNeed) }.is_err() {
                pages.fill(0);
            }
        }
    }

    /// Whether anything was ever written.
    pub(crate) fn is_untouched(&self) -> bool {
        self.pages.is_none()
    }
}
