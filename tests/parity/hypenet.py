#!/usr/bin/env python3
"""HypeNet checkpoints: the program and the reference (sala_ref.py) against the model's own code, on the CPU.

Needs a checkout of thunlp/hybrid-linear-attention (SALA_HYPENET names its folder halo/modeling/hypenet), transformers 4
(4.57 is known to work) and flash-linear-attention's plain functions; says so and skips without. The original runs with
eager attention in float32. Three things are put in its way: the GPU kernels of linear attention are replaced by
flash-linear-attention's naive forms, modules that inference never calls by nothing, and its rounding of scaled queries to
bfloat16 by none.
"""
import importlib
import importlib.util
import os
import pathlib
import shutil
import sys
import types

import numpy as np
import torch
from safetensors.torch import load_file

from common import WORK, Report, sala_logits, token_list

import make_checkpoint  # common has put tests/fixtures on the path
from sala_ref import Model

FILES = ("cache", "configuration_hypenet", "modeling_qwen3", "modeling_hypenet", "lightning_attn")
VARIANTS = [
    {}, {"attn_logits_scaling": None}, {"attn_logits_scaling": 0.75}, {"attn_logits_scaling": "hype"},
    {"attn_logits_scaling": "hype 100.7"}, {"attn_use_rope": True}, {"attn_use_output_gate": False},
    {"lightning_scale": "1/d"}, {"lightning_scale": "1"}, {"lightning_use_rope": False},
    {"lightning_use_output_norm": False}, {"lightning_use_output_gate": False}, {"lightning_use_qk_norm": False},
    {"attention_bias": True}, {"rope_theta": 10000.0}, {"lightning_nkv": 1}, {"lightning_nh": 7, "lightning_nkv": 1},
]


def module(name, **members):
    m = types.ModuleType(name)
    m.__spec__ = importlib.util.spec_from_loader(name, None)
    m.__dict__.update(members)
    sys.modules[name] = m


def load_original(folder):
    naive_file = pathlib.Path(importlib.util.find_spec("fla").submodule_search_locations[0]) / "ops/simple_gla/naive.py"
    spec = importlib.util.spec_from_file_location("naive_simple_gla", naive_file)
    naive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(naive)

    def kernel(form):
        def run(q, k, v, g_gamma, initial_state=None, output_final_state=True, scale=None):
            return form(q, k, v, g_gamma.expand(q.shape[0], q.shape[1], -1), initial_state=initial_state,
                        output_final_state=output_final_state, scale=scale)
        return run

    module("fla")
    module("fla.ops")
    module("fla.ops.simple_gla", chunk_simple_gla=kernel(naive.naive_chunk_simple_gla))
    module("fla.ops.simple_gla.fused_recurrent",
           fused_recurrent_simple_gla=kernel(naive.naive_recurrent_simple_gla))
    module("fla.modules", ShortConvolution=None)
    module("cut_cross_entropy", linear_cross_entropy=None)
    package = WORK / "original" / "hypenet_original"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in FILES:
        text = (pathlib.Path(folder) / (name + ".py")).read_text()
        (package / (name + ".py")).write_text(text.replace("torch.bfloat16", "torch.float32"))
    sys.path.insert(0, str(package.parent))
    return importlib.import_module("hypenet_original.modeling_hypenet").HypeNetForCausalLM


def original_logits(network, directory, ids):
    config = network.config_class.from_json_file(str(directory / "config.json"))
    config._attn_implementation = "eager"
    model = network(config).float().eval()
    weights = {k: v.float() for k, v in load_file(directory / "model.safetensors").items()}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def main():
    report = Report("HypeNet against its own code")
    folder, why = os.environ.get("SALA_HYPENET"), None
    if not folder:
        why = "SALA_HYPENET is not set to halo/modeling/hypenet of a checkout of thunlp/hybrid-linear-attention"
    elif not importlib.util.find_spec("fla"):
        why = "flash-linear-attention is not installed (pip install --no-deps fla-core einops)"
    else:
        import transformers
        if int(transformers.__version__.split(".")[0]) != 4:
            why = "the original needs transformers 4, this is " + transformers.__version__
    if why:
        report.skip("everything", why)
        return report.done()
    network = load_original(folder)
    for base in ("hypenet", "hypenet-bias", "hypenet-plain"):
        for change in VARIANTS:
            if base == "hypenet-plain" and "attn_use_rope" in change:
                continue  # its linear heads are narrower than the one table of angles
            p = dict(make_checkpoint.PRESETS[base])
            p["config"] = dict(p["config"], **change)
            worst = {"program": 0.0, "reference": 0.0}
            for n in (20, 63, 64, 300) if not change else (50, 200):
                directory = WORK / "hypenet"
                make_checkpoint.write_checkpoint(str(directory), p, n)
                ids = token_list(n, 340, n)
                want = original_logits(network, directory, ids)
                for name, got in (("program", sala_logits(directory, ids, "--kernels", "ref")),
                                  ("reference", Model(directory).logits(ids))):
                    worst[name] = max(worst[name], float(np.abs(got - want).max() / want.std()))
            report.check(max(worst.values()) <= 1e-3, "%s %s" % (base, change or "as it is"),
                         "max error of std: " + ", ".join("%s %.1e" % item for item in worst.items()))
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
