//! How much memory a CUDA array takes.
//!
//! The driver tells only for arrays whose memory is mapped later. An array lies in tiles of 64 bytes by 8 rows (one row
//! if it has no height), which is what is counted; what the driver adds to that is part of the share's overhead.

/// `CUDA_ARRAY3D_SPARSE` and `CUDA_ARRAY3D_DEFERRED_MAPPING`: memory is mapped later, from cuMemCreate, and paid there.
const MAPPED_LATER: u32 = 0x40 | 0x80;
const TILE_WIDTH: u64 = 64;
const TILE_HEIGHT: u64 = 8;

/// An array as it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Array {
    /// Elements; height and depth may be 0.
    pub extent: [u64; 3],
    /// `CUarray_format`.
    pub format: u32,
    /// Per element.
    pub channels: u32,
    /// `CUDA_ARRAY3D_*`.
    pub flags: u32,
}

/// Bytes of a channel.
fn channel(format: u32) -> u64 {
    match format {
        // 8 bits, block-compressed and planar video formats: at most one byte per pixel and channel.
        0x01 | 0x08 | 0x91..=0x9e | 0xb0 | 0xc0..=0xc2 | 0xc6..=0xc8 => 1,
        // 16 bits, half.
        0x02 | 0x09 | 0x10 | 0xc3..=0xc5 | 0xc9..=0xcb => 2,
        // 32 bits, float, and what a newer CUDA may add.
        _ => 4,
    }
}

impl Array {
    /// Bytes with so many levels, each half of the one before; `None` past 64 bits.
    pub fn bytes(&self, levels: u32) -> Option<u64> {
        if self.flags & MAPPED_LATER != 0 {
            return Some(0);
        }
        let element = channel(self.format).checked_mul(self.channels.max(1).into())?;
        let [mut width, mut height, mut depth] = self.extent;
        let mut sum = 0u64;
        for _ in 0..levels.clamp(1, 32) {
            let row = width.max(1).checked_mul(element)?.checked_next_multiple_of(TILE_WIDTH)?;
            let rows = if height == 0 { 1 } else { height.checked_next_multiple_of(TILE_HEIGHT)? };
            sum = sum.checked_add(row.checked_mul(rows)?.checked_mul(depth.max(1))?)?;
            (width, height, depth) =
                (width / 2, if height == 0 { 0 } else { (height / 2).max(1) }, depth / 2);
        }
        Some(sum)
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    const FLOAT: u32 = 0x20;

    #[test]
    fn an_array_takes_whole_tiles() {
        let of = |extent, channels| Array { extent, format: FLOAT, channels, flags: 0 }.bytes(1);
        assert_eq!(of([1024, 0, 0], 1), Some(4096));
        assert_eq!(of([1024, 1024, 0], 4), Some(16 << 20));
        assert_eq!(of([1, 1, 0], 1), Some(512));
        assert_eq!(of([u64::MAX, 2, 0], 4), None);
    }

    #[test]
    fn levels_halve() {
        let array = Array { extent: [64, 64, 0], format: 1, channels: 1, flags: 0 };
        assert_eq!(array.bytes(2), Some(4096 + 64 * 32));
    }

    #[test]
    fn memory_mapped_later_is_paid_later() {
        let array = Array { extent: [64, 64, 0], format: 1, channels: 1, flags: 0x40 };
        assert_eq!(array.bytes(1), Some(0));
    }
}
