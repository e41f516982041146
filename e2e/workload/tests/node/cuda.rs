//! Calls of the fake driver from inside a test.

use std::ffi::{CStr, c_char, c_void};

use libloading::Library;

use super::Node;

pub(crate) const PTX: &CStr = c".version 6.0\n.target sm_50\n.visible .entry spin(.param .u64 n)\n{ ret; }\n.visible .entry other()\n{ ret; }\n";

/// The driver as a program calls it. A library of its own per test: each driver root is another file.
pub(crate) struct Cuda(pub(crate) Library);

macro_rules! cu {
    ($cuda:expr, $name:ident($($value:expr => $type:ty),*)) => {{
        // SAFETY: the signature is that of cuda.h, pointers among the arguments are to locals.
        unsafe {
            let function: libloading::Symbol<'_, unsafe extern "C" fn($($type),*) -> i32> =
                $cuda.0.get(concat!(stringify!($name), "\0").as_bytes()).unwrap();
            function($($value),*)
        }
    }};
}

pub(crate) use cu;

impl Cuda {
    pub(crate) fn load(node: &Node) -> Self {
        // SAFETY: the library has no initialisers.
        Self(unsafe { Library::new(node.path("lib/libcuda.so.1")) }.unwrap())
    }

    /// With a context on device 0.
    pub(crate) fn start(node: &Node) -> Self {
        let cuda = Self::load(node);
        let mut context = 0usize;
        assert_eq!(cu!(cuda, cuInit(0 => u32)), 0);
        assert_eq!(cu!(cuda, cuCtxCreate_v2(&raw mut context => *mut usize, 0 => u32, 0 => i32)), 0);
        cuda
    }

    pub(crate) fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        assert_eq!(cu!(self, cuMemAlloc_v2(&raw mut address => *mut u64, bytes => usize)), 0);
        address
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let mut free = 0usize;
        let none = std::ptr::null_mut();
        assert_eq!(cu!(self, cuMemGetInfo_v2(&raw mut free => *mut usize, none => *mut usize)), 0);
        free as u64
    }

    pub(crate) fn event(&self) -> usize {
        let mut event = 0usize;
        assert_eq!(cu!(self, cuEventCreate(&raw mut event => *mut usize, 0 => u32)), 0);
        event
    }

    pub(crate) fn function(&self, name: &CStr) -> usize {
        let (mut module, mut function) = (0usize, 0usize);
        let image = PTX.as_ptr().cast();
        assert_eq!(cu!(self, cuModuleLoadData(&raw mut module => *mut usize, image => *const c_void)), 0);
        let found = cu!(self, cuModuleGetFunction(&raw mut function => *mut usize, module => usize, name.as_ptr() => *const c_char));
        assert_eq!(found, 0);
        function
    }

    /// On the default stream.
    pub(crate) fn launch(&self, function: usize, nanos: u64) -> i32 {
        self.launch_on(0, function, nanos)
    }

    pub(crate) fn launch_on(&self, stream: usize, function: usize, mut nanos: u64) -> i32 {
        let mut parameters = [(&raw mut nanos).cast::<c_void>()];
        cu!(self, cuLaunchKernel(
            function => usize, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 0 => u32, stream => usize,
            parameters.as_mut_ptr() => *mut *mut c_void, std::ptr::null_mut() => *mut *mut c_void))
    }

    pub(crate) fn stream(&self) -> usize {
        let mut stream = 0usize;
        assert_eq!(cu!(self, cuStreamCreate(&raw mut stream => *mut usize, 1 => u32)), 0);
        stream
    }

    pub(crate) fn synchronize(&self) {
        assert_eq!(cu!(self, cuCtxSynchronize()), 0);
    }
}
