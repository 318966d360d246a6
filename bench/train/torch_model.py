"""The dense model (llama) and the hybrid (MiniCPM-SALA) as somebody would train them with PyTorch: eager, with
F.scaled_dot_product_attention, F.rms_norm and Lightning attention in chunks of 64 by matrix products. Weights come from a
Hugging Face directory; names of parameters are those of the file.

Softmax layers are dense unless `softmax_core` says otherwise: eager PyTorch has no block-sparse attention with a backward
pass on the CPU.
"""
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

CHUNK = 64


def slopes(n):
    """ALiBi's: a geometric series for a power of two, else filled up from the series of the next one."""
    below = 1 << (n.bit_length() - 1)

    def series(m):
        return [2.0 ** (-8.0 * (i + 1) / m) for i in range(m)]

    return series(below) + series(2 * below)[0::2][:n - below]


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Decay:
    """What Lightning attention of one number of heads and length multiplies with; the same for all layers and steps."""

    def __init__(self, heads, chunks):
        slope = torch.tensor(slopes(heads), dtype=torch.float64)[:, None, None]
        t = torch.arange(CHUNK, dtype=torch.float64)
        self.inside = (torch.exp(-slope * (t[:, None] - t).clamp(min=0)) * (t[:, None] >= t)).float()[:, None]
        self.carried = torch.exp(-slope * (t[:, None] + 1)).float()[:, None]     # [heads, 1, CHUNK, 1]
        self.left = torch.exp(-slope * (CHUNK - 1 - t[:, None])).float()[:, None]
        c = torch.arange(chunks, dtype=torch.float64)
        apart = c[:, None] - 1 - c                                               # chunks between, for the state before
        self.between = (torch.exp(-slope * CHUNK * apart.clamp(min=0)) * (apart >= 0)).float()  # [heads, chunks, chunks]


class Net(torch.nn.Module):
    def __init__(self, directory):
        super().__init__()
        directory = pathlib.Path(directory)
        c = self.c = json.loads((directory / "config.json").read_text())
        if c["model_type"] not in ("llama", "minicpm_sala"):
            raise SystemExit("torch_model: no family %s" % c["model_type"])
        self.hybrid = c["model_type"] == "minicpm_sala"
        self.names = {}
        for file in sorted(directory.glob("*.safetensors")):
            for name, value in load_file(file).items():
                self.names[name] = name.replace(".", "_")
                self.register_parameter(self.names[name], torch.nn.Parameter(value.float()))
        self.tables, self.decays = {}, {}
        self.softmax_core = causal

    def w(self, name):
        return getattr(self, self.names[name])

    def linear(self, x, name):
        return F.linear(x, self.w(name + ".weight"))

    def norm(self, x, name):
        w = self.w(name + ".weight")  # under autocast x may be bf16: with a weight of another type F.rms_norm is not fused
        return F.rms_norm(x.to(w.dtype), w.shape, w, self.c["rms_norm_eps"])

    def angles(self, lengths, d):
        key = (lengths, d)
        if key not in self.tables:
            inv = self.c["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
            angle = torch.outer(torch.cat([torch.arange(n, dtype=torch.float64) for n in lengths]), inv)
            angle = torch.cat([angle, angle], -1)
            self.tables = {key: (angle.cos().float(), angle.sin().float())}
        return self.tables[key]

    def turn(self, x):
        cos, sin = self.angles(self.lengths, x.shape[-1])
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def heads(self, x, name, count):
        return self.linear(x, name).unflatten(-1, (count, -1)).transpose(1, 2)  # [B, heads, T, d]

    def by_document(self, core, q, k, v):
        if len(self.lengths) == 1:
            return core(q, k, v)
        parts = zip(*(x.split(self.lengths, 2) for x in (q, k, v)))
        return torch.cat([core(*p) for p in parts], 2)

    def softmax_layer(self, x, p):
        c = self.c
        n, kv = c["num_attention_heads"], c["num_key_value_heads"]
        q, k, v = self.heads(x, p + "q_proj", n), self.heads(x, p + "k_proj", kv), self.heads(x, p + "v_proj", kv)
        if c.get("attn_use_rope", True):
            q, k = self.turn(q), self.turn(k)
        if kv < n and self.softmax_core is causal:
            k, v = k.repeat_interleave(n // kv, 1), v.repeat_interleave(n // kv, 1)
        o = self.by_document(self.softmax_core, q, k, v).transpose(1, 2).flatten(2)
        if c.get("attn_use_output_gate"):
            o = o * torch.sigmoid(self.linear(x, p + "o_gate"))
        return self.linear(o, p + "o_proj")

    def lightning_core(self, q, k, v):
        heads, n, d = q.shape[1:]
        chunks = -(-n // CHUNK)
        if (heads, chunks) not in self.decays:
            self.decays[heads, chunks] = Decay(heads, chunks)
        decay = self.decays[heads, chunks]
        q, k, v = (F.pad(x, (0, 0, 0, chunks * CHUNK - n)).unflatten(2, (chunks, CHUNK)) for x in (q, k, v))
        o = (q @ k.transpose(-1, -2) * decay.inside) @ v
        adds = (k * decay.left).transpose(-1, -2) @ v                            # [B, heads, chunks, d, d]
        states = (decay.between @ adds.flatten(3)).unflatten(-1, (d, d))         # before each chunk
        o = o + (q * decay.carried) @ states
        return o.flatten(2, 3)[:, :, :n] * self.scale

    def lightning_layer(self, x, p):
        c = self.c
        n, kv, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        n, kv = c.get("lightning_nh", n), c.get("lightning_nkv", kv)
        self.scale = {"1/sqrt(d)": d ** -0.5, "1/d": 1.0 / d}.get(c["lightning_scale"], 1.0)
        q, k, v = self.heads(x, p + "q_proj", n), self.heads(x, p + "k_proj", kv), self.heads(x, p + "v_proj", kv)
        if c["qk_norm"]:
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
        if c["lightning_use_rope"]:
            q, k = self.turn(q), self.turn(k)
        if kv < n:
            k, v = k.repeat_interleave(n // kv, 1), v.repeat_interleave(n // kv, 1)
        o = self.by_document(self.lightning_core, q, k, v).transpose(1, 2).flatten(2)
        if c["use_output_norm"]:
            o = self.norm(o, p + "o_norm")
        if c["use_output_gate"]:
            o = o * torch.sigmoid(self.linear(x, p + "z_proj"))
        return self.linear(o, p + "o_proj")

    def forward(self, ids, lengths=None):
        """ids [B, T]; lengths: of the documents that lie side by side in every row, default one. Logits [B, T, V]."""
        c = self.c
        self.lengths = tuple(lengths or (ids.shape[1],))
        residual = c["scale_depth"] / math.sqrt(c["num_hidden_layers"]) if self.hybrid else 1.0
        h = F.embedding(ids, self.w("model.embed_tokens.weight"))
        if self.hybrid:
            h = h * c["scale_emb"]
        for layer in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % layer
            lightning = self.hybrid and c["mixer_types"][layer] == "lightning-attn"
            x = self.norm(h, p + "input_layernorm")
            y = (self.lightning_layer if lightning else self.softmax_layer)(x, p + "self_attn.")
            h = h + (y * residual if self.hybrid else y)
            x = self.norm(h, p + "post_attention_layernorm")
            y = self.linear(F.silu(self.linear(x, p + "mlp.gate_proj")) * self.linear(x, p + "mlp.up_proj"), p + "mlp.down_proj")
            h = h + (y * residual if self.hybrid else y)
        h = self.norm(h, "model.norm")
        if self.hybrid:
            h = h / (c["hidden_size"] / c["dim_model_base"])
        return self.linear(h, "model.embed_tokens" if c["tie_word_embeddings"] else "lm_head")


def optimizer(net, lr, betas, eps, weight_decay, lr_factor=lambda name: 1.0):
    """Matrices decay, vectors do not. fused where this CPU's build has it. lr_factor: of a parameter by its name."""
    groups = {}
    for name, attribute in net.names.items():
        p = getattr(net, attribute)
        key = (weight_decay if p.dim() > 1 else 0.0, lr_factor(name))
        groups.setdefault(key, []).append(p)
    made = [{"params": ps, "weight_decay": decay, "lr": lr * factor, "factor": factor} for (decay, factor), ps in groups.items()]
    try:
        return torch.optim.AdamW(made, lr=lr, betas=betas, eps=eps, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(made, lr=lr, betas=betas, eps=eps, foreach=True)
