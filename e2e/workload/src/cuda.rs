//! The few calls of the CUDA driver API the programs make.

use std::ffi::{CStr, CString, c_char, c_void};

use libloading::{Library, Symbol};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CudaError {
    /// The library or a symbol of it.
    #[error("libcuda.so.1: {0}")]
    Load(#[from] libloading::Error),
    /// A CUresult.
    #[error("{call}: {name}")]
    Call {
        /// Function.
        call: &'static str,
        /// Number.
        code: i32,
        /// Name of the number.
        name: String,
    },
    /// Standard output.
    #[error("cannot print the result: {0}")]
    Output(std::io::Error),
}

impl CudaError {
    /// Whether CUDA said so, and nothing else.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Call { code: OUT_OF_MEMORY, .. })
    }

    /// `CUDA_ERROR_...`, if it is one.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Call { name, .. } => Some(name.clone()),
            _ => None,
        }
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(crate) const OUT_OF_MEMORY: i32 = 2;

/// Spins for so many nanoseconds of the GPU's global timer.
const PTX: &CStr = c".version 6.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u64 nanoseconds)
{
    .reg .pred %p;
    .reg .b64 %start, %now, %passed, %length;
    ld.param.u64 %length, [nanoseconds];
    mov.u64 %start, %globaltimer;
again:
    mov.u64 %now, %globaltimer;
    sub.u64 %passed, %now, %start;
    setp.lt.u64 %p, %passed, %length;
    @%p bra again;
    ret;
}
";

/// The library, with a context on one device.
pub(crate) struct Cuda {
    library: Library,
}

/// An event of the context.
#[derive(Clone, Copy)]
pub(crate) struct Event(usize);

/// `CU_EVENT_BLOCKING_SYNC`: waiting sleeps.
const BLOCKING_SYNC: u32 = 1;

/// A function of a loaded module.
#[derive(Clone, Copy)]
pub(crate) struct Function(usize);

macro_rules! call {
    ($self:ident, $name:ident($($value:expr => $type:ty),*)) => {{
        type Call = unsafe extern "C" fn($($type),*) -> i32;
        let name = concat!(stringify!($name), "\0").as_bytes();
        // SAFETY: the signature is that of cuda.h.
        let function: Symbol<'_, Call> = unsafe { $self.library.get(name)? };
        // SAFETY: pointers among the arguments are to locals of the caller.
        let code = unsafe { function($($value),*) };
        $self.check(stringify!($name), code)
    }};
}

impl Cuda {
    /// Loads the library and initialises it.
    pub(crate) fn load() -> Result<Self, CudaError> {
        // SAFETY: a CUDA driver library may be loaded by any program.
        let library = unsafe { Library::new("libcuda.so.1")? };
        let cuda = Self { library };
        call!(cuda, cuInit(0 => u32))?;
        Ok(cuda)
    }

    fn check(&self, call: &'static str, code: i32) -> Result<(), CudaError> {
        if code == 0 { Ok(()) } else { Err(CudaError::Call { call, code, name: self.error_name(code) }) }
    }

    /// `CUDA_ERROR_...`.
    pub(crate) fn error_name(&self, code: i32) -> String {
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: the signature is that of cuda.h, the pointer is to a local, the result is a static C string.
        unsafe {
            let get: Result<Symbol<'_, unsafe extern "C" fn(i32, *mut *const c_char) -> i32>, _> =
                self.library.get(b"cuGetErrorName\0");
            match get {
                Ok(get) if get(code, &raw mut name) == 0 && !name.is_null() => {
                    CStr::from_ptr(name).to_string_lossy().into_owned()
                }
                _ => format!("CUresult {code}"),
            }
        }
    }

    /// Number of devices.
    pub(crate) fn devices(&self) -> Result<i32, CudaError> {
        let mut count = 0;
        call!(self, cuDeviceGetCount(&raw mut count => *mut i32))?;
        Ok(count)
    }

    /// UUID of a device as nvidia-smi prints it.
    pub(crate) fn uuid(&self, device: i32) -> Result<String, CudaError> {
        let mut bytes = [0u8; 16];
        call!(self, cuDeviceGetUuid(&raw mut bytes => *mut [u8; 16], device => i32))?;
        let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let part = |range: std::ops::Range<usize>| hex[range].concat();
        Ok(format!("GPU-{}-{}-{}-{}-{}", part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)))
    }

    /// Product name of a device.
    pub(crate) fn name(&self, device: i32) -> Result<String, CudaError> {
        let mut name = [0u8; 256];
        call!(self, cuDeviceGetName(name.as_mut_ptr().cast() => *mut c_char, 256 => i32, device => i32))?;
        Ok(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Memory of a device.
    pub(crate) fn total_memory(&self, device: i32) -> Result<usize, CudaError> {
        let mut bytes = 0;
        call!(self, cuDeviceTotalMem_v2(&raw mut bytes => *mut usize, device => i32))?;
        Ok(bytes)
    }

    /// Makes a device's context current.
    pub(crate) fn use_device(&self, device: i32) -> Result<(), CudaError> {
        let mut context = 0usize;
        call!(self, cuDevicePrimaryCtxRetain(&raw mut context => *mut usize, device => i32))?;
        call!(self, cuCtxSetCurrent(context => usize))
    }

    /// Free and total memory.
    pub(crate) fn memory(&self) -> Result<(usize, usize), CudaError> {
        let (mut free, mut total) = (0, 0);
        call!(self, cuMemGetInfo_v2(&raw mut free => *mut usize, &raw mut total => *mut usize))?;
        Ok((free, total))
    }

    /// Allocates.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64, CudaError> {
        let mut address = 0;
        call!(self, cuMemAlloc_v2(&raw mut address => *mut u64, bytes => usize))?;
        Ok(address)
    }

    /// Loads the spinning kernel.
    pub(crate) fn spin_function(&self) -> Result<Function, CudaError> {
        let (mut module, mut function) = (0usize, 0usize);
        let name = CString::from(c"spin");
        call!(self, cuModuleLoadData(&raw mut module => *mut usize, PTX.as_ptr().cast() => *const c_void))?;
        call!(self, cuModuleGetFunction(&raw mut function => *mut usize, module => usize, name.as_ptr() => *const c_char))?;
        Ok(Function(function))
    }

    /// Launches it once.
    pub(crate) fn spin(&self, function: Function, nanos: u64) -> Result<(), CudaError> {
        let mut length = nanos;
        let mut parameters = [(&raw mut length).cast::<c_void>()];
        call!(
            self,
            cuLaunchKernel(
                function.0 => usize, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 0 => u32,
                0 => usize, parameters.as_mut_ptr() => *mut *mut c_void, std::ptr::null_mut() => *mut *mut c_void
            )
        )
    }

    /// A timed event.
    pub(crate) fn event(&self) -> Result<Event, CudaError> {
        let mut event = 0usize;
        call!(self, cuEventCreate(&raw mut event => *mut usize, BLOCKING_SYNC => u32))?;
        Ok(Event(event))
    }

    /// Records an event behind what was launched.
    pub(crate) fn record(&self, event: Event) -> Result<(), CudaError> {
        call!(self, cuEventRecord(event.0 => usize, 0 => usize))
    }

    /// Waits for an event.
    pub(crate) fn wait(&self, event: Event) -> Result<(), CudaError> {
        call!(self, cuEventSynchronize(event.0 => usize))
    }

    /// GPU time between two events that were reached.
    pub(crate) fn elapsed_nanos(&self, start: Event, end: Event) -> Result<u64, CudaError> {
        let mut millis = 0f32;
        call!(self, cuEventElapsedTime(&raw mut millis => *mut f32, start.0 => usize, end.0 => usize))?;
        Ok((f64::from(millis) * 1e6) as u64)
    }
}
