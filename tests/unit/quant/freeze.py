#!/usr/bin/env python3
"""Writes frozen.h beside this file: what ggml and llama.cpp (of llama-cpp-python) make of inputs that the tests can make
again. Needs the packages llama-cpp-python, gguf and numpy; run it again only when a type or a recipe is added.

Weights: value i of stream s is 0.05 * (sum of four uniforms - 2), uniforms in [0, 1) with 24 bits from splitmix64 of
s * 2^32 + 4 i + k, in double precision, rounded to float. Importance of column c: 0.05 + 8 u^4 from stream 77.
"""
import ctypes
import os
import pathlib
import tempfile
import zlib

import gguf
import llama_cpp
import numpy as np

ROWS, COLS = 16, 512
MASK = (1 << 64) - 1
TYPES = dict(Q4_0=2, Q4_1=3, Q5_0=6, Q5_1=7, Q8_0=8, Q2_K=10, Q3_K=11, Q4_K=12, Q5_K=13, Q6_K=14, IQ4_NL=20, IQ4_XS=23,
             TQ1_0=34, TQ2_0=35)
SAME_BYTES = ("Q8_0", "TQ1_0", "TQ2_0")
RECIPES = dict(F32=0, F16=1, Q4_0=2, Q4_1=3, Q8_0=7, Q5_0=8, Q5_1=9, Q2_K=10, Q3_K_S=11, Q3_K_M=12, Q3_K_L=13,
               Q4_K_S=14, Q4_K_M=15, Q5_K_S=16, Q5_K_M=17, Q6_K=18, Q2_K_S=21, IQ4_NL=25, IQ4_XS=30, BF16=32, TQ1_0=36,
               TQ2_0=37)


def uniform(x):
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 40) / 16777216.0


def weights(stream, n):
    return np.array([0.05 * (sum(uniform((stream << 32) + 4 * i + k) for k in range(4)) - 2.0) for i in range(n)],
                    dtype=np.float32)


def importance(n):
    return np.array([0.05 + 8.0 * uniform((77 << 32) + c) ** 4 for c in range(n)], dtype=np.float32)


def load_ggml():
    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    lib = ctypes.CDLL(str(folder / "libggml-base.so"))
    lib.ggml_quantize_chunk.restype = lib.ggml_row_size.restype = ctypes.c_size_t
    lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
        ctypes.c_void_p]
    return lib


def quantize(lib, name, x, imp):
    out = np.zeros(lib.ggml_row_size(TYPES[name], x.shape[1]) * x.shape[0], np.uint8)
    lib.ggml_quantize_chunk(TYPES[name], x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1],
                            imp.ctypes.data if imp is not None else None)
    return out


def rms(x, y, w):
    return float(np.sqrt((w * (x.astype(np.float64) - y) ** 2).sum() / (w * x.astype(np.float64) ** 2).sum()))


def rows_table(out):
    lib = load_ggml()
    x, imp = weights(1, ROWS * COLS).reshape(ROWS, COLS), importance(COLS)
    out.append("/* Relative root of the mean squared error of ggml's rounding; with importance, weighted by it. crc: of its\n"
               " * bytes, where the format leaves no choice. */")
    out.append("static const struct {\n    sala_dtype dtype;\n    double plain, weighted;\n    uint32_t crc;\n} frozen_rows[] = {")
    for name in TYPES:
        raw = quantize(lib, name, x, None)
        shape = (ROWS, raw.size // ROWS)
        t = gguf.GGMLQuantizationType[name]
        plain = gguf.quants.dequantize(raw.reshape(shape), t)
        weighted = gguf.quants.dequantize(quantize(lib, name, x, imp).reshape(shape), t)
        out.append("    {SALA_%s, %.6e, %.6e, 0x%08xu}," % (
            name, rms(x, plain, np.ones(COLS)), rms(x, weighted, imp.astype(np.float64)),
            zlib.crc32(raw.tobytes()) if name in SAME_BYTES else 0))
    out.append("};\n")


def write_model(path, layers, width, heads, kv, tied):
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64), w.add_embedding_length(width), w.add_block_count(layers), w.add_feed_forward_length(512)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(width // heads)
    names = []

    def add(name, *shape):
        names.append((name, shape))
        w.add_tensor(name, np.zeros(shape, np.float32))

    add("token_embd.weight", 32, width)
    for n in range(layers):
        p = "blk.%d." % n
        add(p + "attn_norm.weight", width), add(p + "attn_q.weight", width, width)
        add(p + "attn_k.weight", width * kv // heads, width), add(p + "attn_v.weight", width * kv // heads, width)
        add(p + "attn_output.weight", width, width), add(p + "ffn_norm.weight", width)
        add(p + "ffn_gate.weight", 512, width), add(p + "ffn_up.weight", 512, width), add(p + "ffn_down.weight", width, 512)
    add("output_norm.weight", width)
    if not tied:
        add("output.weight", 32, width)
    w.add_tokenizer_model("no_vocab")
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()
    return names


class ImatrixEntry(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


def recipe_table(out):
    @llama_cpp.llama_log_callback
    def quiet(level, text, user):
        pass
    llama_cpp.llama_log_set(quiet, None)
    out.append("/* Types of a llama model's tensors as llama.cpp chooses them: embedding, then q k v output gate up down of each\n"
               " * layer, then the head unless tied; one letter each, see TYPE_LETTERS. */")
    letters = {n: chr(ord("a") + i) for i, n in enumerate(["F32", "F16", "BF16"] + list(TYPES))}
    out.append("static const struct {\n    char letter;\n    sala_dtype dtype;\n} type_letters[] = {")
    out += ["    {'%s', SALA_%s}," % (c, n) for n, c in letters.items()]
    out.append("};\n")
    out.append("static const struct {\n    int layers, width, heads, kv;\n    bool tied, has_importance;\n    const char *recipe, *types;\n} frozen_recipes[] = {")
    shapes = [(20, 256, 8, 2, False), (17, 256, 4, 4, True), (9, 288, 9, 3, True)]
    with tempfile.TemporaryDirectory() as d:
        src, dst = os.path.join(d, "a.gguf"), os.path.join(d, "b.gguf")
        for layers, width, heads, kv, tied in shapes:
            names = write_model(src, layers, width, heads, kv, tied)
            ones = (ctypes.c_float * 4096)(*([1.0] * 4096))
            entries = (ImatrixEntry * (len(names) + 1))()
            for i, (n, shape) in enumerate(names):
                entries[i] = ImatrixEntry(n.encode(), ones, shape[-1])
            for with_imatrix in (False, True):
                for recipe, number in RECIPES.items():
                    if recipe == "Q2_K_S" and not with_imatrix:
                        continue  # llama.cpp refuses
                    p = llama_cpp.llama_model_quantize_default_params()
                    p.nthread, p.ftype, p.allow_requantize = 1, number, True
                    if with_imatrix:
                        p.imatrix = ctypes.cast(entries, type(p.imatrix)) if p.imatrix is not None else ctypes.addressof(entries)
                    if llama_cpp.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(p)):
                        raise SystemExit("llama.cpp could not make %s" % recipe)
                    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(dst).tensors}
                    text = "".join(letters[types[n]] for n, shape in names if len(shape) == 2)
                    out.append('    {%d, %d, %d, %d, %s, %s, "%s",\n     "%s"},' % (
                        layers, width, heads, kv, str(tied).lower(), str(with_imatrix).lower(), recipe, text))
    out.append("};")


def main():
    out = ["/* Made by freeze.py, which tells where the numbers come from. */", "/* clang-format off */",
           "#define FROZEN_ROWS %d" % ROWS, "#define FROZEN_COLS %d\n" % COLS]
    rows_table(out)
    recipe_table(out)
    (pathlib.Path(__file__).parent / "frozen.h").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
