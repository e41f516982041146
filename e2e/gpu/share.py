"""Shares as the node's plugin makes them, and programs in them as a container would run them.

The byte layout is described in libvgpu/core/src/limits.rs and usage.rs.
"""

import os
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# Where the limiter was built, and the driver's libraries where the loader does not find them by itself.
BUILT = pathlib.Path(os.environ.get("VGPU_BUILT", HERE.parent.parent / "target" / "release"))
DRIVER = os.environ.get("VGPU_DRIVER_LIBRARIES", "")
if DRIVER:
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [DRIVER, os.environ.get("LD_LIBRARY_PATH", "")]))
MIB = 1 << 20
SLOTS = 512
USAGE_SIZE = 4544 + 64 * SLOTS
HARD, ELASTIC = 0, 1


def limits(memory, cores=0, overhead=0, enforcement=HARD, priority=0, resident=0):
    head = struct.pack("<8sIIIIQQIIQ", b"vgpulim1", 2, 4096, 0, cores, memory, overhead, enforcement, priority, resident)
    return head.ljust(4096, b"\0")


def usage():
    return struct.pack("<8sII", b"vgpuuse1", 2, USAGE_SIZE).ljust(USAGE_SIZE, b"\0")


def charged(folder):
    """Bytes of the GPU charged to the share, in units of 512 in the upper half of the ledger's word."""
    word = struct.unpack_from("<Q", (folder / "usage").read_bytes(), 64)[0]
    return (word >> 32) * 512


def real_library(name):
    """The driver's own file of a library, as the loader finds it."""
    if DRIVER:
        return (pathlib.Path(DRIVER) / name).resolve(strict=True)
    table = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for line in table.splitlines():
        if line.strip().startswith(name + " ") and "x86-64" in line:
            return pathlib.Path(line.split("=>")[1].strip()).resolve()
    raise FileNotFoundError(f"{name}: ldconfig -p does not list it")


class Node:
    """Folders of this run; shares lie in memory, as on a node."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vgpu-gpu-", dir="/dev/shm")
        self.root = pathlib.Path(self.folder.name)
        self.libraries = self.root / "lib"
        self.libraries.mkdir()
        for shim, name, other in [
            ("libvgpu_cuda_shim.so", "libcuda.so.1", "libcuda-real.so"),
            ("libvgpu_nvml_shim.so", "libnvidia-ml.so.1", "libnvidia-ml-real.so"),
        ]:
            built = BUILT / shim
            if not built.exists():
                raise FileNotFoundError(f"{built}: build it first, see README.md")
            (self.libraries / name).symlink_to(built)
            (self.libraries / other).symlink_to(real_library(name))
        # Fakes look for their GPUs above the folder of their libraries.
        above = pathlib.Path(DRIVER).resolve().parent if DRIVER else self.root
        self.is_fake = (above / "gpus").exists()
        for name in ("gpus", "dev") if self.is_fake else ():
            if (above / name).exists():
                (self.root / name).symlink_to(above / name)
        self.count = 0

    def container(self, uuid, **what):
        """A container with one share of a GPU; gives its folder of shares and the share's own."""
        self.count += 1
        shares = self.root / f"container-{self.count}"
        folder = shares / uuid / "s"
        folder.mkdir(parents=True)
        (folder / "limits").write_bytes(limits(**what))
        (folder / "usage").write_bytes(usage())
        os.mkfifo(folder / "bell")
        return shares, folder

    def start(self, shares, *arguments, environment=None):
        """programs.py in a container, or natively if there is none."""
        command = [sys.executable, str(HERE / "programs.py"), *map(str, arguments)]
        return self.run(shares, command, environment)

    def run(self, shares, command, environment=None):
        env = dict(os.environ, **(environment or {}))
        if shares is not None:
            script = (
                "mount -t tmpfs tmpfs /run && mkdir /run/vgpu-dra && "
                'mount --bind "$0" /run/vgpu-dra && exec "$@"'
            )
            unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(shares)]
            command = unshare + command
            env["LD_LIBRARY_PATH"] = f"{self.libraries}:{env.get('LD_LIBRARY_PATH', '')}"
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)

    def arbiter(self, *folders):
        """The node's arbiter over shares of one GPU."""
        program = BUILT / "examples" / "arbitrate"
        return subprocess.Popen([str(program), *map(str, folders)], stdin=subprocess.PIPE)
