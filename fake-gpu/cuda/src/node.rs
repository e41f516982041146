//! Nodes of graphs: what each does, and in what form cuda.h describes it.

use std::ffi::c_void;

use crate::driver::Driver;
use crate::launch::Shape;
use crate::{Code, INVALID_VALUE};

/// What a node does.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Nanoseconds.
    Kernel(u64),
    Copy(crate::copy::Transfer),
    Set(crate::set::Set),
    Host {
        function: usize,
        data: usize,
    },
    Child(usize),
    Empty,
    Wait,
    Record(usize),
    /// GPU, bytes as asked, address.
    Alloc {
        gpu: usize,
        bytes: u64,
        address: u64,
    },
    Free(u64),
}

impl Kind {
    /// `CUgraphNodeType`.
    pub(crate) fn number(&self) -> i32 {
        match self {
            Self::Kernel(_) => 0,
            Self::Copy(_) => 1,
            Self::Set(_) => 2,
            Self::Host { .. } => 3,
            Self::Child(_) => 4,
            Self::Empty => 5,
            Self::Wait => 6,
            Self::Record(_) => 7,
            Self::Alloc { .. } => 10,
            Self::Free(_) => 11,
        }
    }
}

/// `CUDA_KERNEL_NODE_PARAMS` of CUDA 12; the first version ends behind `extra`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KernelParams {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: usize,
    context: usize,
}

/// Bytes of the first version.
pub(crate) const KERNEL_PARAMS_V1: usize = 56;

impl KernelParams {
    /// # Safety
    /// `from` is null or valid for so many bytes.
    pub(crate) unsafe fn read(from: *const c_void, bytes: usize) -> Result<Self, Code> {
        if from.is_null() {
            return Err(INVALID_VALUE);
        }
        let none = std::ptr::null_mut();
        let (function, shared, kernel, context) = (0, 0, 0, 0);
        let mut params = Self {
            function,
            grid: [0; 3],
            block: [0; 3],
            shared,
            parameters: none,
            extra: none,
            kernel,
            context,
        };
        let to = (&raw mut params).cast::<u8>();
        // SAFETY: both are valid for so many bytes, and any bytes are a value of the structure.
        unsafe { to.copy_from_nonoverlapping(from.cast(), bytes.min(size_of::<Self>())) };
        Ok(params)
    }

    /// # Safety
    /// The parameters are those of the function.
    pub(crate) unsafe fn kind(&self, driver: &Driver) -> Result<Kind, Code> {
        let function = if self.function != 0 { self.function } else { self.kernel };
        let shape = Shape(self.grid, self.block);
        // SAFETY: passed on.
        let nanos = unsafe { crate::launch::nanos(driver, function, &shape, self.parameters, self.extra)? };
        Ok(Kind::Kernel(nanos))
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SetParams {
    to: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

impl SetParams {
    pub(crate) fn kind(&self) -> Result<Kind, Code> {
        if !matches!(self.element, 1 | 2 | 4) || self.width == 0 {
            return Err(INVALID_VALUE);
        }
        let (element, height) = (self.element as usize, self.height.max(1));
        let pattern = self.value.to_ne_bytes()[..element].to_vec();
        let (width, pitch) = (self.width, self.pitch);
        Ok(Kind::Set(crate::set::Set { to: self.to, pattern, width, height, pitch }))
    }
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AllocParams {
    pub(crate) pool: crate::pool::PoolProps,
    access: *const c_void,
    access_count: usize,
    pub(crate) bytes: usize,
    pub(crate) address: u64,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct HostParams {
    pub(crate) function: usize,
    pub(crate) data: usize,
}

/// `CUgraphNodeParams`: a type and one of the others.
#[repr(C)]
#[derive(Debug)]
pub struct NodeParams {
    pub(crate) kind: i32,
    reserved: [i32; 3],
    pub(crate) params: [u64; 29],
    reserved_2: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_those_of_cuda_h() {
        assert_eq!(
            (size_of::<KernelParams>(), std::mem::offset_of!(KernelParams, kernel)),
            (72, KERNEL_PARAMS_V1)
        );
        assert_eq!(
            (size_of::<SetParams>(), size_of::<AllocParams>(), size_of::<NodeParams>()),
            (40, 120, 256)
        );
        assert_eq!(std::mem::offset_of!(AllocParams, bytes), 104);
    }
}
