//! The arguments of cuda.h that hooks read, as far as they are read.

use std::ffi::c_void;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Location {
    kind: i32,
    id: i32,
}

impl Location {
    /// Ordinal of the GPU, if it is one's memory (`CU_MEM_LOCATION_TYPE_DEVICE`).
    pub(crate) fn device(self) -> Option<i32> {
        (self.kind == 1).then_some(self.id)
    }
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Debug)]
pub struct AllocationProperties {
    kind: i32,
    handle_types: i32,
    pub(crate) location: Location,
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Debug)]
pub struct PoolProperties {
    kind: i32,
    handle_types: i32,
    pub(crate) location: Location,
    security: *mut c_void,
    max_size: usize,
    reserved: [u64; 7],
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Debug)]
pub struct ArrayDescriptor {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) format: u32,
    pub(crate) channels: u32,
}

/// `CUDA_ARRAY_DESCRIPTOR` of the first ABI.
#[repr(C)]
#[derive(Debug)]
pub struct ArrayDescriptorV1 {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) format: u32,
    pub(crate) channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Debug)]
pub struct Array3dDescriptor {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
    pub(crate) format: u32,
    pub(crate) channels: u32,
    pub(crate) flags: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR` of the first ABI.
#[repr(C)]
#[derive(Debug)]
pub struct Array3dDescriptorV1 {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) depth: u32,
    pub(crate) format: u32,
    pub(crate) channels: u32,
    pub(crate) flags: u32,
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug)]
pub struct AllocNode {
    pub(crate) pool: PoolProperties,
    access: *const c_void,
    access_count: usize,
    pub(crate) bytes: usize,
    address: u64,
}

/// `CUgraphNodeParams` with the union as an allocation.
#[repr(C)]
#[derive(Debug)]
pub struct NodeParameters {
    pub(crate) kind: i32,
    reserved: [i32; 3],
    pub(crate) alloc: AllocNode,
}

/// `CU_GRAPH_NODE_TYPE_MEM_ALLOC`.
pub(crate) const ALLOC_NODE: i32 = 10;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchConfig {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    shared: u32,
    pub(crate) stream: usize,
    attributes: *mut c_void,
    count: u32,
}

/// `CUDA_LAUNCH_PARAMS`.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchParameters {
    pub(crate) function: usize,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    shared: u32,
    pub(crate) stream: usize,
    parameters: *mut *mut c_void,
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn offsets_are_those_of_cuda_h() {
        assert_eq!(offset_of!(AllocationProperties, location), 8);
        assert_eq!((size_of::<PoolProperties>(), offset_of!(PoolProperties, location)), (88, 8));
        assert_eq!((offset_of!(AllocNode, bytes), size_of::<AllocNode>()), (104, 120));
        assert_eq!(offset_of!(NodeParameters, alloc), 16);
        assert_eq!((offset_of!(ArrayDescriptor, format), size_of::<ArrayDescriptor>()), (16, 24));
        assert_eq!((offset_of!(Array3dDescriptor, format), size_of::<Array3dDescriptor>()), (24, 40));
        assert_eq!((offset_of!(LaunchConfig, stream), size_of::<LaunchConfig>()), (32, 56));
        assert_eq!((offset_of!(LaunchParameters, stream), size_of::<LaunchParameters>()), (40, 56));
    }
}
