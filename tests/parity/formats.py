#!/usr/bin/env python3
"""Files against the Python packages gguf, safetensors and numpy.

    formats.py [MODEL.gguf ...]

The packages write files; format_copy.c reads each with our reader and writes it with our writer; the packages read the
copy. Nothing may have changed: keys, types, values, shapes, bytes. Further GGUF files (a real model) may be named.
Needs numpy, gguf, safetensors, torch; a C compiler and jansson.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build(folder):
    tool = os.path.join(folder, "format_copy")
    sources = [os.path.join(ROOT, "tests/parity/format_copy.c"), os.path.join(ROOT, "src/tensor/dtype.c")]
    for module in ("os", "base", "format"):
        sources += glob.glob(os.path.join(ROOT, "src", module, "*.c"))
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-I", os.path.join(ROOT, "src"),
                    "-I", os.path.join(ROOT, "include"), "-o", tool, *sources, "-ljansson", "-lm", "-lpthread"],
                   check=True)
    return lambda *args: subprocess.run([tool, *map(str, args)], check=True, capture_output=True, text=True).stdout


def gguf_contents(path):
    reader = gguf.GGUFReader(path)
    fields = {name: ([t.name for t in f.types], f.contents()) for name, f in reader.fields.items()
              if not name.startswith(("GGUF.", "split."))}
    tensors = {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
    return fields, tensors


def write_gguf(path, **options):
    w = gguf.GGUFWriter(path, "llama", **options)
    if not options:
        w.add_custom_alignment(64)
    w.add_uint8("t.u8", 255)
    w.add_int8("t.i8", -128)
    w.add_uint16("t.u16", 65535)
    w.add_int16("t.i16", -32768)
    w.add_uint32("t.u32", 4294967295)
    w.add_int32("t.i32", -2147483648)
    w.add_uint64("t.u64", 2**64 - 1)
    w.add_int64("t.i64", -(2**63))
    w.add_float32("t.f32", 0.1)
    w.add_float64("t.f64", 0.1)
    w.add_bool("t.bool", True)
    w.add_string("t.str", "grüße 你好 \n\t\x00 end")
    w.add_array("t.strings", ["", "a", "é" * 100])
    w.add_array("t.ints", [1, -2, 3])
    w.add_array("t.floats", [0.5, -1e30])
    w.add_array("t.bools", [True, False])
    rng = np.random.default_rng(1)
    w.add_tensor("f32", rng.standard_normal((5, 7, 3), dtype=np.float32))
    w.add_tensor("f16", rng.standard_normal((4, 33)).astype(np.float16))
    w.add_tensor("i8", np.arange(9, dtype=np.int8))
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "TQ1_0", "TQ2_0"):
        q = getattr(gguf.GGMLQuantizationType, kind)
        data = gguf.quants.quantize(rng.standard_normal((3, 256), dtype=np.float32), q)
        w.add_tensor(kind.lower(), data, raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def same(what, a, b):
    if a != b:
        sys.exit(f"FAIL {what}")
    print(f"ok   {what}")


def check_gguf(copy, folder, real):
    path, out = f"{folder}/x.gguf", f"{folder}/y.gguf"
    write_gguf(path)
    copy("gguf", path, out)
    same("gguf: every value and tensor type", gguf_contents(path), gguf_contents(out))
    write_gguf(f"{folder}/s.gguf", split_max_tensors=4)
    parts = sorted(glob.glob(f"{folder}/s-*-of-*.gguf"))
    assert len(parts) > 1, parts
    copy("gguf", parts[-1], out)
    fields, tensors = {}, {}
    for part in parts:
        f, t = gguf_contents(part)
        fields = {**f, **fields}
        tensors.update(t)
    same(f"gguf: split in {len(parts)}", (fields, tensors), gguf_contents(out))
    for path in real:
        copy("gguf", path, out)
        same(f"gguf: {os.path.basename(path)}", gguf_contents(path), gguf_contents(out))


def check_safetensors(copy, folder):
    torch.manual_seed(1)
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int16, torch.int32,
             torch.int64]
    tensors = {f"t.{i}": (torch.randn(3, 5 + i) * 50).to(k) for i, k in enumerate(kinds)}
    tensors["scalar"] = torch.tensor(3.5)
    tensors['quote " back \\ é'] = torch.arange(6).reshape(1, 2, 3, 1)
    path, out = f"{folder}/model.safetensors", f"{folder}/y.safetensors"
    save_file(tensors, path)

    def equal(a, b):
        return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)

    copy("safetensors", folder, out)
    same("safetensors: every type", equal(tensors, load_file(out)), True)
    with safe_open(out, "pt") as f:
        same("safetensors: format is named", f.metadata(), {"format": "pt"})
    os.remove(path)
    names, index = list(tensors), {}
    for i in range(2):
        shard = f"model-{i + 1:05d}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names[i::2]}, f"{folder}/{shard}")
        index.update({n: shard for n in names[i::2]})
    with open(f"{folder}/model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {}, "weight_map": index}, f)
    copy("safetensors", folder, out)
    same("safetensors: two shards", equal(tensors, load_file(out)), True)


def check_numpy(copy, folder):
    path = f"{folder}/x.npy"
    copy("npy", 3, 1000, path)
    got = np.load(path)
    same("npy: written", (got.dtype, got.tobytes()),
         (np.dtype("<f4"), np.arange(3000, dtype=np.float32).tobytes()))
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        for ids in ([], [0, 1, 127], [[1, 2], [3, 4]]):
            np.save(path, np.array(ids, dtype=dtype))
            same(f"npy: ids as {dtype} {ids}", [int(x) for x in copy("ids", path).split()],
                 np.array(ids).ravel().astype(int).tolist())


def main():
    with tempfile.TemporaryDirectory() as folder:
        copy = build(folder)
        check_gguf(copy, folder, sys.argv[1:])
        check_safetensors(copy, folder)
        check_numpy(copy, folder)


if __name__ == "__main__":
    main()
