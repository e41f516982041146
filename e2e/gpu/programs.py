"""What runs natively and in shares: one program by name, which prints one line of JSON.

Programs that hold something say so and then wait for the end of their input.
"""

import collections
import ctypes
import json
import sys
import time
from ctypes import byref, c_size_t, c_ubyte, c_uint64, c_void_p

from cuda import OUT_OF_MEMORY, Cuda, CudaError, Work

MIB = 1 << 20


def say(**what):
    print(json.dumps(what), flush=True)


def hold(**what):
    say(**what)
    sys.stdin.read()


def mapped():
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/") > 0}
    return sorted(path for path in paths if "libcuda" in path or "libvgpu" in path)


def soname():
    cuda = Cuda()
    work = Work(cuda)
    work.launch(1000)
    cuda.call("cuCtxSynchronize")
    again = ctypes.CDLL("libcuda.so.1")
    found = {}
    for version in (11030, 12000):
        address = c_void_p()
        name = "cuGetProcAddress" if version < 12000 else "cuGetProcAddress_v2"
        extra = () if version < 12000 else (None,)
        cuda.call(name, b"cuMemAlloc", byref(address), version, c_uint64(0), *extra)
        own = ctypes.cast(cuda.library.cuMemAlloc_v2, c_void_p).value
        found[str(version)] = address.value == own
    say(mapped=mapped(), version=cuda.version(), same=again._handle == cuda.library._handle, hooks=found, uuid=cuda.uuid())


def fill(step_mib, most_mib):
    """Takes all there is in steps, then in ever smaller ones to the last 512 bytes."""
    cuda = Cuda()
    held, step, before = 0, int(step_mib) * MIB, cuda.info()
    code = 0
    while step >= 512 and held < int(most_mib) * MIB:
        try:
            cuda.alloc(step)
            held += step
        except CudaError as error:
            code = error.code
            step //= 2
    hold(held=held, code=code, out_of_memory=code == OUT_OF_MEMORY, before=before, after=cuda.info(), total=cuda.total())


def context(what):
    cuda = Cuda()
    if what == "module":
        Work(cuda)
    hold(info=cuda.info())


def launch(count):
    """Nanoseconds per launch of kernels of next to no length, by batches. The queue is emptied every 16 of them: more often, and
    no batch would have what a thread is lent for several left; less often, and it would fill."""
    cuda = Cuda()
    work, batch, between = Work(cuda), 31, 16
    one = c_uint64(1)
    arguments = (c_void_p * 2)(ctypes.addressof(one), ctypes.addressof(work.out))
    function, took = cuda.library.cuLaunchKernel, []
    for number in range(int(count) // batch):
        begin = time.perf_counter_ns()
        for _ in range(batch):
            function(work.function, 1, 1, 1, 1, 1, 1, 0, None, arguments, None)
        took.append((time.perf_counter_ns() - begin) / batch)
        if number % between == between - 1:
            cuda.call("cuCtxSynchronize")
    took.sort()
    say(quartile=took[len(took) // 4], mean=sum(took) / len(took))


def calibrate():
    work = Work(Cuda())
    steps = 1000
    while work.nanos(steps) < 2_000_000:
        steps *= 2
    long, short = work.nanos(steps), work.nanos(steps // 2)
    # What a launch takes by itself is in both.
    say(per_step=(long - short) / (steps - steps // 2))


def spin(steps, seconds, how):
    """Kernels one behind another, 64 in flight, or one at a time; says how many ended in which time."""
    cuda = Cuda()
    work, steps = Work(cuda), int(steps)
    events = collections.deque()
    free = [cuda.event() for _ in range(65)]
    ended, depth = 0, 1 if how == "sync" else 64
    begin = time.monotonic()
    end = begin + float(seconds)
    while time.monotonic() < end:
        if len(events) >= depth:
            event = events.popleft()
            cuda.call("cuEventSynchronize", event)
            free.append(event)
            ended += 1
        work.launch(steps)
        event = free.pop()
        cuda.record(event)
        events.append(event)
    cuda.call("cuCtxSynchronize")
    say(kernels=ended + len(events), seconds=time.monotonic() - begin)


def graph(steps, seconds):
    """The same by replays of a captured graph of ten kernels."""
    cuda = Cuda()
    work, stream, made, run = Work(cuda), c_void_p(), c_void_p(), c_void_p()
    cuda.call("cuStreamCreate", byref(stream), 1)
    cuda.call("cuStreamBeginCapture_v2", stream, 0)
    for _ in range(10):
        work.launch(int(steps), stream)
    cuda.call("cuStreamEndCapture", stream, byref(made))
    cuda.call("cuGraphInstantiateWithFlags", byref(run), made, c_uint64(0))
    begin, kernels = time.monotonic(), 0
    while time.monotonic() < begin + float(seconds):
        cuda.call("cuGraphLaunch", run, stream)
        cuda.call("cuStreamSynchronize", stream)
        kernels += 10
    say(kernels=kernels, seconds=time.monotonic() - begin)


def oversubscribe(mib):
    """Memory that is partly on the host: written and read whole."""
    cuda = Cuda()
    size, pieces = int(mib) * MIB, []
    for _ in range(4):
        pieces.append(cuda.alloc(size // 4))
    took = []
    for address in pieces:
        begin = time.perf_counter()
        cuda.call("cuMemsetD8_v2", c_uint64(address), c_ubyte(0x5A), c_size_t(size // 4))
        cuda.call("cuCtxSynchronize")
        took.append(time.perf_counter() - begin)
    right = True
    for address in pieces:
        byte = c_ubyte()
        cuda.call("cuMemcpyDtoH_v2", byref(byte), c_uint64(address + size // 4 - 1), c_size_t(1))
        right &= byte.value == 0x5A
    hold(right=right, seconds=took, info=cuda.info())


def torch(backend, gib):
    import torch

    device = torch.device("cuda")
    generator = torch.Generator(device="cpu").manual_seed(1)
    a, b = (torch.randn(512, 512, generator=generator).to(device) for _ in range(2))
    product = (a @ b).double().sum().item()
    image = torch.randn(4, 3, 64, 64, generator=generator).to(device)
    filters = torch.randn(8, 3, 3, 3, generator=generator).to(device)
    convolved = torch.nn.functional.conv2d(image, filters).double().sum().item()
    graphed = torch.cuda.CUDAGraph()
    x = torch.zeros(1024, device=device)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x += 0
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graphed):
        x += 1
    for _ in range(10):
        graphed.replay()
    held, refused = [], False
    try:
        while len(held) < int(gib) * 16:
            held.append(torch.empty(64 * MIB, dtype=torch.uint8, device=device))
    except torch.cuda.OutOfMemoryError:
        refused = True
    taken = len(held) * 64
    held.clear()
    torch.cuda.empty_cache()
    again = torch.empty(256 * MIB, dtype=torch.uint8, device=device).numel()
    free, total = torch.cuda.mem_get_info()
    say(
        backend=backend, version=torch.__version__, product=product, convolved=convolved, graph=x.sum().item(),
        refused=refused, taken_mib=taken, again=again, free=free, total=total,
    )


PROGRAMS = {f.__name__: f for f in (soname, fill, context, launch, calibrate, spin, graph, oversubscribe, torch)}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
