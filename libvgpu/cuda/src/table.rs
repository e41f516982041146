//! The entry points with a hook: class, name, first version, first version it is not the answer at, per-thread
//! stream flavour, exported name, arguments. Written by `libvgpu/generate/entry_points.py`; do not edit.

/// Up to here the table knows every ABI.
pub(crate) const KNOWN_VERSION: i32 = 13050;

/// Hands the rows to another macro.
macro_rules! entry_points {
    ($with:ident) => {
        $with! {
            Charge "cuArray3DCreate" 2000 3020 false cuArray3DCreate(a: *mut usize, b: *const c_void);
            Charge "cuArray3DCreate" 3020 2147483647 false cuArray3DCreate_v2(a: *mut usize, b: *const abi::Array3dDescriptor);
            Charge "cuArrayCreate" 2000 3020 false cuArrayCreate(a: *mut usize, b: *const c_void);
            Charge "cuArrayCreate" 3020 2147483647 false cuArrayCreate_v2(a: *mut usize, b: *const abi::ArrayDescriptor);
            Charge "cuArrayDestroy" 2000 2147483647 false cuArrayDestroy(a: usize);
            Charge "cuCtxCreate" 2000 3020 false cuCtxCreate(a: *mut usize, b: u32, c: i32);
            Charge "cuCtxCreate" 3020 11040 false cuCtxCreate_v2(a: *mut usize, b: u32, c: i32);
            Charge "cuCtxCreate" 11040 12050 false cuCtxCreate_v3(a: *mut usize, b: *mut c_void, c: i32, d: u32, e: i32);
            Charge "cuCtxCreate" 12050 2147483647 false cuCtxCreate_v4(a: *mut usize, b: *mut c_void, c: u32, d: i32);
            Charge "cuCtxDestroy" 2000 4000 false cuCtxDestroy(a: usize);
            Charge "cuCtxDestroy" 4000 2147483647 false cuCtxDestroy_v2(a: usize);
            Order "cuCtxPopCurrent" 2000 4000 false cuCtxPopCurrent(a: *mut usize);
            Order "cuCtxPopCurrent" 4000 2147483647 false cuCtxPopCurrent_v2(a: *mut usize);
            Order "cuCtxPushCurrent" 2000 4000 false cuCtxPushCurrent(a: usize);
            Order "cuCtxPushCurrent" 4000 2147483647 false cuCtxPushCurrent_v2(a: usize);
            Order "cuCtxSetCurrent" 4000 2147483647 false cuCtxSetCurrent(a: usize);
            Order "cuCtxSynchronize" 2000 13000 false cuCtxSynchronize();
            Order "cuCtxSynchronize" 13000 2147483647 false cuCtxSynchronize_v2(a: usize);
            Charge "cuDeviceGraphMemTrim" 11040 2147483647 false cuDeviceGraphMemTrim(a: i32);
            Charge "cuDevicePrimaryCtxRelease" 7000 11000 false cuDevicePrimaryCtxRelease(a: i32);
            Charge "cuDevicePrimaryCtxRelease" 11000 2147483647 false cuDevicePrimaryCtxRelease_v2(a: i32);
            Charge "cuDevicePrimaryCtxReset" 7000 11000 false cuDevicePrimaryCtxReset(a: i32);
            Charge "cuDevicePrimaryCtxReset" 11000 2147483647 false cuDevicePrimaryCtxReset_v2(a: i32);
            Charge "cuDevicePrimaryCtxRetain" 7000 2147483647 false cuDevicePrimaryCtxRetain(a: *mut usize, b: i32);
            Report "cuDeviceTotalMem" 2000 3020 false cuDeviceTotalMem(a: *mut u32, b: i32);
            Report "cuDeviceTotalMem" 3020 2147483647 false cuDeviceTotalMem_v2(a: *mut usize, b: i32);
            Order "cuEventQuery" 2000 2147483647 false cuEventQuery(a: usize);
            Order "cuEventSynchronize" 2000 2147483647 false cuEventSynchronize(a: usize);
            Dispatch "cuGetProcAddress" 11030 12000 false cuGetProcAddress(a: *const c_char, b: *mut *mut c_void, c: i32, d: u64);
            Dispatch "cuGetProcAddress" 12000 2147483647 false cuGetProcAddress_v2(a: *const c_char, b: *mut *mut c_void, c: i32, d: u64, e: *mut i32);
            Charge "cuGraphAddMemAllocNode" 11040 2147483647 false cuGraphAddMemAllocNode(a: *mut usize, b: usize, c: *const usize, d: usize, e: *mut abi::AllocNode);
            Charge "cuGraphAddNode" 12020 12030 false cuGraphAddNode(a: *mut usize, b: usize, c: *const usize, d: usize, e: *mut abi::NodeParameters);
            Charge "cuGraphAddNode" 12030 13040 false cuGraphAddNode_v2(a: *mut usize, b: usize, c: *const usize, d: *const c_void, e: usize, f: *mut abi::NodeParameters);
            Charge "cuGraphAddNode" 13040 2147483647 false cuGraphAddNode_v3(a: *mut usize, b: usize, c: *const usize, d: *const c_void, e: usize, f: *mut abi::NodeParameters);
            Charge "cuGraphClone" 10000 2147483647 false cuGraphClone(a: *mut usize, b: usize);
            Charge "cuGraphDestroy" 10000 2147483647 false cuGraphDestroy(a: usize);
            Charge "cuGraphExecDestroy" 10000 2147483647 false cuGraphExecDestroy(a: usize);
            Charge "cuGraphInstantiate" 10000 11000 false cuGraphInstantiate(a: *mut usize, b: usize, c: *mut usize, d: *mut c_char, e: usize);
            Charge "cuGraphInstantiate" 11000 2147483647 false cuGraphInstantiate_v2(a: *mut usize, b: usize, c: *mut usize, d: *mut c_char, e: usize);
            Charge "cuGraphInstantiateWithFlags" 11040 2147483647 false cuGraphInstantiateWithFlags(a: *mut usize, b: usize, c: u64);
            Charge "cuGraphInstantiateWithParams" 12000 2147483647 false cuGraphInstantiateWithParams(a: *mut usize, b: usize, c: *mut c_void);
            Charge "cuGraphInstantiateWithParams" 12000 2147483647 true cuGraphInstantiateWithParams_ptsz(a: *mut usize, b: usize, c: *mut c_void);
            Meter "cuGraphLaunch" 10000 2147483647 false cuGraphLaunch(a: usize, b: usize);
            Meter "cuGraphLaunch" 10000 2147483647 true cuGraphLaunch_ptsz(a: usize, b: usize);
            Charge "cuGraphUpload" 11010 2147483647 false cuGraphUpload(a: usize, b: usize);
            Charge "cuGraphUpload" 11010 2147483647 true cuGraphUpload_ptsz(a: usize, b: usize);
            Charge "cuIpcGetMemHandle" 4010 2147483647 false cuIpcGetMemHandle(a: *mut c_void, b: u64);
            Meter "cuLaunch" 2000 2147483647 false cuLaunch(a: usize);
            Meter "cuLaunchCooperativeKernel" 9000 2147483647 false cuLaunchCooperativeKernel(a: usize, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: usize, j: *mut *mut c_void);
            Meter "cuLaunchCooperativeKernel" 9000 2147483647 true cuLaunchCooperativeKernel_ptsz(a: usize, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: usize, j: *mut *mut c_void);
            Meter "cuLaunchCooperativeKernelMultiDevice" 9000 2147483647 false cuLaunchCooperativeKernelMultiDevice(a: *mut abi::LaunchParameters, b: u32, c: u32);
            Meter "cuLaunchGrid" 2000 2147483647 false cuLaunchGrid(a: usize, b: i32, c: i32);
            Meter "cuLaunchGridAsync" 2000 2147483647 false cuLaunchGridAsync(a: usize, b: i32, c: i32, d: usize);
            Meter "cuLaunchKernel" 4000 2147483647 false cuLaunchKernel(a: usize, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: usize, j: *mut *mut c_void, k: *mut *mut c_void);
            Meter "cuLaunchKernel" 7000 2147483647 true cuLaunchKernel_ptsz(a: usize, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: usize, j: *mut *mut c_void, k: *mut *mut c_void);
            Meter "cuLaunchKernelEx" 11060 2147483647 false cuLaunchKernelEx(a: *const abi::LaunchConfig, b: usize, c: *mut *mut c_void, d: *mut *mut c_void);
            Meter "cuLaunchKernelEx" 11060 2147483647 true cuLaunchKernelEx_ptsz(a: *const abi::LaunchConfig, b: usize, c: *mut *mut c_void, d: *mut *mut c_void);
            Charge "cuMemAlloc" 2000 3020 false cuMemAlloc(a: *mut u32, b: u32);
            Charge "cuMemAlloc" 3020 2147483647 false cuMemAlloc_v2(a: *mut u64, b: usize);
            Charge "cuMemAllocAsync" 11020 2147483647 false cuMemAllocAsync(a: *mut u64, b: usize, c: usize);
            Charge "cuMemAllocAsync" 11020 2147483647 true cuMemAllocAsync_ptsz(a: *mut u64, b: usize, c: usize);
            Charge "cuMemAllocFromPoolAsync" 11020 2147483647 false cuMemAllocFromPoolAsync(a: *mut u64, b: usize, c: usize, d: usize);
            Charge "cuMemAllocFromPoolAsync" 11020 2147483647 true cuMemAllocFromPoolAsync_ptsz(a: *mut u64, b: usize, c: usize, d: usize);
            Charge "cuMemAllocManaged" 6000 2147483647 false cuMemAllocManaged(a: *mut u64, b: usize, c: u32);
            Charge "cuMemAllocPitch" 2000 3020 false cuMemAllocPitch(a: *mut u32, b: *mut u32, c: u32, d: u32, e: u32);
            Charge "cuMemAllocPitch" 3020 2147483647 false cuMemAllocPitch_v2(a: *mut u64, b: *mut usize, c: usize, d: usize, e: u32);
            Charge "cuMemCreate" 10020 2147483647 false cuMemCreate(a: *mut u64, b: usize, c: *const abi::AllocationProperties, d: u64);
            Charge "cuMemFree" 2000 3020 false cuMemFree(a: u32);
            Charge "cuMemFree" 3020 2147483647 false cuMemFree_v2(a: u64);
            Charge "cuMemFreeAsync" 11020 2147483647 false cuMemFreeAsync(a: u64, b: usize);
            Charge "cuMemFreeAsync" 11020 2147483647 true cuMemFreeAsync_ptsz(a: u64, b: usize);
            Report "cuMemGetInfo" 2000 3020 false cuMemGetInfo(a: *mut u32, b: *mut u32);
            Report "cuMemGetInfo" 3020 2147483647 false cuMemGetInfo_v2(a: *mut usize, b: *mut usize);
            Charge "cuMemImportFromShareableHandle" 10020 2147483647 false cuMemImportFromShareableHandle(a: *mut u64, b: *mut c_void, c: i32);
            Charge "cuMemMap" 10020 2147483647 false cuMemMap(a: u64, b: usize, c: usize, d: u64, e: u64);
            Charge "cuMemPoolCreate" 11020 2147483647 false cuMemPoolCreate(a: *mut usize, b: *const abi::PoolProperties);
            Charge "cuMemPoolDestroy" 11020 2147483647 false cuMemPoolDestroy(a: usize);
            Charge "cuMemPoolTrimTo" 11020 2147483647 false cuMemPoolTrimTo(a: usize, b: usize);
            Charge "cuMemRelease" 10020 2147483647 false cuMemRelease(a: u64);
            Charge "cuMemRetainAllocationHandle" 11000 2147483647 false cuMemRetainAllocationHandle(a: *mut u64, b: *mut c_void);
            Charge "cuMemUnmap" 10020 2147483647 false cuMemUnmap(a: u64, b: usize);
            Order "cuMemcpyDtoH" 2000 3020 false cuMemcpyDtoH(a: *mut c_void, b: u32, c: u32);
            Order "cuMemcpyDtoH" 3020 2147483647 false cuMemcpyDtoH_v2(a: *mut c_void, b: u64, c: usize);
            Order "cuMemcpyDtoH" 7000 2147483647 true cuMemcpyDtoH_v2_ptds(a: *mut c_void, b: u64, c: usize);
            Charge "cuMipmappedArrayCreate" 5000 2147483647 false cuMipmappedArrayCreate(a: *mut usize, b: *const abi::Array3dDescriptor, c: u32);
            Charge "cuMipmappedArrayDestroy" 5000 2147483647 false cuMipmappedArrayDestroy(a: usize);
            Order "cuStreamBeginCapture" 10000 10010 false cuStreamBeginCapture(a: usize);
            Order "cuStreamBeginCapture" 10000 10010 true cuStreamBeginCapture_ptsz(a: usize);
            Order "cuStreamBeginCapture" 10010 2147483647 false cuStreamBeginCapture_v2(a: usize, b: i32);
            Order "cuStreamBeginCapture" 10010 2147483647 true cuStreamBeginCapture_v2_ptsz(a: usize, b: i32);
            Order "cuStreamBeginCaptureToCig" 13010 2147483647 false cuStreamBeginCaptureToCig(a: usize, b: *mut c_void);
            Order "cuStreamBeginCaptureToCig" 13010 2147483647 true cuStreamBeginCaptureToCig_ptsz(a: usize, b: *mut c_void);
            Order "cuStreamBeginCaptureToGraph" 12030 2147483647 false cuStreamBeginCaptureToGraph(a: usize, b: usize, c: *const usize, d: *const c_void, e: usize, f: i32);
            Order "cuStreamBeginCaptureToGraph" 12030 2147483647 true cuStreamBeginCaptureToGraph_ptsz(a: usize, b: usize, c: *const usize, d: *const c_void, e: usize, f: i32);
            Order "cuStreamBeginRecaptureToGraph" 13030 2147483647 false cuStreamBeginRecaptureToGraph(a: usize, b: i32, c: usize, d: *const c_void, e: *mut c_void);
            Order "cuStreamBeginRecaptureToGraph" 13030 2147483647 true cuStreamBeginRecaptureToGraph_ptsz(a: usize, b: i32, c: usize, d: *const c_void, e: *mut c_void);
            Charge "cuStreamEndCapture" 10000 2147483647 false cuStreamEndCapture(a: usize, b: *mut usize);
            Charge "cuStreamEndCapture" 10000 2147483647 true cuStreamEndCapture_ptsz(a: usize, b: *mut usize);
            Order "cuStreamEndCaptureToCig" 13010 2147483647 false cuStreamEndCaptureToCig(a: usize);
            Order "cuStreamEndCaptureToCig" 13010 2147483647 true cuStreamEndCaptureToCig_ptsz(a: usize);
            Order "cuStreamQuery" 2000 2147483647 false cuStreamQuery(a: usize);
            Order "cuStreamQuery" 7000 2147483647 true cuStreamQuery_ptsz(a: usize);
            Order "cuStreamSynchronize" 2000 2147483647 false cuStreamSynchronize(a: usize);
            Order "cuStreamSynchronize" 7000 2147483647 true cuStreamSynchronize_ptsz(a: usize);
        }
    };
}
pub(crate) use entry_points;
