#!/usr/bin/env python3
"""Freezes loss and all gradients of small models of every family, by PyTorch's autograd in float64, for test_models.c. The models are
the references of tests/parity (sala_ref.py), whose softmax, recurrences and block selection are written from the definitions;
weights are those of tests/fixtures/make_checkpoint.py, rounded to f32. Two documents share a batch and see nothing of each other.
Blocks are selected by the reference itself; a draw in which a selection is a close call is thrown away.

For bf16 runs the same models are computed once more, with operands rounded where the program rounds them (bf16_ref.py): the double
build has to agree with that to 1e-6. A build with f32 sums cannot, since a sum that ends elsewhere in its last bit is rounded to the
other side once in a while, and that spreads; how far it spreads is found here, too, by disturbing what is rounded by DISTURBED of
itself, several times, and the largest distance of each gradient, doubled, is frozen as the limit.

Needs torch, numpy and safetensors (tests/parity/requirements.txt). Run from anywhere; writes vectors/model-*.vec."""
import json
import math
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "parity"), str(HERE.parent / "fixtures")]

from bf16_ref import Rounding, rounded_net  # noqa: E402
from make_checkpoint import build_config, hypenet, preset, sala, shape, sparse, tensor_table, uniform  # noqa: E402
from sala_ref import Model, Sparse  # noqa: E402
from vectors import rough, save  # noqa: E402

torch.set_default_dtype(torch.float64)

VOCAB, ZLOSS, MTP_WEIGHT = 48, 1e-3, 0.25
DISTURBED, DRAWS = 2.0**-22, 8  # about what sums of 32 to 64 numbers in f32 are off by
LEAST_GAP = 4e-3  # of scores, relative: selections that are closer may go the other way in bf16
SMALL = {"hidden_size": 32, "intermediate_size": 40, "vocab_size": VOCAB}

# name: family, config, lengths of the documents
MODELS = {
    "llama": ("llama", shape(32, 4, 2, 40, 2, attention_bias=True, mlp_bias=True), (37, 20)),
    "qwen2": ("qwen2", shape(32, 4, 2, 40, 2, tie_word_embeddings=True, use_sliding_window=False), (37, 20)),
    "qwen3": ("qwen3", shape(32, 3, 1, 40, 2, head_dim=16, attention_bias=False, use_sliding_window=False), (70, 33)),
    "minicpm": ("minicpm", shape(32, 4, 2, 40, 2, tie_word_embeddings=True, dim_model_base=16), (37, 20)),
    "sala": ("sala", dict(sala(4, 2, 8, "SL", sparse(32, 16, 64, 64, 2, 128)), dim_model_base=16, **SMALL), (70, 100)),
    "sala-sparse": ("sala", dict(sala(4, 2, 8, "SLS", sparse(32, 16, 64, 64, 3, 128), lightning_nkv=2), **SMALL), (330, 60)),
    "minicpm-nope": ("minicpm", shape(32, 4, 1, 40, 2, head_dim=8, tie_word_embeddings=True, sparse_config=sparse(
        32, 16, 64, 64, 3, 128, nope=True)), (330, 40)),
    "hypenet": ("hypenet", dict(hypenet(4, 2, 8, "AL", attn_logits_scaling="hype 500"), **SMALL), (37, 80)),
}


class Net(Model):
    """A reference whose weights have gradients."""

    def __init__(self, config, weights):
        self.c, self.dtype, self.w, self.used = config, torch.float64, weights, set()
        self.family = config["model_type"]
        self.heads, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.d = config.get("head_dim") or config["hidden_size"] // self.heads

    def angles(self, n):
        """Angles are rounded to f32 before the cosine and cosines after, as the program does."""
        inv = self.c["rope_theta"] ** (-np.arange(0, self.d, 2) / self.d)
        angle = np.arange(n, dtype="f4")[:, None] * inv.astype("f4")[None]
        table = lambda fn: torch.tensor(np.concatenate([fn(angle.astype("f8")).astype("f4").astype("f8")] * 2, -1))
        return table(np.cos), table(np.sin)

    def logits_of(self, h):
        return h @ self.weight("model.embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight").T

    def feed(self, x, p):
        bias = self.c.get("mlp_bias", False)
        y = torch.nn.functional.silu(self.linear(x, p + "gate_proj", bias)) * self.linear(x, p + "up_proj", bias)
        return self.linear(y, p + "down_proj", bias)

    def run(self, ids):
        """One document: logits with a graph behind them."""
        c, n = self.c, len(ids)
        self.switch, self.planned = "prompt", n
        self.sparse = Sparse.of_config(c["sparse_config"]) if c.get("sparse_config") else None
        self.gaps, self.sparse_tokens, self.skipping = torch.full((n,), math.inf), 0, 0
        mup = self.family.startswith("minicpm")
        residual = c["scale_depth"] / math.sqrt(c["num_hidden_layers"]) if mup else 1.0
        self.cos, self.sin = self.angles(n)
        h = self.weight("model.embed_tokens.weight")[ids] * (c["scale_emb"] if mup else 1.0)
        for layer in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % layer
            x = self.norm(h, p + "input_layernorm")
            h = h + residual * (self.lightning if self.is_lightning(layer) else self.attention)(x, p + "self_attn.")
            x = self.norm(h, p + "post_attention_layernorm")
            h = h + residual * self.feed(x, p + "mlp.")
        self.hidden, self.divisor = self.norm(h, "model.norm"), c["hidden_size"] / c["dim_model_base"] if mup else 1.0
        return self.logits_of(self.hidden / self.divisor)

    def second(self, ids):
        """Multi-token prediction, after run(): what is said of the token after the next, at all places but the last."""
        c, n = self.c, len(ids) - 1
        mup = self.family.startswith("minicpm")
        residual = c["scale_depth"] / math.sqrt(c["num_hidden_layers"] + 1) if mup else 1.0
        self.cos, self.sin, self.sparse = self.cos[:n], self.sin[:n], None
        embedded = self.weight("model.embed_tokens.weight")[ids[1:]]
        h = self.linear(self.norm(self.hidden[:n], "mtp.norm_h"), "mtp.proj_h", False) \
            + self.linear(self.norm(embedded, "mtp.norm_e"), "mtp.proj_e", False)
        p = "mtp.layer."
        h = h + residual * self.attention(self.norm(h, p + "input_layernorm"), p + "self_attn.")
        h = h + residual * self.feed(self.norm(h, p + "post_attention_layernorm"), p + "mlp.")
        return self.logits_of(self.norm(h, "mtp.norm") / self.divisor)


def descend(net, documents):
    """Mean loss, the same with z-loss, all gradients, the closest selection and how many blocks selections left out."""
    losses, squares, closest, skipping = [], [], math.inf, 0
    for tokens, target in documents:
        z = net.run(tokens)
        lse = torch.logsumexp(z, -1)
        use = target >= 0
        losses.append((lse - z.gather(1, target.clamp(min=0)[:, None])[:, 0])[use])
        squares.append((lse * lse)[use])
        closest, skipping = min(closest, net.gaps.min().item()), skipping + net.skipping
    nll, square = torch.cat(losses), torch.cat(squares)
    total = (nll + ZLOSS * square).mean()
    return [nll.mean().item(), total.item()], torch.autograd.grad(total, list(net.w.values())), closest, skipping


def second_head(name):
    """The same with a block for the token after the next, for unit/train/test_mtp.c. The loss is the mean of the first head's, z-loss
    added, and MTP_WEIGHT times the mean of the second's."""
    family, config, lengths = MODELS[name]
    c = build_config(preset(family, "spm", config), VOCAB, {"bos": 1, "eos": 2})
    d, weights = c["hidden_size"], {}
    table = list(tensor_table(c, family))
    table += [("mtp.layer." + row[0][len("model.layers.0."):], *row[1:]) for row in table if row[0].startswith("model.layers.0.")]
    table += [("mtp.%s.weight" % t, [d], 1.0, 0.2) for t in ("norm", "norm_h", "norm_e")]
    table += [("mtp.%s.weight" % t, [d, d], 0.0, 0.3) for t in ("proj_h", "proj_e")]
    for tensor, dims, centre, spread in table:
        values = np.array(list(uniform(tensor, 7, math.prod(dims)))) * spread + centre
        weights[tensor] = torch.tensor(values.astype("f4").astype("f8")).reshape(dims).requires_grad_(True)
    gen = torch.Generator().manual_seed(7)
    net, ids, labels, first, squares, second = Net(c, weights), [], [], [], [], []
    for n in lengths:
        tokens = torch.randint(0, VOCAB, (n,), generator=gen)
        target = torch.cat([tokens[1:], torch.tensor([-1])])
        target[torch.rand(n, generator=gen) < 0.2] = -1
        for z, y, out in ((net.run(tokens), target, first), (net.second(tokens), target[1:], second)):
            lse, use = torch.logsumexp(z, -1), y >= 0
            out.append((lse - z.gather(1, y.clamp(min=0)[:, None])[:, 0])[use])
            if out is first:
                squares.append((lse * lse)[use])
        ids.append(tokens)
        labels.append(target)
    assert net.used == set(weights), set(weights) - net.used
    first, squares, second = (torch.cat(x).mean() for x in (first, squares, second))
    grads = torch.autograd.grad(first + ZLOSS * squares + MTP_WEIGHT * second, list(weights.values()))
    arrays = {"config": np.frombuffer(json.dumps(c).encode(), dtype="u1").astype("i4"), "ids": torch.cat(ids).numpy(),
              "labels": torch.cat(labels).numpy(), "lengths": np.array(lengths),
              "loss": np.array([first.item(), ZLOSS * squares.item(), second.item()]), "zloss": np.array([ZLOSS]),
              "weight": np.array([MTP_WEIGHT])}
    for (key, value), grad in zip(weights.items(), grads):
        key = key[:-len(".weight")] if key.startswith("mtp.") and ".layer." not in key else key
        arrays[key], arrays["d." + key] = value.detach().numpy(), rough(grad)
    save("mtp-" + name, arrays)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def rounded(c, weights, documents):
    """What bf16 runs have to give, and how far those with f32 sums may be from it; None when a selection is a close call."""
    loss, grads, closest, _ = descend(rounded_net(Net)(c, weights, Rounding()), documents)
    if closest < LEAST_GAP:
        return None
    limits = [0.0] * (len(grads) + 1)
    for draw in range(DRAWS):
        other, theirs, _, _ = descend(rounded_net(Net)(c, weights, Rounding(DISTURBED, draw)), documents)
        limits[0] = max(limits[0], abs(other[1] / loss[1] - 1))
        for i, (a, b) in enumerate(zip(theirs, grads)):
            limits[i + 1] = max(limits[i + 1], distance(a, b))
    arrays = {"bf16.loss": np.array(loss), "bf16.limits": np.array([2 * x for x in limits])}
    arrays.update({"bf16.d." + key: rough(grad) for key, grad in zip(weights, grads)})
    return arrays


def attempt(name, seed):
    family, config, lengths = MODELS[name]
    c = build_config(preset(family, "spm", config), VOCAB, {"bos": 1, "eos": 2})
    weights = {}
    for tensor, dims, centre, spread in tensor_table(c, family):
        values = np.array(list(uniform(tensor, seed, math.prod(dims)))) * spread + centre
        weights[tensor] = torch.tensor(values.astype("f4").astype("f8")).reshape(dims).requires_grad_(True)
    gen = torch.Generator().manual_seed(seed)
    net, documents = Net(c, weights), []
    for n in lengths:
        tokens = torch.randint(0, VOCAB, (n,), generator=gen)
        target = torch.cat([tokens[1:], torch.tensor([-1])])
        target[torch.rand(n, generator=gen) < 0.2] = -1  # places without a loss
        documents.append((tokens, target))
    loss, grads, closest, skipping = descend(net, documents)
    assert net.used == set(weights), set(weights) - net.used
    if closest < 1e-3:
        return None
    if net.sparse and max(lengths) >= net.sparse.dense_len:
        assert skipping, "nothing was left out: the model shows nothing of selection"
    half = rounded(c, weights, documents)
    if not half:
        return None
    arrays = {"config": np.frombuffer(json.dumps(c).encode(), dtype="u1").astype("i4"),
              "ids": torch.cat([d[0] for d in documents]).numpy(), "labels": torch.cat([d[1] for d in documents]).numpy(),
              "lengths": np.array(lengths), "zloss": np.array([ZLOSS]), "loss": np.array(loss), **half}
    for (key, value), grad in zip(weights.items(), grads):
        assert grad.abs().max() > 0, key
        arrays[key] = value.detach().numpy()
        arrays["d." + key] = rough(grad)
    return arrays


def main():
    for name in ("minicpm", "sala"):
        second_head(name)
    for name in MODELS:
        for seed in range(1, 50):
            arrays = attempt(name, seed)
            if arrays:
                save("model-" + name, arrays)
                break
        else:
            sys.exit("%s: every draw has a selection that is a close call" % name)


if __name__ == "__main__":
    main()
