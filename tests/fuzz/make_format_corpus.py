#!/usr/bin/env python3
"""Writes the seed corpora of fuzz_gguf, fuzz_safetensors, fuzz_config and fuzz_npy beside this file."""
import json
import os
import struct

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def put(folder, name, data):
    os.makedirs(os.path.join(HERE, folder), exist_ok=True)
    with open(os.path.join(HERE, folder, name), "wb") as f:
        f.write(data)


def string(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def value(kind, v):
    if kind == 8:
        return string(v)
    if kind == 9:
        elem, items = v
        return struct.pack("<IQ", elem, len(items)) + b"".join(value(elem, x) for x in items)
    return struct.pack("<" + FORMS[kind], v)


def gguf(pairs, tensors, version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, kind, v in pairs:
        out += string(key) + struct.pack("<I", kind) + value(kind, v)
    at, data = 0, b""
    for name, dims, kind, size in tensors:
        out += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, at)
        data += b"\x3f" * size + b"\0" * (-size % 32)
        at = len(data)
    return out + b"\0" * (-len(out) % 32) + data


def model(arch, more=(), tensors=()):
    p = [("general.architecture", 8, arch), (f"{arch}.block_count", 4, 1), (f"{arch}.embedding_length", 4, 8),
         (f"{arch}.feed_forward_length", 4, 8), (f"{arch}.attention.head_count", 4, 2),
         (f"{arch}.attention.head_count_kv", 9, (4, [1])), (f"{arch}.context_length", 4, 64),
         (f"{arch}.attention.layer_norm_rms_epsilon", 6, 1e-5)]
    t = [("token_embd.weight", [8, 2], 0, 64), ("blk.0.attn_norm.weight", [8], 0, 32)]
    return gguf(p + list(more), t + list(tensors))


def safetensors(header, data):
    h = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(h)) + h + data


def npy(descr, shape, data, order=False):
    h = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    h += b" " * (63 - (10 + len(h)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(h)) + h + data


def main():
    every = [(f"k.{k}", k, 1) for k in FORMS] + [("k.8", 8, "text"), ("k.9", 9, (8, ["a", ""])),
                                                 ("k.99", 9, (9, [(0, [1, 2]), (8, ["x"])]))]
    put("gguf", "values", gguf(every, []))
    put("gguf", "tensors", gguf([("general.alignment", 4, 32)], [("q", [32, 2], 2, 36), ("s", [], 0, 4)], 2))
    put("gguf", "llama", model("llama", [("llama.rope.scaling.factor", 6, 2.0)]))
    put("gguf", "minicpm", model("minicpm", [("minicpm.rope.scaling.type", 8, "longrope"),
                                             ("tokenizer.ggml.tokens", 9, (8, ["<s>", "<|im_end|>"])),
                                             ("tokenizer.ggml.token_type", 9, (5, [3, 3]))],
                                 [("rope_factors_long.weight", [2], 0, 8), ("rope_factors_short.weight", [2], 0, 8)]))
    put("gguf", "qwen2", model("qwen2", [("qwen2.rope.scaling.type", 8, "yarn"), ("qwen2.rope.scaling.factor", 6, 4.0)]))
    put("gguf", "big_endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0))

    t = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    put("safetensors", "one", safetensors({"__metadata__": {"format": "pt"}, "a": t}, b"\1" * 8))
    put("safetensors", "two", safetensors(
        {"a": t, "b": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [8, 14]},
         "c": {"dtype": "I8", "shape": [], "data_offsets": [14, 15]}}, b"\2" * 15))
    put("safetensors", "padded", safetensors(json.dumps({"a": t}).encode() + b"   ", b"\3" * 8))
    put("safetensors", "empty", safetensors({}, b""))

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 9, "max_position_embeddings": 64, "eos_token_id": [1, 2]}
    longrope = {"rope_type": "longrope", "long_factor": [1, 2], "short_factor": [1, 1.5],
                "original_max_position_embeddings": 32}
    configs = {
        "llama": {"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                                                          "high_freq_factor": 4}},
        "minicpm": {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 4,
                    "rope_scaling": longrope},
        "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0,
                  "rope_parameters": {"rope_type": "yarn", "factor": 2, "rope_theta": 100}},
        "qwen3": {"model_type": "qwen3", "head_dim": 4, "layer_types": ["full_attention"], "attention_bias": True},
        "mistral": {"model_type": "mistral", "sliding_window": None, "rope_scaling": {"type": "linear", "factor": 2}},
    }
    for name, c in configs.items():
        put("config", name, json.dumps({**shape, **c}).encode())
    put("config", "generation", json.dumps({**shape, **configs["llama"]}).encode() + b"\0" + json.dumps(
        {"eos_token_id": 3, "temperature": 0.5, "top_k": 5, "do_sample": False}).encode())

    put("npy", "int64", npy("<i8", (2,), struct.pack("<2q", 5, 6)))
    put("npy", "float32", npy("<f4", (1, 2), struct.pack("<2f", 5, 6)))
    put("npy", "scalar", npy("|u1", (), b"\7", True))
    put("npy", "text", b"1 2\n300\t4\r\n")
    put("npy", "json", b"[1, 2, 300]\n")


if __name__ == "__main__":
    main()
