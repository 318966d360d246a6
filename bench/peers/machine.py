"""The machine: its name, its instruction sets, and how fast it reads memory."""
import ctypes
import mmap
import os
import platform
import threading
import time

SETS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "asimddp", "i8mm", "sve")


def describe(threads):
    name, flags = platform.machine(), set()
    try:
        for line in open("/proc/cpuinfo", encoding="utf-8"):
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags |= set(value.split())
    except OSError:
        pass
    return {"cpu": name, "flags": [s for s in SETS if s in flags], "cores": os.cpu_count(), "threads": threads,
            "system": platform.platform()}


def read_bandwidth(threads, mib=512, seconds=1.5):
    """Bytes per second that `threads` threads read together: the best of several passes over memory far larger than caches.

    The loop is the C library's memchr for a byte that is not there: vector loads, a comparison, nothing written.
    """
    size = mib << 20
    area = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ctypes.memset(start, 1, size)  # otherwise all pages would be one page of zeros
    memchr = ctypes.CDLL(None).memchr
    memchr.restype, memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    share = size // threads

    def one_pass():
        pool = [threading.Thread(target=memchr, args=(start + i * share, 2, share)) for i in range(threads)]
        begin = time.perf_counter()
        for t in pool:
            t.start()
        for t in pool:
            t.join()
        return share * threads / (time.perf_counter() - begin)

    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until or best == 0.0:
        best = max(best, one_pass())
    return best
