#!/usr/bin/env python3
"""Training steps with PyTorch, one process: torch_step.py MODEL_DIR BATCH.npy... --seq-len T --steps N --threads N --precision P

The batches are those that `sala train --dump-batches` has written. Prints one JSON object: seconds and loss of every step, peak
memory. A step is forward, backward, clipping and AdamW, as somebody would write it in eager PyTorch. --peak measures matrix
products only, of the shapes of these models and of larger ones, and prints the best rate.
"""
import argparse
import json
import time

import torch

PEAK_SHAPES = ((1024, 1024, 1024), (2048, 1408, 512), (2048, 512, 1408), (4096, 4096, 1024))


def peak_resident():
    for line in open("/proc/self/status", encoding="ascii"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def product_peak(dtype, seconds=0.7):
    """Floating-point operations a second of the fastest shape: the machine's best by PyTorch's libraries."""
    best = 0.0
    for m, n, k in PEAK_SHAPES:
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        out = torch.empty(m, n, dtype=dtype)
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            torch.mm(a, b.T, out=out)
            best = max(best, 2.0 * m * n * k / (time.perf_counter() - start))
    return best


def run_steps(a):
    import numpy
    from torch_model import Net, optimizer
    after_import = peak_resident()
    net = Net(a.model)
    width = net.c["hidden_size"] / net.c.get("dim_model_base", net.c["hidden_size"])  # muP: matrices learn slower
    opt = optimizer(net, a.lr, (0.9, 0.95), 1e-8, 0.1, lambda name: 1.0 if "norm" in name else 1 / width)
    bf16 = a.precision == "bf16"
    seconds, losses = [], []
    for i in range(a.steps):
        rows = torch.from_numpy(numpy.load(a.batches[i % len(a.batches)])).long()
        ids, labels = rows[0].view(-1, a.seq_len), rows[1]
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = net(ids)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels, ignore_index=-1)
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "losses": losses, "peak_rss_bytes": peak_resident(), "rss_after_import": after_import,
            "fused_adamw": bool(opt.defaults.get("fused"))}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model", nargs="?")
    ap.add_argument("batches", nargs="*")
    ap.add_argument("--seq-len", type=int)
    ap.add_argument("--steps", type=int, default=6)
    ap.add_argument("--threads", type=int, required=True)
    ap.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--peak", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    if a.peak:
        out = {"f32": product_peak(torch.float32), "bf16": product_peak(torch.bfloat16), "torch": torch.__version__}
    else:
        out = run_steps(a)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
