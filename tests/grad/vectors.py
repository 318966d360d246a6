"""The container of frozen arrays that vectors.h reads: b"SALAVEC1", then for each array its name (64 bytes, zero-padded), kind
(1 byte: f or i), bytes of an element (1), number of dimensions (1), a zero, the shape (u32 each), and the numbers, little endian
and in C order. Numbers that f32 holds exactly are stored as f32; others, and everything that is not checked to better than f32's
rounding, may be too."""
import pathlib
import struct

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "vectors"


def save(name, arrays):
    out = bytearray(b"SALAVEC1")
    for key, value in arrays.items():
        a = np.asarray(value)
        if a.dtype.kind == "f":
            small = a.astype("<f4")
            a = small if np.array_equal(small.astype("f8"), a.astype("f8")) else a.astype("<f8")
        else:
            a = a.astype("<i4")
        a = np.ascontiguousarray(a)
        assert len(key) < 64 and a.ndim <= 8, key
        out += key.encode().ljust(64, b"\0")
        out += struct.pack("<cBBB", a.dtype.kind.encode(), a.dtype.itemsize, a.ndim, 0)
        out += struct.pack("<%dI" % a.ndim, *a.shape)
        out += a.tobytes()
    HERE.mkdir(exist_ok=True)
    (HERE / (name + ".vec")).write_bytes(out)
    print("%-24s %8d bytes, %d arrays" % (name + ".vec", len(out), len(arrays)))


def rough(t):
    """Rounded to f32: enough for what is compared at 1e-6, and half the size."""
    return t.detach().to("cpu").numpy().astype("f4")
