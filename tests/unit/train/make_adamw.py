#!/usr/bin/env python3
"""Writes adamw.h: three tensors through torch.optim.AdamW in float64, with a gradient clipped by its norm.

Run with PyTorch: python3 make_adamw.py > adamw.h
"""
import torch

torch.manual_seed(7)
STEPS, N = 6, 9


def row(x):
    return ", ".join(f"{v:.17g}" for v in x.tolist())


def main():
    p = torch.randn(N, dtype=torch.float64)
    p = p.float().double()  # what the program starts from, exactly
    start = p.clone()
    grads = [(torch.randn(N, dtype=torch.float64) * (4.0 if i == 2 else 0.3)).float().double() for i in range(STEPS)]
    lrs = [0.01, 0.02, 0.02, 0.015, 0.0, 0.005]
    p.requires_grad_(True)
    opt = torch.optim.AdamW([p], lr=0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    after = []
    for g, lr in zip(grads, lrs):
        p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_([p], 1.0)
        opt.param_groups[0]["lr"] = lr
        opt.step()
        after.append(p.detach().clone())
    print("/* Made by make_adamw.py with torch", torch.__version__.split("+")[0], "*/")
    print(f"enum {{ ADAMW_N = {N}, ADAMW_STEPS = {STEPS} }};")
    print(f"static const double adamw_start[ADAMW_N] = {{{row(start)}}};")
    print(f"static const double adamw_lr[ADAMW_STEPS] = {{{', '.join(map(str, lrs))}}};")
    for name, rows in (("grads", grads), ("after", after)):
        print(f"static const double adamw_{name}[ADAMW_STEPS][ADAMW_N] = {{")
        for r in rows:
            print(f"    {{{row(r)}}},")
        print("};")


main()
