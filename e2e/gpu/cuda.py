"""The CUDA driver API by ctypes: what the programs need of it, with a kernel whose length is a number of steps."""

import ctypes
from ctypes import byref, c_float, c_int, c_size_t, c_uint64, c_void_p

OUT_OF_MEMORY = 2

# Its length does not depend on a clock that runs on while another context has the GPU. The fake driver runs a kernel of this
# name for as many nanoseconds as its first parameter says: there a step is a nanosecond.
PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u64 steps, .param .u64 out)
{
    .reg .u64 %n, %i, %x, %to;
    .reg .pred %more;
    ld.param.u64 %n, [steps];
    ld.param.u64 %to, [out];
    mov.u64 %i, 0;
    mov.u64 %x, %n;
again:
    mad.lo.u64 %x, %x, 6364136223846793005, 1442695040888963407;
    add.u64 %i, %i, 1;
    setp.lt.u64 %more, %i, %n;
    @%more bra again;
    cvta.to.global.u64 %to, %to;
    st.global.u64 [%to], %x;
    ret;
}
"""


class CudaError(Exception):
    def __init__(self, call, code):
        super().__init__(f"{call}: {code}")
        self.code = code


class Cuda:
    def __init__(self, context=True):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        self.context = c_void_p()
        if context:
            self.call("cuCtxCreate_v2", byref(self.context), 0, 0)

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            raise CudaError(name, code)

    def alloc(self, size):
        address = c_uint64()
        self.call("cuMemAlloc_v2", byref(address), c_size_t(size))
        return address.value

    def free(self, address):
        self.call("cuMemFree_v2", c_uint64(address))

    def info(self):
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def total(self):
        total = c_size_t()
        self.call("cuDeviceTotalMem_v2", byref(total), 0)
        return total.value

    def uuid(self):
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid", raw, 0)
        text = bytes(raw).hex()
        return "GPU-" + "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:]])

    def version(self):
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        return version.value

    def event(self):
        event = c_void_p()
        self.call("cuEventCreate", byref(event), 0)
        return event

    def record(self, event, stream=None):
        self.call("cuEventRecord", event, stream)

    def elapsed_ms(self, begin, end):
        self.call("cuEventSynchronize", end)
        ms = c_float()
        self.call("cuEventElapsedTime", byref(ms), begin, end)
        return ms.value


class Work:
    """The kernel, loaded."""

    def __init__(self, cuda):
        self.cuda, self.module, self.function = cuda, c_void_p(), c_void_p()
        cuda.call("cuModuleLoadData", byref(self.module), PTX)
        cuda.call("cuModuleGetFunction", byref(self.function), self.module, b"spin")
        self.out = c_uint64(cuda.alloc(512))

    def launch(self, steps, stream=None):
        count = c_uint64(steps)
        arguments = (c_void_p * 2)(ctypes.addressof(count), ctypes.addressof(self.out))
        self.cuda.call("cuLaunchKernel", self.function, 1, 1, 1, 1, 1, 1, 0, stream, arguments, None)

    def nanos(self, steps, times=20):
        """How long one takes, alone on the GPU: the least of several."""
        least = float("inf")
        for _ in range(times):
            begin, end = self.cuda.event(), self.cuda.event()
            self.cuda.record(begin)
            self.launch(steps)
            self.cuda.record(end)
            least = min(least, self.cuda.elapsed_ms(begin, end) * 1e6)
        return least
