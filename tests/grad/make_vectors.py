#!/usr/bin/env python3
"""Freezes derivatives of single operations, by PyTorch's autograd in float64, for test_vectors.c. Inputs are f32 numbers, so that
the double and the f32 build compute with the same ones. Run from anywhere; writes vectors/op-*.vec.

Needs torch and numpy (tests/parity/requirements.txt)."""
import math

import numpy as np
import torch

from vectors import rough, save

torch.set_default_dtype(torch.float64)


def draw(gen, *shape, scale=1.0):
    """Uniform in [-scale, scale], exactly f32 numbers."""
    return ((torch.rand(*shape, generator=gen) * 2 - 1) * scale).float().double().requires_grad_(True)


def gradients(outputs, weights, inputs):
    """Of the sum of outputs times fixed weights."""
    total = sum((o * w).sum() for o, w in zip(outputs, weights))
    return torch.autograd.grad(total, inputs)


def freeze(name, inputs, outputs, weights, integers=None):
    """inputs, outputs, weights: dicts; weights has the gradient that arrives at each output."""
    grads = gradients([outputs[k] for k in weights], [weights[k].detach() for k in weights], list(inputs.values()))
    arrays = {k: v.detach().numpy() for k, v in inputs.items()}
    arrays.update({"out." + k: rough(v) for k, v in outputs.items()})
    arrays.update({"d.out." + k: v.detach().numpy() for k, v in weights.items()})
    arrays.update({"d." + k: rough(g) for k, g in zip(inputs, grads)})
    arrays.update(integers or {})
    save("op-" + name, arrays)


def linear():
    gen = torch.Generator().manual_seed(1)
    x, w1, b1, w2 = draw(gen, 37, 24), draw(gen, 40, 24), draw(gen, 40), draw(gen, 16, 24)
    out = {"y1": x @ w1.T + b1, "y2": x @ w2.T}
    freeze("linear", {"x": x, "w1": w1, "b1": b1, "w2": w2}, out, {k: draw(gen, *v.shape) for k, v in out.items()})


def norm(x, w, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * w


def rms_norm():
    gen = torch.Generator().manual_seed(2)
    x, w = draw(gen, 70, 45), draw(gen, 45)
    out = {"y": norm(x, w, 1e-5)}
    freeze("rms_norm", {"x": x, "w": w}, out, {"y": draw(gen, 70, 45)})


def add_norm():
    gen = torch.Generator().manual_seed(3)
    x, y, w = draw(gen, 9, 33), draw(gen, 9, 33), draw(gen, 33)
    h = x + 0.375 * y
    out = {"h": h, "y": norm(h, w, 1e-5)}
    freeze("add_norm", {"x": x, "y": y, "w": w}, out, {"h": draw(gen, 9, 33), "y": draw(gen, 9, 33)})


def rotate(x, cos, sin, half):
    """x [rows, heads, d], cos and sin [rows, n_rot / 2]."""
    n = cos.shape[1]
    c, s = cos[:, None], sin[:, None]
    rest = x[..., 2 * n:]
    if half:
        a, b = x[..., :n], x[..., n:2 * n]
        return torch.cat([a * c - b * s, b * c + a * s, rest], -1)
    a, b = x[..., 0:2 * n:2], x[..., 1:2 * n:2]
    return torch.cat([torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2), rest], -1)


def rope():
    for name, half, n_rot, normed, scaled in (("half", True, 16, True, False), ("pairs", False, 12, False, True),
                                              ("both", False, 16, True, True), ("norm", True, 0, True, False)):
        gen = torch.Generator().manual_seed(4 + n_rot + half)
        rows, heads, d = 21, 3, 16
        x, w = draw(gen, rows, heads, d), draw(gen, d)
        angle = torch.outer(torch.arange(rows, dtype=torch.float64), 0.3 ** torch.arange(n_rot // 2)) * 1.7
        cos, sin = (angle.cos() * 1.125).float().double(), (angle.sin() * 1.125).float().double()
        row_scale = (1 + torch.arange(rows) / 7).float().double()
        y = norm(x, w, 1e-5) if normed else x
        y = rotate(y, cos, sin, half) if n_rot else y
        y = y * row_scale[:, None, None] if scaled else y
        extra = {"cos": cos.numpy(), "sin": sin.numpy(), "row_scale": row_scale.numpy(),
                 "flags": np.array([half, n_rot, normed, scaled])}
        freeze("rope-" + name, {"x": x, "w": w} if normed else {"x": x}, {"y": y}, {"y": draw(gen, rows, heads, d)}, extra)


def gates():
    gen = torch.Generator().manual_seed(5)
    gate, up = draw(gen, 11, 27, scale=4), draw(gen, 11, 27)
    freeze("swiglu", {"gate": gate, "up": up}, {"y": torch.nn.functional.silu(gate) * up}, {"y": draw(gen, 11, 27)})
    x, z = draw(gen, 11, 27), draw(gen, 11, 27, scale=4)
    freeze("sigmoid_gate", {"x": x, "z": z}, {"y": x * torch.sigmoid(z)}, {"y": draw(gen, 11, 27)})


def embedding():
    gen = torch.Generator().manual_seed(6)
    w = draw(gen, 13, 20)
    ids = torch.randint(0, 13, (300,), generator=gen)
    ids[100:240] = 7  # one id that fills several tasks
    freeze("embedding", {"w": w}, {"y": 12.0 * w[ids]}, {"y": draw(gen, 300, 20)}, {"ids": ids.numpy()})


def softmax_attention(q, k, v, mask, scale):
    """q [T, H, e], k and v [T, Hk, e], mask [Hk, T, T]: bool, what a row sees. Output and log-sums [H, T]."""
    group = q.shape[1] // k.shape[1]
    kk, vv = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = torch.einsum("ihe,jhe->hij", q, kk) * scale
    s = s.masked_fill(~mask.repeat_interleave(group, 0), -math.inf)
    lse = torch.logsumexp(s, -1)
    return torch.einsum("hij,jhe->ihe", torch.exp(s - lse[..., None]), vv), lse


def documents_mask(lengths, window=0):
    total = sum(lengths)
    mask = torch.zeros(total, total, dtype=torch.bool)
    at = 0
    for n in lengths:
        i = torch.arange(n)
        see = i[:, None] >= i[None, :]
        if window:
            see &= i[:, None] - i[None, :] < window
        mask[at:at + n, at:at + n] = see
        at += n
    return mask


def attention():
    for name, lengths, heads, kv_heads, e, window in (("dense", [70, 1, 79], 4, 2, 16, 0), ("one", [130], 3, 1, 24, 0),
                                                      ("window", [150, 33], 2, 2, 8, 50)):
        gen = torch.Generator().manual_seed(7 + e)
        total = sum(lengths)
        q, k, v = draw(gen, total, heads, e, scale=2), draw(gen, total, kv_heads, e, scale=2), draw(gen, total, kv_heads, e)
        mask = documents_mask(lengths, window).expand(kv_heads, -1, -1)
        o, lse = softmax_attention(q, k, v, mask, e ** -0.5)
        freeze("attention-" + name, {"q": q, "k": k, "v": v}, {"o": o, "lse": lse}, {"o": draw(gen, total, heads, e)},
               {"lengths": np.array(lengths), "window": np.array([window])})


def sparse():
    """A document of 300 rows that selects blocks from row 100 on, and a short one that sees everything."""
    gen = torch.Generator().manual_seed(8)
    lengths, heads, kv_heads, e, block, most, start = [300, 40], 4, 2, 16, 64, 3, 100
    total = sum(lengths)
    q, k, v = draw(gen, total, heads, e, scale=2), draw(gen, total, kv_heads, e, scale=2), draw(gen, total, kv_heads, e)
    mask = documents_mask(lengths).expand(kv_heads, -1, -1).clone()
    chosen = np.zeros((total, kv_heads, 1 + most), dtype="i4")
    chosen[:, :, 0] = -1
    for i in range(start, lengths[0]):
        for h in range(kv_heads):
            own = i // block
            others = torch.randperm(own, generator=gen)[:most - 1].tolist()
            blocks = sorted(set(others + [own]))
            chosen[i, h, 0] = len(blocks)
            chosen[i, h, 1:1 + len(blocks)] = blocks
            see = torch.zeros(total, dtype=torch.bool)
            for b in blocks:
                see[b * block:min((b + 1) * block, lengths[0])] = True
            mask[h, i] &= see
    o, lse = softmax_attention(q, k, v, mask, e ** -0.5)
    freeze("attention-sparse", {"q": q, "k": k, "v": v}, {"o": o, "lse": lse}, {"o": draw(gen, total, heads, e)},
           {"lengths": np.array(lengths), "selection": chosen, "sparse_from": np.array([start])})


def lightning():
    """By the definition, token by token: S = g S + k^T v, o = s q S, g the first power of the table."""
    for name, lengths, heads, kv_heads, e in (("group", [200, 64, 5], 4, 2, 16), ("one", [333], 2, 2, 12)):
        gen = torch.Generator().manual_seed(9 + e)
        total, group, scale = sum(lengths), heads // kv_heads, 0.25
        q, k, v = draw(gen, total, heads, e), draw(gen, total, kv_heads, e), draw(gen, total, kv_heads, e)
        slope = torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)])
        # The table that operations are given holds f32 powers; rates of powers of two below 1 make all of them exact enough
        # only near 1e-7, so the definition uses the rounded powers themselves, by differences of positions in chunks.
        decay = torch.exp(-slope[:, None] * torch.arange(65)).float().double()
        out = []
        at = 0
        for n in lengths:
            state = torch.zeros(heads, e, e)
            for c0 in range(0, n, 64):
                c1 = min(c0 + 64, n)
                a = q[at + c0:at + c1].transpose(0, 1)
                b = k[at + c0:at + c1].repeat_interleave(group, 1).transpose(0, 1)
                c = v[at + c0:at + c1].repeat_interleave(group, 1).transpose(0, 1)
                i = torch.arange(c1 - c0)
                apart = i[:, None] - i[None, :]
                m = decay[:, apart.clamp(min=0)] * (apart >= 0)
                y = scale * ((a @ b.transpose(1, 2) * m) @ c + decay[:, i + 1, None] * (a @ state))
                state = decay[:, c1 - c0, None, None] * state + (decay[:, c1 - c0 - 1 - i, None] * b).transpose(1, 2) @ c
                out.append(y.transpose(0, 1))
            at += n
        o = torch.cat(out)
        # The same by the recurrence with exact powers: the table's rounding is all that lies between them.
        check, at = [], 0
        for n in lengths:
            s = torch.zeros(heads, e, e)
            for t in range(at, at + n):
                s = torch.exp(-slope)[:, None, None] * s + k[t].repeat_interleave(group, 0)[:, :, None] * v[
                    t].repeat_interleave(group, 0)[:, None]
                check.append(scale * (q[t][:, None] @ s).squeeze(1))
            at += n
        worst = (torch.stack(check) - o).abs().max().item()
        assert worst < 1e-5, worst
        freeze("lightning-" + name, {"q": q, "k": k, "v": v}, {"o": o}, {"o": draw(gen, total, heads, e)},
               {"lengths": np.array(lengths), "decay": decay.numpy(), "scale": np.array([scale])})


def head():
    gen = torch.Generator().manual_seed(10)
    rows, n, vocab = 41, 18, 91
    x, w = draw(gen, rows, n), draw(gen, vocab, n)
    labels = torch.randint(0, vocab, (rows,), generator=gen)
    labels[::5] = -1
    weight = (torch.rand(rows, generator=gen) * 2).float().double()
    divisor, scale, zloss = 0.5, 1 / 33, 1e-3
    z = (x * divisor) @ w.T
    lse = torch.logsumexp(z, -1)
    use = labels >= 0
    nll = (lse - z.gather(1, labels.clamp(min=0)[:, None])[:, 0]) * use
    extra = zloss * lse * lse * use
    total = scale * (weight * (nll + extra)).sum()
    dx, dw = torch.autograd.grad(total, [x, w])
    save("op-head", {
        "x": x.detach().numpy(), "w": w.detach().numpy(), "labels": labels.numpy(), "weight": weight.numpy(),
        "numbers": np.array([divisor, scale, zloss], dtype="f8"),
        "out.losses": rough(nll), "out.sums": np.array([
            (weight * nll).sum().item(), (weight * extra).sum().item(),
            ((z.argmax(-1) == labels) & use).sum().item()], dtype="f8"),
        "d.x": rough(dx), "d.w": rough(dw)})


if __name__ == "__main__":
    for make in (linear, rms_norm, add_norm, rope, gates, embedding, attention, sparse, lightning, head):
        make()
