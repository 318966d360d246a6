#!/usr/bin/env python3
"""Small checkpoints of every dense family (sala.py has the others), several seeds: logits against the reference, short,
beyond the original context, and in chunks. Limits: max error 1e-3 of the logits' standard deviation with the reference
kernels; chunked runs within 1e-5 of the whole one, relative to the largest logit; the fast kernels are reported and must
agree to 2e-2 and on the most probable token wherever it leads by more than that."""
import sys

import numpy as np

from common import WORK, Report, deviation, sala_logits, token_list

import make_checkpoint  # common has put tests/fixtures on the path
from minicpm_ref import MiniCPM
from oracle import reference_logits

SEEDS = (1, 2)
LENGTHS = (1, 17, 63, 65, 200)


def main():
    report = Report("families: logits against the reference")
    model = WORK / "overlap"
    make_checkpoint.write_checkpoint(str(model), make_checkpoint.PRESETS["llama-untied"], 1)
    plain = MiniCPM(model)  # with scales of 1 the MiniCPM reference must equal the llama of transformers
    plain.c.update(scale_emb=1, scale_depth=plain.c["num_hidden_layers"] ** 0.5, dim_model_base=plain.c["hidden_size"])
    ids = token_list(100, 340, 3)
    e = deviation(plain.logits(ids), reference_logits(model, ids))
    report.check(e <= 1e-4, "the two references agree where they overlap", "max error %.1e of std" % e)

    model = WORK / "rule"
    make_checkpoint.write_checkpoint(str(model), make_checkpoint.PRESETS["minicpm-long"], 1)
    ids = token_list(40, 340, 4)
    want = reference_logits(model, ids, "config")
    e = deviation(sala_logits(model, ids, "--longrope", "config"), want)
    apart = deviation(reference_logits(model, ids), want)
    report.check(e <= 1e-3 < apart, "longrope by config", "max error %.2e of std; the two rules lie %.1f apart" % (e, apart))

    for name in make_checkpoint.DENSE:
        p = make_checkpoint.PRESETS[name]
        for seed in SEEDS:
            model = WORK / ("%s-%d" % (name, seed))
            make_checkpoint.write_checkpoint(str(model), p, seed)
            worst, fast, flips = 0.0, 0.0, 0
            for n in LENGTHS:
                ids = token_list(n, 340, 100 * seed + n)
                want = reference_logits(model, ids)
                got = sala_logits(model, ids, "--kernels", "ref")
                worst = max(worst, deviation(got, want))
                auto = sala_logits(model, ids, "--kernels", "auto")
                fast = max(fast, deviation(auto, want))
                top = np.sort(want, -1)
                clear = top[:, -1] - top[:, -2] > 0.02 * want.std()
                flips += int((auto.argmax(-1) != want.argmax(-1))[clear].sum())
            report.check(worst <= 1e-3, "%s seed %d ref" % (name, seed), "max error %.2e of std" % worst)
            report.check(fast <= 2e-2 and not flips, "%s seed %d auto" % (name, seed),
                         "max error %.2e of std, %d changed choices" % (fast, flips))
            whole = sala_logits(model, ids, "--kernels", "ref")
            for chunk in (1, 7, 64, 512):
                part = sala_logits(model, ids, "--kernels", "ref", "--chunk", chunk)
                e = float(np.abs(part - whole).max() / np.abs(whole).max())
                report.check(e <= 1e-5, "%s seed %d in chunks of %d" % (name, seed, chunk), "relative %.1e" % e)
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
