#!/usr/bin/env python3
"""One run of llama.cpp (package llama-cpp-python): prints rows like those of `sala bench --json`.

    llama_cpp_run.py MODEL --threads N --depths 0,4096 --prefill 512 --decode 64 [--kv f16|q8_0] [--flash on|off] [--read]

A depth is reached by copying, as `sala bench` does by filling: 512 random tokens are read once, and their cache entries are
restored again and again into further cells of the same sequence until it holds as many cells as the depth asks for. A new
token then attends to exactly as many keys as after reading that many tokens; only their contents repeat, and what attention
costs does not depend on contents. --read reads random tokens all the way instead; both give the same speed.
"""
import argparse
import ctypes
import json
import resource
import time

import llama_cpp as lc

CHUNK = 512


class Engine:
    def __init__(self, a, depths):
        self.log = lc.llama_log_callback(lambda level, text, user: None)
        lc.llama_log_set(self.log, ctypes.c_void_p(0))
        lc.llama_backend_init()
        mp = lc.llama_model_default_params()
        mp.n_gpu_layers = 0
        self.model = lc.llama_model_load_from_file(a.model.encode(), mp)
        if not self.model:
            raise SystemExit("llama.cpp cannot load %s" % a.model)
        cp = lc.llama_context_default_params()
        cp.n_ctx = max(depths) + max(a.prefill, a.decode, CHUNK) + 64
        cp.n_batch = cp.n_ubatch = CHUNK
        if max(depths) > CHUNK and not a.read:
            cp.n_seq_max, cp.kv_unified = 2, True  # the copies pass through a second sequence
        cp.n_threads = cp.n_threads_batch = a.threads
        cp.type_k = cp.type_v = {"f16": lc.GGML_TYPE_F16, "q8_0": lc.GGML_TYPE_Q8_0}[a.kv]
        cp.flash_attn_type = {"on": 1, "off": 0}[a.flash]
        self.ctx = lc.llama_init_from_model(self.model, cp)
        if not self.ctx:
            raise SystemExit("llama.cpp refuses a cache of %s with flash attention %s" % (a.kv, a.flash))
        self.memory = lc.llama_get_memory(self.ctx)
        self.vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        self.random = 1

    def feed(self, n):
        """n random tokens at the end of sequence 0, logits of the last one, in batches."""
        while n > 0:
            k = min(n, CHUNK)
            self.random = (self.random * 1664525 + 1013904223) & 0xFFFFFFFF
            ids = (lc.llama_token * k)(*[3 + (self.random + 7919 * i) % (self.vocab - 3) for i in range(k)])
            if lc.llama_decode(self.ctx, lc.llama_batch_get_one(ids, k)) != 0:
                raise SystemExit("llama_decode failed")
            lc.llama_synchronize(self.ctx)
            n -= k

    def fill(self, depth, read):
        """Empties the cache and brings it to `depth` entries. Returns where the sequence ends, for rewind()."""
        lc.llama_memory_clear(self.memory, True)
        if read or depth <= CHUNK:
            self.feed(depth)
            return depth
        self.feed(CHUNK)
        size = lc.llama_state_seq_get_size(self.ctx, 0)
        state = (ctypes.c_uint8 * size)()
        if lc.llama_state_seq_get_data(self.ctx, state, size, 0) != size:
            raise SystemExit("llama_state_seq_get_data failed")
        for at in range(CHUNK, depth, CHUNK):
            if lc.llama_state_seq_set_data(self.ctx, state, size, 1) == 0:
                raise SystemExit("llama_state_seq_set_data failed")
            lc.llama_memory_seq_cp(self.memory, 1, 0, 0, min(CHUNK, depth - at))
            lc.llama_memory_seq_rm(self.memory, 1, -1, -1)
        return CHUNK

    def rewind(self, end):
        lc.llama_memory_seq_rm(self.memory, 0, end, -1)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, required=True)
    ap.add_argument("--depths", default="0")
    ap.add_argument("--prefill", type=int, default=512)
    ap.add_argument("--decode", type=int, default=64)
    ap.add_argument("--kv", choices=("f16", "q8_0"), default="f16")
    ap.add_argument("--flash", choices=("on", "off"), default="on")
    ap.add_argument("--read", action="store_true")
    a = ap.parse_args()
    depths = [int(d) for d in a.depths.split(",")]
    engine = Engine(a, depths)
    rows = []
    for depth in depths:
        end = engine.fill(depth, a.read)
        for kind, n, warm_up in (("prefill", a.prefill, a.prefill), ("decode", a.decode, 2)):
            engine.feed(warm_up)  # touches weights and work memory
            engine.rewind(end)
            begin = time.perf_counter()
            if kind == "prefill":
                engine.feed(n)
            else:
                for _ in range(n):
                    engine.feed(1)
            seconds = time.perf_counter() - begin
            engine.rewind(end)
            rows.append({"kind": kind, "n": n, "depth": depth, "tokens_per_second": n / seconds})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([dict(r, peak_rss_bytes=peak) for r in rows]))


if __name__ == "__main__":
    main()
