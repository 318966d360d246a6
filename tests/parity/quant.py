#!/usr/bin/env python3
"""Files that conversion, quantisation and export write, against llama.cpp, ggml and transformers.

  - checkpoints of every family, converted, give in llama.cpp the logits that transformers gives (max error 1e-2 of their
    standard deviation); requantised files have llama.cpp's types tensor by tensor for every recipe;
  - rounding: weighted error of every type on matrices of the default model at most 1.01 times ggml's, and its speed;
  - export: transformers loads the directory, logits and token ids are those of the file; converting it back gives the
    same weights;
  - importance matrices: both forms of file are read, ours is read by the gguf package;
  - the default model, requantised, gives in llama.cpp the choices that it gives here."""
import ctypes
import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np

from common import ROOT, WORK, Report, default_model, deviation, sala, sala_logits, token_list
from oracle import reference_logits
import make_checkpoint

RECIPES = dict(F32=0, F16=1, Q4_0=2, Q4_1=3, Q8_0=7, Q5_0=8, Q5_1=9, Q2_K=10, Q3_K_S=11, Q3_K_M=12, Q3_K_L=13,
               Q4_K_S=14, Q4_K_M=15, Q5_K_S=16, Q5_K_M=17, Q6_K=18, IQ4_NL=25, IQ4_XS=30, BF16=32, TQ1_0=36, TQ2_0=37)
BLOCK_TYPES = dict(Q4_0=2, Q4_1=3, Q5_0=6, Q5_1=7, Q8_0=8, Q2_K=10, Q3_K=11, Q4_K=12, Q5_K=13, Q6_K=14, IQ4_NL=20,
                   IQ4_XS=23)


def quiet_llama():
    import llama_cpp

    @llama_cpp.llama_log_callback
    def drop(level, text, user):
        pass
    llama_cpp.llama_log_set(drop, None)
    llama_cpp._keep_log_callback = drop
    return llama_cpp


def llama_logits(path, ids):
    from llama_cpp import Llama
    m = Llama(str(path), n_ctx=max(len(ids), 16), n_batch=512, n_threads=2, logits_all=True, verbose=False)
    m.eval(ids)
    out = np.array(m.scores[:len(ids)], np.float32)
    m.close()
    return out


def types_of(path):
    from gguf import GGUFReader
    r = GGUFReader(str(path))
    return {t.name: t.tensor_type.name for t in r.tensors}, int(r.get_field("general.file_type").contents())


def weights_of(path, names=None):
    from gguf import GGUFReader
    from gguf.quants import dequantize
    return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(str(path)).tensors
            if names is None or t.name in names}


def checkpoint(name):
    """A directory of the preset. The SentencePiece merges of the minicpm fixtures are made up and have no scores, which
    GGUF would need: those directories borrow another tokenizer."""
    model = WORK / ("quant-" + name)
    make_checkpoint.write_checkpoint(str(model), make_checkpoint.PRESETS[name], 5)
    if name.startswith("minicpm"):
        other = checkpoint("llama-tied")
        for f in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(other / f, model / f)
    return model


def families(report, only=None):
    for name in only or make_checkpoint.DENSE:
        model = checkpoint(name)
        ids = token_list(100, 340, 9)  # beyond every fixture's first context: llama.cpp, whose contexts are multiples of
        # 256, would take the long list of longrope even for short texts
        want = reference_logits(model, ids)
        for kind, limit in (("f32", 1e-2), ("auto", 5e-2), ("q8_0", 0.35)):
            out = WORK / ("quant-%s-%s.gguf" % (name, kind))
            sala("convert", model, "--type", kind, "--out", out)
            e, own = deviation(llama_logits(out, ids), want), deviation(sala_logits(out, ids), want)
            report.check(e <= limit and own <= limit, "%s to %s" % (name, kind),
                         "llama.cpp %.2e, own %.2e of std" % (e, own))


def recipes(report):
    llama_cpp = quiet_llama()
    for preset in ("wide", "llama-tied"):
        model, src = checkpoint(preset), WORK / ("quant-%s-f32.gguf" % preset)
        sala("convert", model, "--type", "f32", "--out", src)
        wrong = []
        for name, number in RECIPES.items():
            p = llama_cpp.llama_model_quantize_default_params()
            p.ftype, p.nthread = number, 2
            theirs, ours = WORK / "theirs.gguf", WORK / "ours.gguf"
            if llama_cpp.llama_model_quantize(str(src).encode(), str(theirs).encode(), ctypes.byref(p)):
                wrong.append(name + " (llama.cpp failed)")
                continue
            sala("quantize", src, "--type", name, "--out", ours, "--force")
            if types_of(theirs) != types_of(ours):
                wrong.append(name)
        report.check(not wrong, "%s: types of %d recipes are llama.cpp's" % (preset, len(RECIPES)), " ".join(wrong))


def load_ggml():
    import llama_cpp
    lib = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    lib.ggml_quantize_chunk.restype = lib.ggml_row_size.restype = ctypes.c_size_t
    lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
        ctypes.c_void_p]
    return lib


def write_old_imatrix(path, entries, calls=3):
    with open(path, "wb") as f:
        f.write(struct.pack("<i", len(entries)))
        for name, v in entries.items():
            f.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, v.size))
            f.write((v * calls).astype("<f4").tobytes())
        f.write(struct.pack("<i", 10) + struct.pack("<i", 4) + b"text")


def write_new_imatrix(path, entries, count=128):
    from gguf import GGUFWriter
    w = GGUFWriter(str(path), "imatrix")
    w.add_string("general.type", "imatrix")
    w.add_array("imatrix.datasets", ["text"])
    w.add_uint32("imatrix.chunk_count", 1)
    w.add_uint32("imatrix.chunk_size", count)
    for name, v in entries.items():
        w.add_tensor(name + ".in_sum2", (v * count).astype(np.float32).reshape(1, -1))
        w.add_tensor(name + ".counts", np.array([[count]], np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()


def rounding(report):
    """Through the program: a file of a few real matrices, rounded with `quantize --pure`."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import dequantize
    source = default_model()
    if not source:
        return report.skip("rounding of real matrices", "no default model here")
    lib = load_ggml()
    src = WORK / "rounding.gguf"
    names = ["blk.5.ffn_down.weight", "blk.20.ffn_down.weight", "blk.11.ffn_down.weight"]
    all_weights = weights_of(source, names)
    w = GGUFWriter(str(src), "llama")
    w.add_block_count(30), w.add_head_count(9), w.add_head_count_kv(3)
    for n in names:
        w.add_tensor(n, all_weights[n])
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()
    rng = np.random.default_rng(4)
    imp = {n: np.exp(rng.standard_normal(all_weights[n].shape[1]) * 1.2).astype(np.float32) for n in names}
    files = {None: None, "old": WORK / "imatrix.dat", "new": WORK / "imatrix.gguf"}
    write_old_imatrix(files["old"], imp)
    write_new_imatrix(files["new"], imp)
    for kind, path in files.items():
        ratios = []
        for t, number in BLOCK_TYPES.items():
            recipe = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}.get(t, t)
            out = WORK / "rounded.gguf"
            extra = ["--imatrix", path] if path else []
            sala("quantize", src, "--type", recipe, "--pure", "--force", "--out", out, *extra)
            ours = weights_of(out)
            for n in names:
                x, w = np.ascontiguousarray(all_weights[n]), imp[n] if path else None
                raw = np.zeros(lib.ggml_row_size(number, x.shape[1]) * x.shape[0], np.uint8)
                lib.ggml_quantize_chunk(number, x.ctypes.data, raw.ctypes.data, 0, *x.shape,
                                        w.ctypes.data if path else None)
                theirs = dequantize(raw.reshape(x.shape[0], -1), GGMLQuantizationType[t])
                cost = lambda y: float(np.sqrt((((x - y).astype(np.float64) ** 2) * (w if path else 1)).sum()))
                a, b = cost(ours[n]), cost(theirs)
                ratios.append((a / b if b > 1e-6 else float(a > 1e-6), t))
        report.check(max(ratios)[0] <= 1.01, "error of rounding / ggml's, importance: %s" % kind,
                     "worst %.4f (%s), mean %.4f" % (*max(ratios), np.mean([r for r, _ in ratios])))


def texts(report):
    """The default model in several types: logits in llama.cpp against our reference kernels on one text. llama.cpp rounds
    activations to 8 bits (which alone moves the logits of this model by 3 to 6 % of their deviation), so greedy texts may part where two tokens are about equally likely; where one clearly leads,
    both must choose it."""
    from llama_cpp import Llama
    source = default_model()
    if not source:
        return report.skip("the default model requantised", "no default model here")
    m = Llama(source, vocab_only=True, verbose=False)
    ids = m.tokenize(b"The capital of France is Paris. Water boils at one hundred degrees, and freezes at zero. In 1969, "
                     b"the first people landed on the moon; def add(a, b):\n    return a + b\n", add_bos=False)
    for t in ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k"):
        out = WORK / ("default-%s.gguf" % t)
        sala("quantize", source, "--type", t, "--out", out, "--force")
        ours, theirs = sala_logits(out, ids), llama_logits(out, ids)
        top = np.sort(ours, -1)
        clear = top[:, -1] - top[:, -2] > 0.3 * ours.std()
        flips = int((ours.argmax(-1) != theirs.argmax(-1))[clear].sum())
        rms = float(np.sqrt(((ours - theirs).astype(np.float64) ** 2).mean()) / ours.std())
        report.check(rms <= 0.1 and not flips, "%s in llama.cpp and here" % t,
                     "rms %.1e of std, %d of %d clear choices differ" % (rms, flips, int(clear.sum())))


def exports(report):
    from transformers import PreTrainedTokenizerFast
    for name in ("llama-untied", "llama-bias", "llama-llama3", "llama-yarn", "llama-linear", "qwen2", "qwen2-yarn",
                 "qwen3", "minicpm-long", "minicpm-tied"):
        model, f = checkpoint(name), WORK / ("quant-%s-f32.gguf" % name)
        sala("convert", model, "--type", "f32", "--out", f)
        out, back = WORK / ("export-" + name), WORK / ("export-%s.gguf" % name)
        sala("export", f, "--type", "f32", "--out", out)
        sala("convert", out, "--type", "f32", "--out", back)
        a, b = weights_of(f), weights_of(back)
        same = a.keys() == b.keys() and all(a[k].shape == b[k].shape and np.allclose(a[k], b[k], rtol=1e-6) for k in a)
        report.check(same, "%s: exported and converted back" % name)
        ids = token_list(80, 340, 11)
        want = reference_logits(model, ids)
        e = deviation(reference_logits(out, ids), want)
        report.check(e <= 1e-3, "%s: the exported directory in transformers" % name, "max error %.1e of std" % e)
        text = "Hello, wörld! 12345  \n\tx <|im_end|>"
        ours, theirs = (PreTrainedTokenizerFast(tokenizer_file=str(d / "tokenizer.json")).encode(
            text, add_special_tokens=False) for d in (out, model))
        report.check(ours == theirs, "%s: tokens of the exported tokenizer" % name)


def sentencepiece_export(report):
    """tokenizer.model -> GGUF -> tokenizer.json, whose merges are derived from scores, against sentencepiece itself."""
    import sentencepiece as spm
    from transformers import PreTrainedTokenizerFast
    text = "\n".join(f.read_text(encoding="utf-8") for f in sorted(pathlib.Path(ROOT / "docs").glob("*.md")))
    corpus, model = WORK / "spm.txt", WORK / "quant-spm"
    subprocess.run([sys.executable, str(ROOT / "tests" / "fixtures" / "make_checkpoint.py"), str(model), "--preset",
                    "llama-tied", "--set", "vocab_size=2000"], check=True)
    corpus.write_text(text, encoding="utf-8")
    spm.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(WORK / "spm"), vocab_size=2000, model_type="bpe",
                                   byte_fallback=True, character_coverage=0.99, minloglevel=2,
                                   normalization_rule_name="identity", remove_extra_whitespaces=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    shutil.copy(WORK / "spm.model", model / "tokenizer.model")
    f, out = WORK / "spm.gguf", WORK / "export-spm"
    sala("convert", model, "--type", "f16", "--out", f)
    sala("export", f, "--out", out)
    want, got = spm.SentencePieceProcessor(model_file=str(WORK / "spm.model")), PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"))
    lines = [t for t in text.split("\n") if t.strip()][:400] + ["  two  spaces ", "naïve 你好 🙂", "\ttab"]
    wrong = [t for t in lines if got.encode(t, add_special_tokens=False) != want.encode(t)]
    lost = [t for t in lines if got.decode(got.encode(t, add_special_tokens=False)) != t]
    report.check(not wrong and not lost, "SentencePiece vocabulary exported: %d texts" % len(lines),
                 "%d differ, %d not restored %r" % (len(wrong), len(lost), (wrong + lost)[:2]))


def default_export(report):
    import torch
    from gguf_llama import load, logits
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from llama_cpp import Llama
    source = default_model()
    if not source:
        return report.skip("export of the default model", "no default model here")
    out = WORK / "export-default"
    sala("export", source, "--type", "f32", "--out", out)
    t = AutoTokenizer.from_pretrained(str(out))
    m = Llama(source, vocab_only=True, verbose=False)
    wrong = 0
    texts = ["Hello world", "  a\n\n b\t", "I'm 1234 years", "naïve café — 你好", "<|im_start|>user\nhi<|im_end|>"]
    for s in texts:
        wrong += t.encode(s, add_special_tokens=False) != m.tokenize(s.encode(), add_bos=False, special=True)
    report.check(not wrong, "default model: tokens of the exported tokenizer")
    ids = m.tokenize(b"The capital of France is Paris. The capital of Italy is", add_bos=False)
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(str(out), dtype=torch.float32)(torch.tensor([ids])).logits[0].numpy()
    e = deviation(got, logits(load(source), ids))
    report.check(e <= 1e-4, "default model: logits of the exported directory", "max error %.1e of std" % e)


def main():
    report = Report("quant: what convert, quantize and export write")
    WORK.mkdir(parents=True, exist_ok=True)
    quiet_llama()
    chosen = sys.argv[1:] or ["families", "recipes", "exports", "sentencepiece_export", "rounding", "texts",
                              "default_export"]
    for part in chosen:
        globals()[part](report)
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
