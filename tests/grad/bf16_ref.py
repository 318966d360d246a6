"""Where a bf16 run rounds, in float64 otherwise. Backward formulas are written out here wherever they use other numbers than the
forward pass had: what is kept for them is kept in bf16.

    product     y = r(x) r(W)^T;  dx = r(dy) r(W);  dW = r(dy)^T r(x)
    attention   scores of r(s q) and r(k); exponentials against the running maximum of tiles of 64 keys, r() of them times r(v),
                sums of those that are not rounded; backward r(P), r(dS), r(dO), r(q), r(k), r(v)
    kept        v, core, gate, up and the gate of the mixer, q and k (before their norm where there is one) as r() of them
    everything else (norms, rotation, softmax, lightning attention, residual stream, losses) as it is
"""
import math

import torch
from sala_ref import choose, pool, slopes, stage1

TILE, CHUNK, STATES_EVERY = 64, 64, 4


class Rounding:
    """To bf16, nearest even, by way of f32. noise: x is disturbed by so much of itself before."""

    def __init__(self, noise=0.0, seed=0):
        self.noise, self.gen = noise, torch.Generator().manual_seed(seed)

    def __call__(self, x):
        x = x.detach()
        if self.noise:
            x = x * (1 + self.noise * torch.randn(x.shape, generator=self.gen))
        return x.float().bfloat16().double()


class Product(torch.autograd.Function):
    """x: what the forward pass multiplies, x_back: what the gradient of the weights is made of."""

    @staticmethod
    def forward(ctx, r, x, x_back, w):
        ctx.r, ctx.w, ctx.x_back = r, r(w), r(x_back)
        return r(x) @ ctx.w.T

    @staticmethod
    def backward(ctx, dy):
        d = ctx.r(dy)
        return None, d @ ctx.w, None, d.T @ ctx.x_back


class Kept(torch.autograd.Function):
    """fn(*inputs), and the same of rounded inputs (where `which` says so), at which derivatives are taken, too."""

    @staticmethod
    def forward(ctx, r, fn, which, *inputs):
        ctx.fn, ctx.kept = fn, [r(x) if w else x.detach() for x, w in zip(inputs, which)]
        again = fn(*ctx.kept)
        ctx.mark_non_differentiable(again)
        return fn(*inputs), again

    @staticmethod
    def backward(ctx, dy, _):
        with torch.enable_grad():
            inputs = [x.clone().requires_grad_(True) for x in ctx.kept]
            return (None, None, None) + torch.autograd.grad(ctx.fn(*inputs), inputs, dy)


class Attention(torch.autograd.Function):
    """Heads q [H, n, d], k and v [Hk, n, d] of one document, each as computed and as kept; allowed [Hk, n, n]."""

    @staticmethod
    def forward(ctx, r, q, k, v, q_kept, k_kept, v_kept, allowed, scale):
        group, n = q.shape[0] // k.shape[0], q.shape[1]
        wide = lambda x: x.repeat_interleave(group, 0)
        allowed = wide(allowed)
        s = (r(scale * q) @ wide(r(k)).transpose(1, 2)).masked_fill(~allowed, -math.inf)
        values = wide(r(v))
        top = torch.full(s.shape[:2], -math.inf, dtype=s.dtype)
        total, acc = torch.zeros_like(top), torch.zeros_like(q)
        for j in range(0, n, TILE):
            part = s[:, :, j:j + TILE]
            now = torch.maximum(top, part.max(-1).values)
            keep = torch.where(torch.isinf(top), torch.where(torch.isinf(now), 1.0, 0.0), torch.exp(top - now))
            p = torch.where(torch.isinf(part), 0.0, torch.exp(part - now[..., None]))
            total = total * keep + p.sum(-1)
            acc = acc * keep[..., None] + r(p) @ values[:, j:j + TILE]
            top = now
        out = acc / total[..., None]
        ctx.r, ctx.scale, ctx.group, ctx.allowed = r, scale, group, allowed
        ctx.kept = q_kept.detach(), wide(k_kept.detach()), wide(v_kept.detach()), r(out), top + total.log()
        return out

    @staticmethod
    def backward(ctx, d_out):
        r, (q, k, v, out, lse) = ctx.r, ctx.kept
        s = r(ctx.scale * q) @ r(k).transpose(1, 2)
        p = torch.where(ctx.allowed, torch.exp(s - lse[..., None]), 0.0)
        delta, d = (d_out * out).sum(-1, keepdim=True), r(d_out)
        ds = p * (d @ r(v).transpose(1, 2) - delta) * ctx.scale
        sum_up = lambda x: x.reshape(-1, ctx.group, *x.shape[1:]).sum(1)
        p, ds = r(p), r(ds)
        return (None, ds @ r(k), sum_up(ds.transpose(1, 2) @ r(q)), sum_up(p.transpose(1, 2) @ d)) + (None,) * 5


class Lightning(torch.autograd.Function):
    """The recurrence; backward with what was kept, and with the state of the forward pass every STATES_EVERY chunks."""

    @staticmethod
    def forward(ctx, q, k, v, q_kept, k_kept, v_kept, slope, scale):
        decay = torch.exp(-slope)[:, None, None]
        state, out, states = torch.zeros(q.shape[0], q.shape[2], v.shape[2], dtype=q.dtype), [], []
        for t in range(q.shape[1]):
            if t % (CHUNK * STATES_EVERY) == 0:
                states.append(state)
            state = decay * state + k[:, t, :, None] * v[:, t, None, :]
            out.append(scale * (q[:, t, None, :] @ state)[:, 0])
        ctx.kept = q_kept.detach(), k_kept.detach(), v_kept.detach(), states, decay, scale
        return torch.stack(out, 1)

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, states, decay, scale = ctx.kept
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for t in range(q.shape[1]):
            if t % (CHUNK * STATES_EVERY) == 0:
                state = states[t // (CHUNK * STATES_EVERY)]
            state = decay * state + k[:, t, :, None] * v[:, t, None, :]
            dq[:, t] = scale * (d_out[:, t, None, :] @ state.transpose(1, 2))[:, 0]
        ds = torch.zeros_like(states[0])
        for t in reversed(range(q.shape[1])):
            ds = decay * ds + scale * q[:, t, :, None] * d_out[:, t, None, :]
            dk[:, t] = (ds @ v[:, t, :, None])[..., 0]
            dv[:, t] = (k[:, t, None, :] @ ds)[:, 0]
        return dq, dk, dv, None, None, None, None, None


def rounded_net(base):
    """The model `base` with products in bf16."""

    class RoundedNet(base):
        def __init__(self, config, weights, r):
            super().__init__(config, weights)
            self.r = r

        def product(self, x, x_back, name, bias):
            y = Product.apply(self.r, x, x_back, self.weight(name + ".weight"))
            return y + self.weight(name + ".bias") if bias else y

        def linear(self, x, name, bias):
            return self.product(x, x, name, bias)

        def logits_of(self, h):
            name = "model.embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight"
            return Product.apply(self.r, h, h, self.weight(name))

        def feed(self, x, p):
            bias = self.c.get("mlp_bias", False)
            silu = lambda gate, up: torch.nn.functional.silu(gate) * up
            gate, up = self.linear(x, p + "gate_proj", bias), self.linear(x, p + "up_proj", bias)
            y, y_back = Kept.apply(self.r, silu, (True, True), gate, up)
            return self.product(y, y_back, p + "down_proj", bias)

        def turned(self, x, norm, rotate, factor):
            """q or k as attended, and as it comes from what was kept."""
            cos, sin, half = self.cos, self.sin, self.d // 2  # of this document
            turn = (lambda y: y * cos + torch.cat([-y[..., half:], y[..., :half]], -1) * sin) if rotate else lambda y: y
            if norm is None:
                y = turn(x) * factor
                return y, self.r(y)
            eps = self.c["rms_norm_eps"]
            fn = lambda y, w: turn(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * w) * factor
            return Kept.apply(self.r, fn, (True, False), x, self.weight(norm + ".weight"))

        def attention(self, x, p):
            c, n, hype, r = self.c, x.shape[0], self.family == "hypenet", self.r
            bias = self.family == "qwen2" or c.get("attention_bias", False)
            heads = [self.split(self.linear(x, p + name, bias), count)
                     for name, count in (("q_proj", self.heads), ("k_proj", self.kv), ("v_proj", self.kv))]
            normed, rotate = hype or self.family == "qwen3", c.get("attn_use_rope", self.family != "minicpm_sala")
            words = (c.get("attn_logits_scaling") or "").split() if hype else []
            factor = 1.0
            if words:
                a = float(words[1])
                factor = (torch.log(torch.arange(n, dtype=torch.float64) + a) / math.log(int(a))).float().double()[:, None]
            q, q_kept = self.turned(heads[0], p + "q_norm" if normed else None, rotate, factor)
            k, k_kept = self.turned(heads[1], p + "k_norm" if normed else None, rotate, 1.0)
            v, scale, positions, s = heads[2], 1 / math.sqrt(self.d), torch.arange(n), self.sparse
            allowed = (torch.arange(n) <= positions[:, None]).expand(self.kv, -1, -1)
            if s and self.planned >= s.dense_len:
                group = lambda t: t.detach().reshape(self.kv, self.heads // self.kv, n, self.d)
                assert not (s.nope and normed)
                score_q, score_k = (heads[0], heads[1]) if s.nope else (q, k)
                rows, _ = stage1(group(score_q), score_k.detach(), positions, s, scale)
                chosen, gap = choose(pool(rows, n, s), positions, s)
                allowed = allowed & chosen.repeat_interleave(s.block, -1)[..., :n]
                self.skipping += int((chosen.sum(-1) < positions // s.block + 1).sum())
                self.gaps = torch.minimum(self.gaps, gap.min(0).values)
            o = Attention.apply(r, q, k, v, q_kept, k_kept, r(v), allowed, scale)
            o = o_back = o.transpose(0, 1).reshape(n, -1)
            if c.get("attn_use_output_gate", False):
                gated = lambda y, z: y * torch.sigmoid(z)
                o, o_back = Kept.apply(r, gated, (True, True), o, self.linear(x, p + "o_gate", False))
            return self.product(o, o_back, p + "o_proj", bias and self.family != "qwen2")

        def lightning(self, x, p):
            c, n, r = self.c, x.shape[0], self.r
            prefix = "lightning_" if self.family == "hypenet" else ""
            heads, kv, d = c["lightning_nh"], c["lightning_nkv"], c["lightning_head_dim"]
            bias, normed = c.get("attention_bias", False), c["lightning_use_qk_norm" if prefix else "qk_norm"]
            q, k, v = (self.split(self.linear(x, p + name, bias), count)
                       for name, count in (("q_proj", heads), ("k_proj", kv), ("v_proj", kv)))
            q, q_kept = self.turned(q, p + "q_norm" if normed else None, c["lightning_use_rope"], 1.0)
            k, k_kept = self.turned(k, p + "k_norm" if normed else None, c["lightning_use_rope"], 1.0)
            wide = lambda t: t.repeat_interleave(heads // kv, 0)
            scale = {"1/sqrt(d)": d ** -0.5, "1/d": 1.0 / d}.get(c["lightning_scale"], 1.0)
            slope = torch.tensor(slopes(heads), dtype=torch.float64)
            o = Lightning.apply(q, wide(k), wide(v), q_kept, wide(k_kept), wide(r(v)), slope, scale)
            o = o.transpose(0, 1).reshape(n, heads * d)
            assert c[prefix + "use_output_norm"] and c[prefix + "use_output_gate"]
            eps = c["rms_norm_eps"]
            out = lambda y, w, z: y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * w * torch.sigmoid(z)
            o, o_back = Kept.apply(r, out, (True, False, True), o, self.weight(p + "o_norm.weight"),
                                   self.linear(x, p + "z_proj", bias))
            return self.product(o, o_back, p + "o_proj", bias)

    return RoundedNet
