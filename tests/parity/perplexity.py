#!/usr/bin/env python3
"""Perplexity of fast kernels against the reference, for every type of weights and every kernel family of this CPU.

The default model is stored in each type and predicts the same text with `--kernels ref` (f32 activations, weights decoded
exactly, an f32 cache) and with each family (8-bit or bf16 activations, an f16 cache). Perplexities may differ by 0.3 %.
Rows of the model that do not divide into blocks of 256 keep the type that quantisation falls back to, which is a smaller
block's; types of 256 are therefore seen in the layers' ffn_down only.

Ternary types would leave a model that was not trained for them with nothing to say (six such layers of thirty: a perplexity
of 6290), and the difference of two absurd perplexities means nothing. They are put into one layer's ffn_down of a Q8_0 file,
which still predicts text, and held to the same limit.

The text is SALA_TEXT, or the pages of docs/. Needs the program and a model only, no package.

  tests/parity/perplexity.py [--types Q4_0,BF16] [--families auto,avx2] [--windows N]
"""
import argparse
import json
import os
import pathlib
import sys

from common import ROOT, WORK, Report, default_model, sala, text_file

TYPES = ("F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_1 Q5_0 Q4_K_M Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_M Q2_K TQ2_0 TQ1_0").split()
TERNARY_LAYER = r"blk\.14\.ffn_down"
LIMIT = 0.003
WINDOW = 512
BYTES_PER_TOKEN = 4


def families():
    """Those that this CPU can run, but for the reference; the last is what auto takes."""
    version = json.loads(sala("version", "--json").stdout)
    return [k["name"] for k in version["kernels"] if k["runs"] and k["name"] != "ref"]


def text_bytes(limit):
    if text_file():
        return pathlib.Path(text_file()).read_bytes()[:limit]
    return b"\n".join(p.read_bytes() for p in sorted((ROOT / "docs").glob("*.md")))[:limit]


def store(model, kind, out):
    if kind.startswith("TQ"):
        sala("quantize", model, out, "Q8_0", "--force", "--tensor-type", "%s=%s" % (TERNARY_LAYER, kind))
    else:
        sala("quantize", model, out, kind, "--force")


def perplexity(model, text, kernels):
    return json.loads(sala("ppl", model, "-f", text, "--ctx", WINDOW, "--all", "--kernels", kernels, "--json").stdout)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--types", default=",".join(TYPES))
    ap.add_argument("--families")
    ap.add_argument("--windows", type=int, default=4, help="about how many windows of %d tokens (default 4)" % WINDOW)
    a = ap.parse_args()
    report = Report("perplexity of fast kernels against the reference")
    model = default_model()
    if not model:
        report.skip("perplexity", "no default model: set SALA_MODEL to a GGUF file")
        return report.done()
    WORK.mkdir(parents=True, exist_ok=True)
    text, stored = WORK / "perplexity.txt", WORK / "perplexity.gguf"
    text.write_bytes(text_bytes(a.windows * WINDOW * BYTES_PER_TOKEN))
    try:
        for kind in a.types.split(","):
            store(model, kind, stored)
            want = perplexity(stored, text, "ref")
            for family in a.families.split(",") if a.families else families():
                got = perplexity(stored, text, family)
                change = got["perplexity"] / want["perplexity"] - 1
                report.check(abs(change) <= LIMIT, "%-7s %-8s" % (kind, family),
                             "%9.4f  ref %9.4f  %+.3f %%  of %d tokens" %
                             (got["perplexity"], want["perplexity"], 100 * change, got["tokens_counted"]))
    finally:
        for f in (text, stored):
            if f.exists():
                os.remove(f)
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
