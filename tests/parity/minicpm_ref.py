"""The MiniCPM family (MiniCPM4, 4.1, BitCPM4) in plain PyTorch, float32, dense attention: a reference to compare with,
because transformers ships no native class for it. Written from the model's definition; one function per formula.
With a `sparse_config` these models are served by sala_ref.py, which shares the rope tables.

    h = e * Embed[id];  h += r * Attn(RMS(h));  h += r * MLP(RMS(h));  logits = RMS(h) / z . Wlm^T
    e = scale_emb, r = scale_depth / sqrt(layers), z = hidden / dim_model_base
"""
import json
import math
import pathlib

import torch
from safetensors.torch import load_file


def rope_tables(c, d, n, planned, rule, dtype):
    """cos and sin [n, d]. longrope, rule "length": the long list when the planned tokens exceed the original context;
    "config": when the configured context does, as the models' own code decides."""
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {"rope_type": "default"}
    theta = c.get("rope_theta") or rope.get("rope_theta") or 10000.0
    inv = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    scale = 1.0
    if rope["rope_type"] != "default":
        assert rope["rope_type"] == "longrope", rope
        original = rope["original_max_position_embeddings"]
        long = max(planned, c["max_position_embeddings"] if rule == "config" else 0) > original
        inv = inv / torch.tensor(rope["long_factor" if long else "short_factor"], dtype=torch.float64)
        ratio = c["max_position_embeddings"] / original
        scale = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    angle = torch.outer(torch.arange(n, dtype=torch.float64), inv)
    angle = torch.cat([angle, angle], -1)
    return (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)


class MiniCPM:
    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.c = json.loads((directory / "config.json").read_text())
        self.w = {}
        for file in sorted(directory.glob("*.safetensors")):
            self.w.update({k: v.float() for k, v in load_file(file).items()})

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"]) * self.w[name]

    def head_dim(self):
        return self.c.get("head_dim") or self.c["hidden_size"] // self.c["num_attention_heads"]

    @torch.no_grad()
    def logits(self, ids, rule="length"):
        c, w, n, d = self.c, self.w, len(ids), self.head_dim()
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        residual = c["scale_depth"] / math.sqrt(c["num_hidden_layers"])
        cos, sin = rope_tables(c, d, n, n, rule, torch.float32)
        turn = lambda x: x * cos + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * sin
        future = torch.full((n, n), -math.inf).triu(1)
        h = w["model.embed_tokens.weight"][torch.tensor(ids)] * c["scale_emb"]
        for layer in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % layer
            x = self.norm(h, p + "input_layernorm.weight")
            split = lambda name, count: (x @ w[p + "self_attn.%s.weight" % name].T).view(n, count, d).transpose(0, 1)
            q, k, v = turn(split("q_proj", heads)), turn(split("k_proj", kv)), split("v_proj", kv)
            k, v = k.repeat_interleave(heads // kv, 0), v.repeat_interleave(heads // kv, 0)
            weight = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(d) + future, -1)
            o = (weight @ v).transpose(0, 1).reshape(n, heads * d)
            h = h + residual * (o @ w[p + "self_attn.o_proj.weight"].T)
            x = self.norm(h, p + "post_attention_layernorm.weight")
            gate = torch.nn.functional.silu(x @ w[p + "mlp.gate_proj.weight"].T)
            h = h + residual * ((gate * (x @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T)
        y = self.norm(h, "model.norm.weight") / (c["hidden_size"] / c["dim_model_base"])
        head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
        return (y @ head.T).numpy()
