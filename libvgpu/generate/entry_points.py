#!/usr/bin/env python3
"""Writes the table of CUDA driver entry points from the facts in NVIDIA's headers.

    python3 entry_points.py FOLDER...

Each folder holds an unpacked header package as PyPI has them (nvidia-cuda-runtime-cu11, -cu12, nvidia-cuda-runtime),
oldest first. Written are `entry_points.tsv` beside this file, one line per (name, version, stream flavour), and
`../cuda/src/table.rs`, the lines of it that have a hook. A function keeps its line when a newer CUDA drops it.

What is taken from the headers are names, versions and argument types; which class a function is in stands below.
"""

import pathlib
import re
import sys

# Everything not named here passes through untouched.
CLASSES = {
    "charge": """
        cuMemAlloc cuMemAllocPitch cuMemAllocManaged cuMemFree
        cuMemAllocAsync cuMemAllocFromPoolAsync cuMemFreeAsync cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo
        cuArrayCreate cuArray3DCreate cuArrayDestroy cuMipmappedArrayCreate cuMipmappedArrayDestroy
        cuMemCreate cuMemRelease cuMemRetainAllocationHandle cuMemImportFromShareableHandle cuMemMap cuMemUnmap
        cuGraphAddMemAllocNode cuGraphAddNode cuGraphClone cuGraphDestroy cuGraphExecDestroy cuGraphUpload
        cuGraphInstantiate cuGraphInstantiateWithFlags cuGraphInstantiateWithParams cuDeviceGraphMemTrim
        cuStreamEndCapture cuIpcGetMemHandle
        cuCtxCreate cuCtxDestroy cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease cuDevicePrimaryCtxReset""",
    "report": "cuMemGetInfo cuDeviceTotalMem",
    "meter": """
        cuLaunchKernel cuLaunchKernelEx cuLaunchCooperativeKernel cuLaunchCooperativeKernelMultiDevice cuGraphLaunch
        cuLaunch cuLaunchGrid cuLaunchGridAsync""",
    # After these a thread asks again before it launches.
    "order": """
        cuStreamBeginCapture cuStreamBeginCaptureToGraph cuStreamBeginRecaptureToGraph
        cuStreamBeginCaptureToCig cuStreamEndCaptureToCig
        cuCtxSetCurrent cuCtxPushCurrent cuCtxPopCurrent
        cuCtxSynchronize cuStreamSynchronize cuEventSynchronize cuStreamQuery cuEventQuery cuMemcpyDtoH""",
    "dispatch": "cuGetProcAddress",
}
# Arguments a hook reads; every other structure is an opaque pointer.
READ = {
    "CUmemAllocationProp": "AllocationProperties",
    "CUmemPoolProps": "PoolProperties",
    "CUDA_ARRAY_DESCRIPTOR": "ArrayDescriptor",
    "CUDA_ARRAY3D_DESCRIPTOR": "Array3dDescriptor",
    "CUDA_MEM_ALLOC_NODE_PARAMS": "AllocNode",
    "CUgraphNodeParams": "NodeParameters",
    "CUlaunchConfig": "LaunchConfig",
    "CUDA_LAUNCH_PARAMS": "LaunchParameters",
}
PLAIN = {
    "void": "c_void", "char": "c_char", "unsigned char": "u8", "unsigned short": "u16", "int": "i32",
    "unsigned int": "u32", "unsigned": "u32", "long long": "i64", "unsigned long long": "u64", "size_t": "usize",
    "CUdevResourceType": "i32", "cuuint32_t": "u32", "cuuint64_t": "u64", "uint32_t": "u32", "uint64_t": "u64", "float": "f32", "double": "f64",
    "CUdeviceptr_v1": "u32", "CUdeviceptr_v2": "u64", "CUdeviceptr": "u64",
}
NEWEST = 2**31 - 1


class Types:
    """Rust types of C types: integers and handles by value, pointers typed as far as a hook reads them."""

    def __init__(self):
        self.known = dict(PLAIN)
        self.structs = set()

    def learn(self, header):
        text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", header, flags=re.S)
        for name in re.findall(r"typedef\s+struct\s+\w+\s*\*\s*(\w+)\s*;", text):
            self.known.setdefault(name, "usize")
        for name in re.findall(r"typedef\s+[\w\s]+\(\s*(?:CUDA_CB|CUDAAPI)?\s*\*\s*(\w+)\s*\)\s*\(", text):
            self.known.setdefault(name, "*const c_void")
        for kind, name in re.findall(r"typedef\s+(enum|struct)\s+\w+\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}\s*(\w+)\s*;", text):
            if kind == "enum":
                self.known.setdefault(name, "i32")
            else:
                self.structs.add(name)
        for name in re.findall(r"typedef\s+enum\s+\w+\s*\{[^}]*\}\s*(\w+)\s*;", text):
            self.known.setdefault(name, "i32")
        aliases = re.findall(r"typedef\s+((?:unsigned\s+)?\w+(?:\s+long)?)\s+(\w+)\s*;", text)
        for _ in range(3):
            for of, name in aliases:
                of = " ".join(of.split())
                if of in self.known:
                    self.known.setdefault(name, self.known[of])
                elif of in self.structs:
                    self.structs.add(name)

    def rust(self, argument):
        stars = argument.count("*") + argument.count("[")
        const = "const" in argument.split("*")[0].split()
        words = re.sub(r"[*\[\]]|\bconst\b|\bstruct\b|\benum\b", " ", argument).split()
        base = " ".join(words)
        if base not in self.known and base not in self.structs and len(words) > 1:
            base = " ".join(words[:-1])
        if stars == 0:
            return self.known.get(base, base)
        read = READ.get(re.sub(r"_v\d+$|_st$", "", base))
        target = f"abi::{read}" if read and not base.endswith("DESCRIPTOR_v1") else self.known.get(base, "c_void")
        return ("*const " if const and stars == 1 else "*mut ") + "*mut " * (stars - 1) + target


def split(arguments):
    arguments = arguments.strip()
    return [] if arguments in ("", "void") else [a.strip() for a in arguments.split(",")]


def read(folders):
    types, rows = Types(), {}
    headers = []
    for folder in folders:
        found = {p.name: p for p in pathlib.Path(folder).rglob("cuda*.h")}
        headers.append((found["cuda.h"].read_text(), found["cudaTypedefs.h"].read_text()))
    for header, _ in headers:
        types.learn(header)
    typedef = re.compile(r"typedef\s+CUresult\s*\(CUDAAPI\s*\*PFN_(cu\w+?)_v(\d+)(_ptsz|_ptds)?\)\s*\(([^;]*)\);")
    for _, text in headers:
        text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)
        for name, version, flavour, arguments in typedef.findall(text):
            key = (name, int(version), flavour.lstrip("_") or "legacy")
            rows.setdefault(key, [types.rust(a) for a in split(arguments)])
    known = set(re.findall(r"\bcu[A-Z]\w+", "\n".join(h for h, _ in headers)))
    return rows, known


def symbols(rows, known):
    """Exported names: the n-th version of a name has the suffix `_vn`; a flavour follows the version it came after."""
    named = {}
    for name in {n for n, _, _ in rows}:
        legacy = sorted(v for n, v, f in rows if n == name and f == "legacy")
        for index, version in enumerate(legacy):
            named[name, version, "legacy"] = name + (f"_v{index + 1}" if index else "")
        for _, version, flavour in [k for k in rows if k[0] == name and k[2] != "legacy"]:
            of = [v for v in legacy if v <= version]
            base = named[name, of[-1] if of else legacy[0], "legacy"] if legacy else name
            named[name, version, flavour] = f"{base}_{flavour}"
    for key, symbol in named.items():
        plain = re.sub(r"_pts[z]$|_ptds$", "", symbol)
        if plain not in known:
            newest = max(v for n, v, f in rows if n == key[0] and f == "legacy")
            if key[1] == newest and key[0] in known:
                named[key] = symbol.replace(plain, key[0])
            else:
                print(f"{key}: {symbol} is in no header", file=sys.stderr)
    return named


def main():
    rows, known = read(sys.argv[1:])
    named = symbols(rows, known)
    classes = {name: c for c, names in CLASSES.items() for name in names.split()}
    missing = set(classes) - {n for n, _, _ in rows}
    assert not missing, f"in no header: {missing}"
    here = pathlib.Path(__file__).resolve().parent
    lines, hooked = ["name\tfrom\tuntil\tflavour\tsymbol\tclass\targuments"], []
    for key in sorted(rows):
        name, version, flavour = key
        later = [v for n, v, f in rows if n == name and v > version and (f == "legacy") == (flavour == "legacy")]
        until = min(later, default=NEWEST)
        kind = classes.get(name, "pass")
        arguments = ", ".join(rows[key])
        lines.append("\t".join([name, str(version), str(until), flavour, named[key], kind, arguments]))
        if kind != "pass":
            letters = ", ".join(f"{chr(97 + i)}: {t}" for i, t in enumerate(rows[key]))
            per_thread = "false" if flavour == "legacy" else "true"
            hooked.append(
                f'            {kind.title()} "{name}" {version} {until} {per_thread} {named[key]}({letters});'
            )
    (here / "entry_points.tsv").write_text("\n".join(lines) + "\n")
    newest = re.findall(r"#define\s+CUDA_VERSION\s+(\d+)", "".join(
        p.read_text() for p in pathlib.Path(sys.argv[-1]).rglob("cuda.h")))[0]
    (here / "../cuda/src/table.rs").write_text(
        "//! The entry points with a hook: class, name, first version, first version it is not the answer at, per-thread\n"
        "//! stream flavour, exported name, arguments. Written by `libvgpu/generate/entry_points.py`; do not edit.\n\n"
        f"/// Up to here the table knows every ABI.\npub(crate) const KNOWN_VERSION: i32 = {newest};\n\n"
        "/// Hands the rows to another macro.\n"
        "macro_rules! entry_points {\n    ($with:ident) => {\n        $with! {\n"
        + "\n".join(hooked) + "\n        }\n    };\n}\npub(crate) use entry_points;\n"
    )


main()
