#!/usr/bin/env python3
"""Coordinate check of the maximal-update parametrisation: after 10 steps of training, what flows through the model must not grow
with its width. Small hybrids of widths 64 to 512 are trained by the program with the same learning rate; the exported weights
are run by PyTorch over the same tokens, and the mean magnitude of every mixer's and feed-forward part's output and of the
logits is fitted by a power of the width. With muP no exponent may be above LIMIT. The same models without muP are the control: there
something has to grow, or the check would not show anything.

The rate is one at which ten steps without a warm-up change the weights by less than they are; at 0.01 the last feed-forward part
grows with an exponent of 0.3.

Exponents below 0 are printed, not judged: initial values and rates of the embedding shrink with the width too, as MiniCPM's table
has it for every matrix.
"""
import gzip
import math
import pathlib
import shutil
import sys

import numpy as np
import torch

from common import ROOT, WORK, Report, sala

sys.path.insert(0, str(ROOT / "bench" / "train"))
from torch_model import Net  # noqa: E402

WIDTHS, STEPS, LIMIT = (64, 128, 256, 512), 10, 0.1
TEXT = pathlib.Path("/usr/share/doc/jargon-text/jargon.txt.gz")

RUN = """
model:
  tokenizer: bytes
  family: minicpm-sala
  layers: 4
  mixers: [dense, lightning]
  hidden: %d
  heads: %d
  head_dim: 32
  feed_forward: %d
  vocab: 264
  mup: {scale_emb: 12, scale_depth: 1.4, dim_base: %d}
data:
  packing: stream
  mask_documents: false
  validation: {path: null}
  stages: [{steps: 10, seq_len: 128, batch: 8, sources: [{path: shards}]}]
optimizer: {lr: 0.004}
schedule: {kind: constant, warmup: 0}
guards: {spike_z: 0, rewind: false}
compute: {precision: f32}
output: {save_every: 0, eval_every: 0, sample_every: 0, tensorboard: false, gguf: none, dtype: f32}
"""


class Watched(Net):
    """Keeps the mean magnitude of what matters, by name."""

    def linear(self, x, name):
        y = super().linear(x, name)
        if name.endswith(("o_proj", "down_proj", "embed_tokens")):
            self.seen["logits" if name.endswith("embed_tokens") else name.replace("model.layers.", "layer ")] = \
                y.abs().mean().item()
        return y


@torch.no_grad()
def magnitudes(work, width, mup):
    """Without muP every width is its own base: standard deviations and rates do not follow the width."""
    name = "%s-%d" % ("mup" if mup else "plain", width)
    yaml = work / (name + ".yaml")
    yaml.write_text(RUN % (width, width // 32, width * 11 // 4, WIDTHS[0] if mup else width))
    sala("train", yaml, "--out", work / name, "--fresh", "-q", "--dump-batches", work / "batches")
    net = Watched(work / name / "model")
    net.seen = {}
    ids = np.load(work / "batches" / "step-000000001.npy")[0].astype(np.int64).reshape(8, 128)
    net(torch.from_numpy(ids))
    return net.seen


def exponents(seen):
    x = np.log2(np.array(WIDTHS, dtype=float))
    return {key: float(np.polyfit(x, [math.log2(s[key]) for s in seen], 1)[0]) for key in seen[0]}


def main():
    report = Report("coordinate check, widths %s" % ", ".join(map(str, WIDTHS)))
    if not TEXT.exists():
        report.skip("everything", "%s is not there; tools/install-deps.sh brings it" % TEXT)
        return report.done()
    torch.set_num_threads(1)
    work = WORK / "train-mup"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "text.txt").write_bytes(gzip.decompress(TEXT.read_bytes())[:200000])
    sala("data", "pack", work / "text.txt", "--tokenizer", "bytes", "--out", work / "shards")
    found = {}
    for mup in (True, False):
        seen = [magnitudes(work, width, mup) for width in WIDTHS]
        found[mup] = exponents(seen)
        print("      %s: mean magnitude at each width, exponent" % ("muP" if mup else "without"))
        for key, exponent in found[mup].items():
            print("      %-26s %s  %+.2f" % (key, " ".join("%8.4f" % s[key] for s in seen), exponent))
    most = max(found[True], key=found[True].get)
    report.check(found[True][most] <= LIMIT, "nothing grows with the width under muP",
                 "largest exponent %+.2f (%s); limit %g" % (found[True][most], most, LIMIT))
    control = max(found[False], key=found[False].get)
    report.check(found[False][control] > 2 * LIMIT, "without it something does", "%+.2f (%s)" % (found[False][control], control))
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
