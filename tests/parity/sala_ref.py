"""Hybrid and sparse models in plain PyTorch: MiniCPM-SALA, HypeNet, and llama, Qwen or MiniCPM models with a
`sparse_config`. A reference to compare with, written from the definitions; clear rather than fast, and in float64
unless asked otherwise. No model here runs in pieces: whatever a session does in pieces must come out as if it had been
done at once.

Softmax layers are dense or InfLLM-v2. For the query at position i, per key head, with the G query heads of its group:

    k1_j, k2_j   means of `kernel` keys every `stride` (k1), of 4 kernel every 4 stride (k2); a row counts when its last
                 token is not after i
    P_j          sum over the heads of exp(q.k1_j / sqrt d - log sum_m exp(q.k2_m / sqrt d));  0 without any k2 row
    score_b      max of P_j over the rows that share a token with block b; +inf for the first `init` blocks and for the
                 window / block + 1 blocks up to the query's own
    chosen       the topk + window / block best blocks not after the query's own; of equals the lower index
    output       softmax attention over the tokens <= i of the chosen blocks

Lightning layers: S_t = exp(-slope) S_{t-1} + k_t v_t^T, o_t = scale q_t S_t, slopes as in ALiBi in every layer.
"""
import json
import math
import pathlib
from dataclasses import dataclass

import torch
from safetensors.torch import load_file

from minicpm_ref import rope_tables

# ---- Lightning attention ---------------------------------------------------------------------------------------------


def slopes(n):
    """ALiBi slopes: a geometric series for a power of two; otherwise the series of the power below, then every second
    element of the series of the power above."""
    below = 1 << (n.bit_length() - 1)
    series = lambda m: [2.0 ** (-8.0 * (i + 1) / m) for i in range(m)]
    return series(below) + series(2 * below)[0::2][:n - below]


def lightning_recurrent(q, k, v, slope, scale, state=None):
    """q, k [h, n, d], v [h, n, e], slope [h] -> o [h, n, e] and the final state [h, d, e]. The definition itself."""
    decay = torch.exp(-slope)[:, None, None]
    state = q.new_zeros(q.shape[0], q.shape[2], v.shape[2]) if state is None else state.clone()
    out = []
    for t in range(q.shape[1]):
        state = decay * state + k[:, t, :, None] * v[:, t, None, :]
        out.append(scale * (q[:, t, None, :] @ state).squeeze(1))
    return torch.stack(out, 1), state


def lightning_chunked(q, k, v, slope, scale, chunk, state=None):
    """The same in pieces of `chunk` tokens, a short one last; exponents are differences, so none is positive."""
    state = q.new_zeros(q.shape[0], q.shape[2], v.shape[2]) if state is None else state.clone()
    out = []
    for start in range(0, q.shape[1], chunk):
        a, b, c = (x[:, start:start + chunk] for x in (q, k, v))
        t = torch.arange(a.shape[1], dtype=q.dtype)
        apart = t[:, None] - t[None, :]
        weight = torch.exp(-slope[:, None, None] * apart.clamp(min=0)) * (apart >= 0)
        carried = torch.exp(-slope[:, None] * (t + 1))[..., None]
        left = torch.exp(-slope[:, None] * (len(t) - 1 - t))[..., None]
        out.append(scale * (carried * (a @ state) + (a @ b.transpose(1, 2) * weight) @ c))
        state = torch.exp(-slope * len(t))[:, None, None] * state + (left * b).transpose(1, 2) @ c
    return torch.cat(out, 1), state


# ---- InfLLM-v2 -------------------------------------------------------------------------------------------------------


@dataclass
class Sparse:
    kernel: int = 32
    stride: int = 16
    init: int = 1
    block: int = 64
    window: int = 2048
    topk: int = 64
    nope: bool = False
    dense_len: int = 8192

    @classmethod
    def of_config(cls, s):
        return cls(s["kernel_size"], s["kernel_stride"], s["init_blocks"], s["block_size"], s["window_size"], s["topk"],
                   bool(s.get("use_nope", False)), s["dense_len"])

    def option(self):
        """As the program's --sparse takes it."""
        return "topk=%d,window=%d,dense-len=%d,kernel=%d,stride=%d,block=%d,init=%d,nope=%d" % (
            self.topk, self.window, self.dense_len, self.kernel, self.stride, self.block, self.init, self.nope)


def compress(k, kernel, stride):
    """Means of the full windows: k [kv, n, d] -> [kv, M, d]."""
    if k.shape[1] < kernel:
        return k[:, :0]
    return k.unfold(1, kernel, stride).mean(-1)


def visible(rows, kernel, stride, positions):
    """[m, rows]: the last token of the row is not after the position."""
    last = torch.arange(rows) * stride + kernel - 1
    return last[None, :] <= positions[:, None]


def stage1(q, k, positions, s, scale):
    """q [kv, G, m, d], k [kv, n, d] -> P [kv, m, M1] and the normalisers [kv, G, m] (-inf without a coarse row)."""
    k1, k2 = compress(k, s.kernel, s.stride), compress(k, 4 * s.kernel, 4 * s.stride)
    see1 = visible(k1.shape[1], s.kernel, s.stride, positions)
    see2 = visible(k2.shape[1], 4 * s.kernel, 4 * s.stride, positions)
    s1 = q @ k1[:, None].transpose(2, 3) * scale
    s2 = (q @ k2[:, None].transpose(2, 3) * scale).masked_fill(~see2, -math.inf)
    lse = torch.logsumexp(s2, -1) if s2.shape[-1] else torch.full_like(q[..., 0], -math.inf)
    p = torch.exp(s1 - lse[..., None]).masked_fill(~see1 | (lse == -math.inf)[..., None], 0.0)
    return p.sum(1), lse


def pool(p, n, s):
    """P [kv, m, M1] -> [kv, m, B]: the best row that has a token in the block, -inf where there is none."""
    blocks = -(-n // s.block)
    out = p.new_full((p.shape[0], p.shape[1], blocks), -math.inf)
    for b in range(blocks):
        first, end = b * s.block, (b + 1) * s.block
        rows = [j for j in range(p.shape[2]) if j * s.stride < end and j * s.stride + s.kernel > first]
        if rows:
            out[:, :, b] = p[:, :, rows[0]:rows[-1] + 1].max(-1).values
    return out


def choose(score, positions, s):
    """Which blocks: bool [kv, m, B]; and how close the call was [kv, m]: the relative distance from the last block in
    to the first one out, or from an exact tie of the two to the next score; inf when no free choice is contested."""
    index = torch.arange(score.shape[2])
    own = (positions // s.block)[:, None]
    forced = (index < s.init) | ((index >= own - s.window // s.block) & (index <= own))
    allowed = index <= own
    order = score.masked_fill(forced, math.inf).masked_fill(~allowed, -math.inf)
    count = s.topk + s.window // s.block
    rank = torch.sort(order, dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen.scatter_(2, rank.indices[..., :count], True)
    chosen &= allowed
    gap = torch.full(score.shape[:2], math.inf, dtype=score.dtype)
    if rank.values.shape[-1] > count:
        inside, outside = rank.values[..., count - 1], rank.values[..., count]
        contested = torch.isfinite(inside) & torch.isfinite(outside) & (inside > 0)
        edge = inside[..., None]
        above = rank.values.masked_fill(rank.values <= edge, math.inf).min(-1).values
        below = rank.values.masked_fill(rank.values >= edge, -math.inf).max(-1).values
        tied = torch.minimum(above - inside, inside - below)
        gap = torch.where(contested, torch.where(inside == outside, tied, inside - outside) / inside, gap)
    return chosen, gap


def softmax_attention(q, k, v, allowed, scale):
    """q [kv, G, m, d], k and v [kv, n, d], allowed [kv, m, n] -> [kv, G, m, d]."""
    out = torch.empty_like(q)
    for h in range(q.shape[0]):
        for part in torch.arange(q.shape[2]).split(512):  # bounds memory, nothing else
            weight = (q[h][:, part] @ k[h].T * scale).masked_fill(~allowed[h][part], -math.inf).softmax(-1)
            out[h][:, part] = weight @ v[h]
    return out


def infllm(q, k, v, positions, s, scale, q_score=None, k_score=None):
    """Sparse attention of the queries at `positions`; scoring uses q_score and k_score (those before rope) if given.
    Returns the output [kv, G, m, d], the chosen blocks and the gaps of `choose`."""
    n = k.shape[1]
    p, _ = stage1(q if q_score is None else q_score, k if k_score is None else k_score, positions, s, scale)
    chosen, gap = choose(pool(p, n, s), positions, s)
    tokens = chosen.repeat_interleave(s.block, -1)[..., :n] & (torch.arange(n) <= positions[:, None])
    return softmax_attention(q, k, v, tokens, scale), chosen, gap


# ---- models ----------------------------------------------------------------------------------------------------------


class Model:
    """A Hugging Face directory. After logits(): `gaps` holds for each position the smallest gap of `choose` over layers
    and key heads, `closest` the smallest of all; `sparse_tokens` counts queries that went through InfLLM-v2, over
    layers and key heads, and `skipping` those of them that left a block out."""

    def __init__(self, directory, dtype=torch.float64):
        directory = pathlib.Path(directory)
        self.c = json.loads((directory / "config.json").read_text())
        self.dtype = dtype
        self.w, self.used = {}, set()
        for file in sorted(directory.glob("*.safetensors")):
            self.w.update({k: v.to(dtype) for k, v in load_file(file).items()})
        self.family = self.c["model_type"]
        self.heads, self.kv = self.c["num_attention_heads"], self.c["num_key_value_heads"]
        self.d = self.c.get("head_dim") or self.c["hidden_size"] // self.heads

    def weight(self, name):
        self.used.add(name)
        return self.w[name]

    def norm(self, x, name):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"])
        return x * self.weight(name + ".weight")

    def linear(self, x, name, bias):
        y = x @ self.weight(name + ".weight").T
        return y + self.weight(name + ".bias") if bias else y

    def split(self, x, count):
        """[n, count * d] -> [count, n, d]"""
        return x.view(x.shape[0], count, -1).transpose(0, 1)

    def turn(self, x):
        """Rotates the pairs (i, i + d/2) of each head."""
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

    def is_lightning(self, layer):
        return bool(self.c.get("mixer_types")) and self.c["mixer_types"][layer] in ("lightning-attn", "lightning_attn")

    def attention(self, x, p):
        c, n, hype = self.c, x.shape[0], self.family == "hypenet"
        bias = self.family == "qwen2" or c.get("attention_bias", False)
        q = self.split(self.linear(x, p + "q_proj", bias), self.heads)
        k = self.split(self.linear(x, p + "k_proj", bias), self.kv)
        v = self.split(self.linear(x, p + "v_proj", bias), self.kv)
        if hype or self.family == "qwen3":
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
        q_plain, k_plain = q, k
        if c.get("attn_use_rope", self.family != "minicpm_sala"):
            q, k = self.turn(q), self.turn(k)
        logits_scaling = c.get("attn_logits_scaling") if hype else None
        if isinstance(logits_scaling, str):
            words = logits_scaling.split()
            a = float(words[1]) if len(words) > 1 else 362.0
            q = q * (torch.log(torch.arange(n, dtype=self.dtype) + a) / math.log(int(a)))[:, None]
        elif logits_scaling is not None:
            q = q * logits_scaling
        group = lambda t: t.reshape(self.kv, self.heads // self.kv, n, self.d)
        scale, positions, s = 1 / math.sqrt(self.d), torch.arange(n), self.sparse
        o = torch.empty(self.kv, self.heads // self.kv, n, self.d, dtype=self.dtype)
        pick = torch.zeros(n, dtype=torch.bool)
        if s:
            pick[:] = (positions + 1 if self.switch == "position" else torch.tensor(self.planned)) >= s.dense_len
        dense, sparse = positions[~pick], positions[pick]
        if len(dense):
            allowed = (torch.arange(n) <= dense[:, None]).expand(self.kv, -1, -1)
            o[:, :, dense] = softmax_attention(group(q)[:, :, dense], k, v, allowed, scale)
        if len(sparse):
            o[:, :, sparse], chosen, gap = infllm(
                group(q)[:, :, sparse], k, v, sparse, s, scale,
                group(q_plain)[:, :, sparse] if s.nope else None, k_plain if s.nope else None)
            self.sparse_tokens += len(sparse) * self.kv
            self.skipping += int((chosen.sum(-1) < sparse // s.block + 1).sum())
            self.gaps[sparse] = torch.minimum(self.gaps[sparse], gap.min(0).values.double())
        o = o.reshape(self.heads, n, self.d).transpose(0, 1).reshape(n, -1)
        if c.get("attn_use_output_gate", False):
            o = o * torch.sigmoid(self.linear(x, p + "o_gate", False))
        return self.linear(o, p + "o_proj", bias and self.family != "qwen2")

    def lightning(self, x, p):
        c, n = self.c, x.shape[0]
        prefix = "lightning_" if self.family == "hypenet" else ""
        heads, kv, d = c["lightning_nh"], c["lightning_nkv"], c["lightning_head_dim"]
        bias = c.get("attention_bias", False)
        q = self.split(self.linear(x, p + "q_proj", bias), heads)
        k = self.split(self.linear(x, p + "k_proj", bias), kv)
        v = self.split(self.linear(x, p + "v_proj", bias), kv)
        if c["lightning_use_qk_norm" if prefix else "qk_norm"]:
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
        if c["lightning_use_rope"]:
            q, k = self.turn(q), self.turn(k)
        k, v = k.repeat_interleave(heads // kv, 0), v.repeat_interleave(heads // kv, 0)
        assert d == self.d or not c["lightning_use_rope"], "rope tables are those of the softmax heads"
        scale = {"1/sqrt(d)": d ** -0.5, "1/d": 1.0 / d}.get(c["lightning_scale"], 1.0)
        slope = torch.tensor(slopes(heads), dtype=torch.float64)
        o, _ = lightning_recurrent(q.double(), k.double(), v.double(), slope, scale)
        o = o.to(self.dtype).transpose(0, 1).reshape(n, heads * d)
        if c[prefix + "use_output_norm"]:
            o = self.norm(o, p + "o_norm")
        if c[prefix + "use_output_gate"]:
            o = o * torch.sigmoid(self.linear(x, p + "z_proj", bias))
        return self.linear(o, p + "o_proj", bias)

    @torch.no_grad()
    def logits(self, ids, switch="prompt", planned=None, sparse=None):
        """[n, V] as numpy. switch "prompt": the planned length (default: as many as there are) decides for every token
        whether it attends sparsely; "position": each token by its own. sparse: a Sparse instead of the config's own."""
        c, n = self.c, len(ids)
        self.switch, self.planned = switch, n if planned is None else planned
        self.sparse = sparse or (Sparse.of_config(c["sparse_config"]) if c.get("sparse_config") else None)
        self.gaps, self.sparse_tokens, self.skipping = torch.full((n,), math.inf, dtype=torch.float64), 0, 0
        mup = self.family.startswith("minicpm")
        embed = c["scale_emb"] if mup else 1.0
        residual = c["scale_depth"] / math.sqrt(c["num_hidden_layers"]) if mup else 1.0
        divisor = c["hidden_size"] / c["dim_model_base"] if mup else 1.0
        self.cos, self.sin = rope_tables(c, self.d, n, self.planned, "length", self.dtype)
        mlp_bias = c.get("mlp_bias", False)
        h = self.weight("model.embed_tokens.weight")[torch.tensor(ids)] * embed
        for layer in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % layer
            x = self.norm(h, p + "input_layernorm")
            mix = self.lightning(x, p + "self_attn.") if self.is_lightning(layer) \
                else self.attention(x, p + "self_attn.")
            h = h + residual * mix
            x = self.norm(h, p + "post_attention_layernorm")
            y = torch.nn.functional.silu(self.linear(x, p + "mlp.gate_proj", mlp_bias))
            y = y * self.linear(x, p + "mlp.up_proj", mlp_bias)
            h = h + residual * self.linear(y, p + "mlp.down_proj", mlp_bias)
        y = self.norm(h, "model.norm") / divisor
        head = "model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"
        out = (y @ self.weight(head).T).numpy()
        self.closest = float(self.gaps.min())
        assert self.used == set(self.w), "tensors that no formula uses: %s" % sorted(set(self.w) - self.used)
        return out
