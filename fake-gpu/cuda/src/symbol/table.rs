//! Every name with the CUDA version each of its ABIs came with.

use std::ffi::c_void;

use crate::graph::{exec, memory as graph_memory};
use crate::symbol as lookup;
use crate::{
    array, attribute, capture, code, context, copy, device, driver, event, function, graph, host, ipc,
    launch, legacy, library, limit, memory, module, pointer, pool, set, stream, vmm,
};

pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) version: i32,
    pub(super) per_thread: bool,
    pub(super) function: *const c_void,
}
// SAFETY: the pointers are addresses of functions, which never change.
unsafe impl Sync for Entry {}

macro_rules! table {
    ($($module:ident: $($name:literal $version:literal $([per_thread = $flag:literal])? $function:ident;)*)*) => {
        &[$($(Entry {
            name: $name,
            version: $version,
            per_thread: false $(|| $flag)?,
            function: $module::$function as *const c_void,
        }),*),*]
    };
}

pub(super) static TABLE: &[Entry] = table! {
    driver:
    "cuInit" 2000 cuInit;
    "cuDriverGetVersion" 2020 cuDriverGetVersion;
    code:
    "cuGetErrorName" 6000 cuGetErrorName;
    "cuGetErrorString" 6000 cuGetErrorString;
    lookup:
    "cuGetProcAddress" 11030 cuGetProcAddress;
    "cuGetProcAddress" 12000 cuGetProcAddress_v2;
    "cuGetExportTable" 3000 cuGetExportTable;
    device:
    "cuDeviceGetCount" 2000 cuDeviceGetCount;
    "cuDeviceGet" 2000 cuDeviceGet;
    "cuDeviceGetName" 2000 cuDeviceGetName;
    "cuDeviceGetUuid" 9020 cuDeviceGetUuid;
    "cuDeviceGetUuid" 11040 cuDeviceGetUuid_v2;
    "cuDeviceTotalMem" 2000 cuDeviceTotalMem;
    "cuDeviceTotalMem" 3020 cuDeviceTotalMem_v2;
    "cuDeviceGetPCIBusId" 4010 cuDeviceGetPCIBusId;
    "cuDeviceGetByPCIBusId" 4010 cuDeviceGetByPCIBusId;
    attribute:
    "cuDeviceGetAttribute" 2000 cuDeviceGetAttribute;
    "cuDeviceComputeCapability" 2000 cuDeviceComputeCapability;
    context:
    "cuCtxCreate" 2000 cuCtxCreate;
    "cuCtxCreate" 3020 cuCtxCreate_v2;
    "cuCtxCreate" 11040 cuCtxCreate_v3;
    "cuCtxCreate" 12050 cuCtxCreate_v4;
    "cuCtxDestroy" 2000 cuCtxDestroy;
    "cuCtxDestroy" 4000 cuCtxDestroy_v2;
    "cuCtxSetCurrent" 4000 cuCtxSetCurrent;
    "cuCtxGetCurrent" 4000 cuCtxGetCurrent;
    "cuCtxPushCurrent" 2000 cuCtxPushCurrent;
    "cuCtxPushCurrent" 4000 cuCtxPushCurrent_v2;
    "cuCtxPopCurrent" 2000 cuCtxPopCurrent;
    "cuCtxPopCurrent" 4000 cuCtxPopCurrent_v2;
    "cuCtxGetDevice" 2000 cuCtxGetDevice;
    "cuCtxGetFlags" 7000 cuCtxGetFlags;
    "cuCtxGetApiVersion" 3020 cuCtxGetApiVersion;
    "cuCtxGetStreamPriorityRange" 5050 cuCtxGetStreamPriorityRange;
    "cuCtxSynchronize" 2000 cuCtxSynchronize;
    "cuDevicePrimaryCtxRetain" 7000 cuDevicePrimaryCtxRetain;
    "cuDevicePrimaryCtxRelease" 7000 cuDevicePrimaryCtxRelease;
    "cuDevicePrimaryCtxRelease" 11000 cuDevicePrimaryCtxRelease_v2;
    "cuDevicePrimaryCtxReset" 7000 cuDevicePrimaryCtxReset;
    "cuDevicePrimaryCtxReset" 11000 cuDevicePrimaryCtxReset_v2;
    "cuDevicePrimaryCtxGetState" 7000 cuDevicePrimaryCtxGetState;
    "cuDevicePrimaryCtxSetFlags" 7000 cuDevicePrimaryCtxSetFlags;
    "cuDevicePrimaryCtxSetFlags" 11000 cuDevicePrimaryCtxSetFlags_v2;
    limit:
    "cuCtxSetLimit" 3010 cuCtxSetLimit;
    "cuCtxGetLimit" 3010 cuCtxGetLimit;
    memory:
    "cuMemAlloc" 2000 cuMemAlloc;
    "cuMemAlloc" 3020 cuMemAlloc_v2;
    "cuMemAllocPitch" 2000 cuMemAllocPitch;
    "cuMemAllocPitch" 3020 cuMemAllocPitch_v2;
    "cuMemAllocManaged" 6000 cuMemAllocManaged;
    "cuMemFree" 2000 cuMemFree;
    "cuMemFree" 3020 cuMemFree_v2;
    "cuMemGetInfo" 2000 cuMemGetInfo;
    "cuMemGetInfo" 3020 cuMemGetInfo_v2;
    "cuMemGetAddressRange" 3020 cuMemGetAddressRange_v2;
    "cuMemAdvise" 8000 cuMemAdvise;
    "cuMemAdvise" 12020 cuMemAdvise_v2;
    "cuMemPrefetchAsync" 8000 cuMemPrefetchAsync;
    "cuMemPrefetchAsync" 8000 [per_thread = true] cuMemPrefetchAsync_ptsz;
    "cuMemPrefetchAsync" 12020 cuMemPrefetchAsync_v2;
    "cuMemPrefetchAsync" 12020 [per_thread = true] cuMemPrefetchAsync_v2_ptsz;
    pool:
    "cuMemAllocAsync" 11020 cuMemAllocAsync;
    "cuMemAllocAsync" 11020 [per_thread = true] cuMemAllocAsync_ptsz;
    "cuMemAllocFromPoolAsync" 11020 cuMemAllocFromPoolAsync;
    "cuMemAllocFromPoolAsync" 11020 [per_thread = true] cuMemAllocFromPoolAsync_ptsz;
    "cuMemFreeAsync" 11020 cuMemFreeAsync;
    "cuMemFreeAsync" 11020 [per_thread = true] cuMemFreeAsync_ptsz;
    "cuMemPoolCreate" 11020 cuMemPoolCreate;
    "cuMemPoolDestroy" 11020 cuMemPoolDestroy;
    "cuMemPoolTrimTo" 11020 cuMemPoolTrimTo;
    "cuMemPoolGetAttribute" 11020 cuMemPoolGetAttribute;
    "cuMemPoolSetAttribute" 11020 cuMemPoolSetAttribute;
    "cuMemPoolSetAccess" 11020 cuMemPoolSetAccess;
    "cuDeviceGetDefaultMemPool" 11020 cuDeviceGetDefaultMemPool;
    "cuDeviceGetMemPool" 11020 cuDeviceGetMemPool;
    "cuDeviceSetMemPool" 11020 cuDeviceSetMemPool;
    vmm:
    "cuMemGetAllocationGranularity" 10020 cuMemGetAllocationGranularity;
    "cuMemCreate" 10020 cuMemCreate;
    "cuMemRelease" 10020 cuMemRelease;
    "cuMemRetainAllocationHandle" 11000 cuMemRetainAllocationHandle;
    "cuMemGetAllocationPropertiesFromHandle" 10020 cuMemGetAllocationPropertiesFromHandle;
    "cuMemAddressReserve" 10020 cuMemAddressReserve;
    "cuMemAddressFree" 10020 cuMemAddressFree;
    "cuMemMap" 10020 cuMemMap;
    "cuMemUnmap" 10020 cuMemUnmap;
    "cuMemSetAccess" 10020 cuMemSetAccess;
    "cuMemGetAccess" 10020 cuMemGetAccess;
    "cuMemExportToShareableHandle" 10020 cuMemExportToShareableHandle;
    "cuMemImportFromShareableHandle" 10020 cuMemImportFromShareableHandle;
    ipc:
    "cuIpcGetMemHandle" 4010 cuIpcGetMemHandle;
    "cuIpcOpenMemHandle" 4010 cuIpcOpenMemHandle;
    "cuIpcOpenMemHandle" 11000 cuIpcOpenMemHandle_v2;
    "cuIpcCloseMemHandle" 4010 cuIpcCloseMemHandle;
    array:
    "cuArrayCreate" 2000 cuArrayCreate;
    "cuArrayCreate" 3020 cuArrayCreate_v2;
    "cuArray3DCreate" 2000 cuArray3DCreate;
    "cuArray3DCreate" 3020 cuArray3DCreate_v2;
    "cuArrayDestroy" 2000 cuArrayDestroy;
    "cuArrayGetDescriptor" 3020 cuArrayGetDescriptor_v2;
    "cuArray3DGetDescriptor" 3020 cuArray3DGetDescriptor_v2;
    "cuArrayGetMemoryRequirements" 11060 cuArrayGetMemoryRequirements;
    "cuMipmappedArrayCreate" 5000 cuMipmappedArrayCreate;
    "cuMipmappedArrayGetLevel" 5000 cuMipmappedArrayGetLevel;
    "cuMipmappedArrayDestroy" 5000 cuMipmappedArrayDestroy;
    "cuMipmappedArrayGetMemoryRequirements" 11060 cuMipmappedArrayGetMemoryRequirements;
    host:
    "cuMemHostAlloc" 2020 cuMemHostAlloc;
    "cuMemAllocHost" 2000 cuMemAllocHost;
    "cuMemAllocHost" 3020 cuMemAllocHost_v2;
    "cuMemFreeHost" 2000 cuMemFreeHost;
    "cuMemHostRegister" 4000 cuMemHostRegister;
    "cuMemHostRegister" 6050 cuMemHostRegister_v2;
    "cuMemHostUnregister" 4000 cuMemHostUnregister;
    "cuMemHostGetDevicePointer" 3020 cuMemHostGetDevicePointer_v2;
    "cuMemHostGetFlags" 2030 cuMemHostGetFlags;
    pointer:
    "cuPointerGetAttribute" 4000 cuPointerGetAttribute;
    "cuPointerGetAttributes" 7000 cuPointerGetAttributes;
    copy:
    "cuMemcpy" 4000 cuMemcpy;
    "cuMemcpy" 7000 [per_thread = true] cuMemcpy_ptds;
    "cuMemcpyAsync" 4000 cuMemcpyAsync;
    "cuMemcpyAsync" 7000 [per_thread = true] cuMemcpyAsync_ptsz;
    "cuMemcpyHtoD" 3020 cuMemcpyHtoD_v2;
    "cuMemcpyHtoD" 7000 [per_thread = true] cuMemcpyHtoD_v2_ptds;
    "cuMemcpyHtoDAsync" 3020 cuMemcpyHtoDAsync_v2;
    "cuMemcpyHtoDAsync" 7000 [per_thread = true] cuMemcpyHtoDAsync_v2_ptsz;
    "cuMemcpyDtoH" 3020 cuMemcpyDtoH_v2;
    "cuMemcpyDtoH" 7000 [per_thread = true] cuMemcpyDtoH_v2_ptds;
    "cuMemcpyDtoHAsync" 3020 cuMemcpyDtoHAsync_v2;
    "cuMemcpyDtoHAsync" 7000 [per_thread = true] cuMemcpyDtoHAsync_v2_ptsz;
    "cuMemcpyDtoD" 3020 cuMemcpyDtoD_v2;
    "cuMemcpyDtoD" 7000 [per_thread = true] cuMemcpyDtoD_v2_ptds;
    "cuMemcpyDtoDAsync" 3020 cuMemcpyDtoDAsync_v2;
    "cuMemcpyDtoDAsync" 7000 [per_thread = true] cuMemcpyDtoDAsync_v2_ptsz;
    set:
    "cuMemsetD8" 3020 cuMemsetD8_v2;
    "cuMemsetD8" 7000 [per_thread = true] cuMemsetD8_v2_ptds;
    "cuMemsetD8Async" 3020 cuMemsetD8Async;
    "cuMemsetD8Async" 7000 [per_thread = true] cuMemsetD8Async_ptsz;
    "cuMemsetD16" 3020 cuMemsetD16_v2;
    "cuMemsetD16" 7000 [per_thread = true] cuMemsetD16_v2_ptds;
    "cuMemsetD16Async" 3020 cuMemsetD16Async;
    "cuMemsetD16Async" 7000 [per_thread = true] cuMemsetD16Async_ptsz;
    "cuMemsetD32" 3020 cuMemsetD32_v2;
    "cuMemsetD32" 7000 [per_thread = true] cuMemsetD32_v2_ptds;
    "cuMemsetD32Async" 3020 cuMemsetD32Async;
    "cuMemsetD32Async" 7000 [per_thread = true] cuMemsetD32Async_ptsz;
    "cuMemsetD2D8" 3020 cuMemsetD2D8_v2;
    "cuMemsetD2D8" 7000 [per_thread = true] cuMemsetD2D8_v2_ptds;
    "cuMemsetD2D8Async" 3020 cuMemsetD2D8Async;
    "cuMemsetD2D8Async" 7000 [per_thread = true] cuMemsetD2D8Async_ptsz;
    "cuMemsetD2D16" 3020 cuMemsetD2D16_v2;
    "cuMemsetD2D16" 7000 [per_thread = true] cuMemsetD2D16_v2_ptds;
    "cuMemsetD2D16Async" 3020 cuMemsetD2D16Async;
    "cuMemsetD2D16Async" 7000 [per_thread = true] cuMemsetD2D16Async_ptsz;
    "cuMemsetD2D32" 3020 cuMemsetD2D32_v2;
    "cuMemsetD2D32" 7000 [per_thread = true] cuMemsetD2D32_v2_ptds;
    "cuMemsetD2D32Async" 3020 cuMemsetD2D32Async;
    "cuMemsetD2D32Async" 7000 [per_thread = true] cuMemsetD2D32Async_ptsz;
    module:
    "cuModuleLoad" 2000 cuModuleLoad;
    "cuModuleLoadData" 2000 cuModuleLoadData;
    "cuModuleLoadDataEx" 2010 cuModuleLoadDataEx;
    "cuModuleLoadFatBinary" 2000 cuModuleLoadFatBinary;
    "cuModuleUnload" 2000 cuModuleUnload;
    "cuModuleGetFunction" 2000 cuModuleGetFunction;
    function:
    "cuModuleGetLoadingMode" 11070 cuModuleGetLoadingMode;
    "cuFuncGetModule" 11000 cuFuncGetModule;
    "cuFuncGetName" 12030 cuFuncGetName;
    "cuFuncGetAttribute" 2020 cuFuncGetAttribute;
    "cuFuncSetAttribute" 9000 cuFuncSetAttribute;
    "cuFuncSetCacheConfig" 3000 cuFuncSetCacheConfig;
    "cuFuncLoad" 12040 cuFuncLoad;
    "cuOccupancyMaxActiveBlocksPerMultiprocessor" 6050 cuOccupancyMaxActiveBlocksPerMultiprocessor;
    library:
    "cuLibraryLoadData" 12000 cuLibraryLoadData;
    "cuLibraryLoadFromFile" 12000 cuLibraryLoadFromFile;
    "cuLibraryUnload" 12000 cuLibraryUnload;
    "cuLibraryGetKernel" 12000 cuLibraryGetKernel;
    "cuLibraryGetKernelCount" 12040 cuLibraryGetKernelCount;
    "cuLibraryGetModule" 12000 cuLibraryGetModule;
    "cuKernelGetFunction" 12000 cuKernelGetFunction;
    "cuKernelGetName" 12030 cuKernelGetName;
    launch:
    "cuLaunchKernel" 4000 cuLaunchKernel;
    "cuLaunchKernel" 7000 [per_thread = true] cuLaunchKernel_ptsz;
    "cuLaunchKernelEx" 11060 cuLaunchKernelEx;
    "cuLaunchKernelEx" 11060 [per_thread = true] cuLaunchKernelEx_ptsz;
    "cuLaunchCooperativeKernel" 9000 cuLaunchCooperativeKernel;
    "cuLaunchCooperativeKernel" 9000 [per_thread = true] cuLaunchCooperativeKernel_ptsz;
    "cuLaunchCooperativeKernelMultiDevice" 9000 cuLaunchCooperativeKernelMultiDevice;
    "cuLaunchHostFunc" 10000 cuLaunchHostFunc;
    "cuLaunchHostFunc" 10000 [per_thread = true] cuLaunchHostFunc_ptsz;
    legacy:
    "cuLaunch" 2000 cuLaunch;
    "cuLaunchGrid" 2000 cuLaunchGrid;
    "cuLaunchGridAsync" 2000 cuLaunchGridAsync;
    "cuFuncSetBlockShape" 2000 cuFuncSetBlockShape;
    "cuFuncSetSharedSize" 2000 cuFuncSetSharedSize;
    "cuParamSetSize" 2000 cuParamSetSize;
    "cuParamSeti" 2000 cuParamSeti;
    "cuParamSetf" 2000 cuParamSetf;
    "cuParamSetv" 2000 cuParamSetv;
    stream:
    "cuStreamCreate" 2000 cuStreamCreate;
    "cuStreamCreateWithPriority" 5050 cuStreamCreateWithPriority;
    "cuStreamDestroy" 2000 cuStreamDestroy;
    "cuStreamDestroy" 4000 cuStreamDestroy_v2;
    "cuStreamSynchronize" 2000 cuStreamSynchronize;
    "cuStreamSynchronize" 7000 [per_thread = true] cuStreamSynchronize_ptsz;
    "cuStreamQuery" 2000 cuStreamQuery;
    "cuStreamQuery" 7000 [per_thread = true] cuStreamQuery_ptsz;
    "cuStreamWaitEvent" 3020 cuStreamWaitEvent;
    "cuStreamWaitEvent" 7000 [per_thread = true] cuStreamWaitEvent_ptsz;
    "cuStreamGetCtx" 9020 cuStreamGetCtx;
    "cuStreamGetCtx" 9020 [per_thread = true] cuStreamGetCtx_ptsz;
    "cuStreamGetFlags" 5050 cuStreamGetFlags;
    "cuStreamGetFlags" 7000 [per_thread = true] cuStreamGetFlags_ptsz;
    "cuStreamGetPriority" 5050 cuStreamGetPriority;
    "cuStreamGetPriority" 7000 [per_thread = true] cuStreamGetPriority_ptsz;
    capture:
    "cuStreamBeginCapture" 10000 cuStreamBeginCapture;
    "cuStreamBeginCapture" 10000 [per_thread = true] cuStreamBeginCapture_ptsz;
    "cuStreamBeginCapture" 10010 cuStreamBeginCapture_v2;
    "cuStreamBeginCapture" 10010 [per_thread = true] cuStreamBeginCapture_v2_ptsz;
    "cuStreamEndCapture" 10000 cuStreamEndCapture;
    "cuStreamEndCapture" 10000 [per_thread = true] cuStreamEndCapture_ptsz;
    "cuStreamIsCapturing" 10000 cuStreamIsCapturing;
    "cuStreamIsCapturing" 10000 [per_thread = true] cuStreamIsCapturing_ptsz;
    "cuStreamGetCaptureInfo" 10010 cuStreamGetCaptureInfo;
    "cuStreamGetCaptureInfo" 10010 [per_thread = true] cuStreamGetCaptureInfo_ptsz;
    "cuStreamGetCaptureInfo" 11030 cuStreamGetCaptureInfo_v2;
    "cuStreamGetCaptureInfo" 11030 [per_thread = true] cuStreamGetCaptureInfo_v2_ptsz;
    "cuThreadExchangeStreamCaptureMode" 10010 cuThreadExchangeStreamCaptureMode;
    event:
    "cuEventCreate" 2000 cuEventCreate;
    "cuEventDestroy" 2000 cuEventDestroy;
    "cuEventDestroy" 4000 cuEventDestroy_v2;
    "cuEventRecord" 2000 cuEventRecord;
    "cuEventRecord" 7000 [per_thread = true] cuEventRecord_ptsz;
    "cuEventRecordWithFlags" 11010 cuEventRecordWithFlags;
    "cuEventRecordWithFlags" 11010 [per_thread = true] cuEventRecordWithFlags_ptsz;
    "cuEventQuery" 2000 cuEventQuery;
    "cuEventSynchronize" 2000 cuEventSynchronize;
    "cuEventElapsedTime" 2000 cuEventElapsedTime;
    graph:
    "cuGraphCreate" 10000 cuGraphCreate;
    "cuGraphDestroy" 10000 cuGraphDestroy;
    "cuGraphClone" 10000 cuGraphClone;
    "cuGraphGetNodes" 10000 cuGraphGetNodes;
    "cuGraphGetEdges" 10000 cuGraphGetEdges;
    "cuGraphNodeGetType" 10000 cuGraphNodeGetType;
    "cuGraphDestroyNode" 10000 cuGraphDestroyNode;
    "cuGraphAddEmptyNode" 10000 cuGraphAddEmptyNode;
    "cuGraphAddKernelNode" 10000 cuGraphAddKernelNode;
    "cuGraphAddKernelNode" 12000 cuGraphAddKernelNode_v2;
    "cuGraphAddMemsetNode" 10000 cuGraphAddMemsetNode;
    "cuGraphAddMemcpyNode" 10000 cuGraphAddMemcpyNode;
    "cuGraphAddHostNode" 10000 cuGraphAddHostNode;
    "cuGraphAddChildGraphNode" 10000 cuGraphAddChildGraphNode;
    "cuGraphAddEventRecordNode" 11010 cuGraphAddEventRecordNode;
    "cuGraphAddEventWaitNode" 11010 cuGraphAddEventWaitNode;
    "cuGraphAddMemAllocNode" 11040 cuGraphAddMemAllocNode;
    "cuGraphAddMemFreeNode" 11040 cuGraphAddMemFreeNode;
    "cuGraphAddNode" 12020 cuGraphAddNode;
    "cuGraphAddNode" 12030 cuGraphAddNode_v2;
    "cuGraphKernelNodeSetParams" 10000 cuGraphKernelNodeSetParams;
    "cuGraphKernelNodeSetParams" 12000 cuGraphKernelNodeSetParams_v2;
    "cuGraphMemAllocNodeGetParams" 11040 cuGraphMemAllocNodeGetParams;
    "cuGraphMemFreeNodeGetParams" 11040 cuGraphMemFreeNodeGetParams;
    exec:
    "cuGraphInstantiate" 10000 cuGraphInstantiate;
    "cuGraphInstantiate" 11000 cuGraphInstantiate_v2;
    "cuGraphInstantiate" 12000 cuGraphInstantiateWithFlags;
    "cuGraphInstantiateWithFlags" 11040 cuGraphInstantiateWithFlags;
    "cuGraphInstantiateWithParams" 12000 cuGraphInstantiateWithParams;
    "cuGraphInstantiateWithParams" 12000 [per_thread = true] cuGraphInstantiateWithParams_ptsz;
    "cuGraphExecGetFlags" 12000 cuGraphExecGetFlags;
    "cuGraphExecDestroy" 10000 cuGraphExecDestroy;
    "cuGraphUpload" 11010 cuGraphUpload;
    "cuGraphUpload" 11010 [per_thread = true] cuGraphUpload_ptsz;
    "cuGraphLaunch" 10000 cuGraphLaunch;
    "cuGraphLaunch" 10000 [per_thread = true] cuGraphLaunch_ptsz;
    "cuGraphExecUpdate" 10020 cuGraphExecUpdate;
    "cuGraphExecUpdate" 12000 cuGraphExecUpdate_v2;
    "cuGraphExecKernelNodeSetParams" 10010 cuGraphExecKernelNodeSetParams;
    "cuGraphExecKernelNodeSetParams" 12000 cuGraphExecKernelNodeSetParams_v2;
    graph_memory:
    "cuDeviceGraphMemTrim" 11040 cuDeviceGraphMemTrim;
    "cuDeviceGetGraphMemAttribute" 11040 cuDeviceGetGraphMemAttribute;
    "cuDeviceSetGraphMemAttribute" 11040 cuDeviceSetGraphMemAttribute;
};
