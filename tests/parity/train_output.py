"""What training leaves loads elsewhere and is the model that was trained: `model/` in transformers (families that it has;
the others in the references of this folder), `model.gguf` in llama.cpp. Logits are compared with `sala logits`, the loss
over the validation documents with the run's last evaluation, and the loss over the batch of the step after a save with
what that step printed."""
import json
import math
import pathlib
import random
import shutil
import sys

import numpy as np

from common import THREADS, WORK, Report, deviation, sala, sala_json, sala_logits
from oracle import reference_logits

STEPS, NEXT = 30, 31
SHAPES = {
    "llama": "family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2, feed_forward: 96, vocab: 264, tied: false",
    "llama tied": "family: llama, layers: 2, hidden: 64, heads: 4, feed_forward: 96, vocab: 264",
    "qwen2": "family: qwen2, layers: 2, hidden: 64, heads: 4, kv_heads: 2, feed_forward: 96, vocab: 264",
    "qwen3": "family: qwen3, layers: 2, hidden: 64, heads: 4, kv_heads: 2, head_dim: 32, feed_forward: 96, vocab: 264",
    "minicpm": "family: minicpm, layers: 2, hidden: 64, heads: 4, kv_heads: 2, feed_forward: 96, vocab: 264, "
               "mup: {dim_base: 32}",
    "minicpm-sala": "family: minicpm-sala, layers: 4, mixers: [sparse, lightning, lightning, lightning], hidden: 64, heads: 4, "
                    "kv_heads: 2, feed_forward: 96, vocab: 264, mup: {dim_base: 32}, rope: {softmax: false}, "
                    "sparse: 'topk=2,window=16,dense-len=32,block=16,init=1,kernel=8,stride=4'",
}
HF = ("llama", "llama tied", "qwen2", "qwen3")  # transformers has no model_type minicpm; its own code is on the hub only
RUN = """
model: {tokenizer: bytes, %s}
data:
  validation: {path: %s, sequences: 1000}
  stages: [{steps: %d, seq_len: 96, batch: 4, sources: [{path: %s}]}]
optimizer: {lr: 0.003}
schedule: {kind: constant, warmup: 4}
compute: {precision: f32}
output: {save_every: 0, dtype: f32, gguf: f32}
"""


def documents(n, seed):
    """Texts shorter than a sequence, so that a document is never cut."""
    r = random.Random(seed)
    words = "fox dog cat runs sleeps over under lazy quick brown the a of and 17 4711 é ø".split()
    return [" ".join(r.choice(words) for _ in range(r.randint(3, 13)))[:90] for _ in range(n)]


def nll(logits, labels):
    """Sum of -log p and number of labels, in double precision."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    rows = np.flatnonzero(labels >= 0)
    return -log_p[rows, labels[rows]].sum(), len(rows)


def mean_loss(model, docs):
    total = count = 0
    for ids, labels in docs:
        loss, n = nll(model(ids), np.asarray(labels))
        total, count = total + loss, count + n
    return total / count


def batch_documents(path):
    tokens, labels, doc = np.load(path).astype(np.int64)
    for d in np.unique(doc):
        rows = doc == d
        if (labels[rows] >= 0).any():
            yield tokens[rows].tolist(), labels[rows]


def llama_cpp_model(path):
    import llama_cpp
    llm = llama_cpp.Llama(str(path), n_ctx=96, n_batch=96, n_threads=int(THREADS), n_threads_batch=int(THREADS),
                          logits_all=True, verbose=False, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)

    def logits(ids):
        llm.reset()
        llm.eval(ids)
        return np.array(llm.scores[:len(ids)], dtype=np.float32)
    return logits


def transformers_model(directory):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)

    def logits(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].float().numpy()
    return logits, tokenizer


def one_shape(report, work, name, shape):
    out = work / name.replace(" ", "-")
    run = work / "run.yaml"
    run.write_text(RUN % (shape, work / "validation", NEXT, work / "data"), encoding="utf-8")
    batches = out / "batches"
    sala("train", run, "--out", out, "--stop-at", STEPS, "--dump-batches", batches, "-q")
    sala("train", "export", out, "-q")
    trained, gguf = work / "model", work / "model.gguf"
    shutil.rmtree(trained, ignore_errors=True)
    shutil.move(out / "model", trained)
    shutil.move(out / "model.gguf", gguf)
    sala("train", run, "--out", out, "--dump-batches", batches, "-q")  # the step behind the save, and the evaluation
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    next_loss = [x["loss"] for x in lines if x["step"] == NEXT and "kind" not in x][0]
    last_eval = [x["loss"] for x in lines if x.get("kind") == "eval"][-1]

    ids = list("The quick brown fox é 4711 jumps over the lazy dog, and so on.".encode()) + [257, 256, 65, 66]
    ours = sala_logits(trained, ids)
    report.check(deviation(ours, sala_logits(gguf, ids)) < 2e-6, name, "model/ and model.gguf give the same logits")
    validation = [(d, d[1:] + [-1]) for d in
                  (sala_json("data", "show", work / "validation", i, "--json")["tokens"]
                   for i in range(sala_json("data", "stats", work / "validation", "--json")["documents"]))]

    def compare(peer, model, final_model):
        far = deviation(ours, model(ids))
        report.check(far < 2e-5, "%s in %s" % (name, peer), "logits: %.1e of their deviation" % far)
        loss = mean_loss(model, batch_documents(batches / ("step-%09d.npy" % NEXT)))
        report.check(abs(loss - next_loss) < 1e-5 * loss, "%s in %s" % (name, peer),
                     "loss of step %d: %.7f, sala train %.7f" % (NEXT, loss, next_loss))
        loss = mean_loss(final_model, validation)
        report.check(abs(loss - last_eval) < 1e-5 * loss, "%s in %s" % (name, peer),
                     "validation: %.7f, sala train %.7f" % (loss, last_eval))

    if name in HF:
        model, tokenizer = transformers_model(trained)
        compare("transformers", model, transformers_model(out / "model")[0])
        text = "Ein Füchslein, 17 dogs"
        got = tokenizer.encode(text, add_special_tokens=False)
        report.check(got == list(text.encode()) and tokenizer.decode(got) == text, "%s in transformers" % name, "tokenizer")
    else:
        compare("the reference", lambda x: reference_logits(trained, x), lambda x: reference_logits(out / "model", x))
        if name == "minicpm":
            report.skip("minicpm in transformers", "it has no such model_type; the model's own code is not in this environment")
    if name != "minicpm-sala":
        compare("llama.cpp", llama_cpp_model(gguf), llama_cpp_model(out / "model.gguf"))
    assert math.isfinite(next_loss) and next_loss < 5.0, "the run has learned nothing: loss %g" % next_loss


def main():
    report = Report("what training leaves, elsewhere")
    work = pathlib.Path(WORK) / "train_output"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name, n, seed in (("data", 400, 1), ("validation", 12, 2)):
        text = work / (name + ".txt")
        text.write_text("\n".join(documents(n, seed)) + "\n", encoding="utf-8")
        sala("data", "pack", text, "--format", "lines", "--tokenizer", "bytes", "-o", work / name, "-q")
    for name, shape in SHAPES.items():
        one_shape(report, work, name, shape)
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
