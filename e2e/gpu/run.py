#!/usr/bin/env python3
"""Runs the checks of README.md on GPU 0 and ends with a plain summary; the exit status is 1 if one failed."""

import json
import os
import platform
import subprocess
import sys
import time

from checks import CHECKS, Gpu, Skip
from share import Node


def main():
    names = {check.__name__: check for check in CHECKS}
    wanted = sys.argv[1:]
    if "--list" in wanted:
        print("\n".join(names))
        return 0
    unknown = [name for name in wanted if name not in names]
    if unknown:
        sys.exit(f"no check is called {', '.join(unknown)}; there are {', '.join(names)}")
    if os.geteuid() != 0:
        sys.exit("mount namespaces need root: run it with sudo")
    try:
        gpu = Gpu(Node())
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"no NVIDIA driver, or nothing built: {error}")
    print(f"{gpu.name}, driver {gpu.driver}, {gpu.free >> 20} of {gpu.total >> 20} MiB free, {platform.machine()}")
    if gpu.free < 0.9 * gpu.total:
        print("other processes hold memory of this GPU: figures of time mean little")
    lines, failed = [], False
    for name in wanted or names:
        begin = time.monotonic()
        try:
            result, figures = "ok", names[name](gpu)
        except Skip as reason:
            result, figures = "skipped", str(reason)
        except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            result, figures, failed = "FAILED", str(error) or type(error).__name__, True
        seconds = time.monotonic() - begin
        print(f"{name}: {result} after {seconds:.1f} s", flush=True)
        lines.append(f"{name:<18} {result:<8} {json.dumps(figures)}")
    print("\nsummary\n" + "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
