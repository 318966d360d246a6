#!/usr/bin/env python3
"""Prints the table of test_dequant.c: what the gguf package (pip install gguf) decodes from blocks of random bytes.

Bytes come from splitmix64 seeded with the type's ggml id; 16-bit scales are then set to small halves, so that no NaN
(whose bits are not defined) appears. The hash is FNV-1a over the bits of the f32 results, with -0 taken as 0."""
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

BLOCKS = 24
SCALES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)}
MASK = (1 << 64) - 1


def random_bytes(seed, n):
    out = bytearray()
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        out.append((z ^ z >> 31) & 255)
    return out


for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
             "IQ4_XS", "TQ1_0", "TQ2_0"):
    t = T[name]
    weights, size = GGML_QUANT_SIZES[t]
    data = random_bytes(int(t), BLOCKS * size)
    for b in range(BLOCKS):
        for s, at in enumerate(SCALES.get(name, (0,))):
            half = (0x2400 + 37 * b + 11 * s) | (0x8000 if b % 3 == 1 else 0)
            data[b * size + at:b * size + at + 2] = half.to_bytes(2, "little")
            if size == 2:
                break
    x = dequantize(np.frombuffer(bytes(data), np.uint8), t).astype(np.float32) + np.float32(0)
    h = 0xCBF29CE484222325
    for byte in x.tobytes():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    print(f"    {{SALA_{name}, 0x{h:016x}u}},")
