#!/usr/bin/env python3
"""Speed and memory of training steps of `sala train` next to PyTorch: same shapes, weights, batches, threads and precision.

    train_bench.py [--works LIST] [--rounds 1] [--steps 5] [--threads N] [--quick] [--out STEM] [--publish]
    train_bench.py --list

A work is a model, a batch and a precision. Both programs begin with the same weights and read the same batches, so that their
losses can be compared too (the works `sparse` apart: PyTorch has no block-sparse attention with a backward pass on the CPU, so
they stand beside its dense run of the hybrid); they take turns, every run is a process of its own. A step is forward, backward, clipping and AdamW;
the median of the steps behind the warm-up counts, over all rounds. The peak is that of matrix products, the best that oneDNN as
`sala` runs it and PyTorch's libraries reach in the same minutes. The work `long` is sala alone: time per token of the hybrid
from 8 K to 128 K tokens. Prints a table and writes it with all samples and a chart to STEM.md, STEM.json and STEM.svg (default
build/bench/train); --publish makes them what docs/performance.md and README.md quote (see train_report.py).
"""
import argparse
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "peers"))

import machine  # noqa: E402
import train_report  # noqa: E402

SALA = os.environ.get("SALA") or str(ROOT / "build" / "release" / "sala")
CORPUS_BYTES = 1 << 20
LONG_KV_HEADS = 2  # as MiniCPM-SALA shares keys and values among heads
LONG_MEMORY = "20G"


@dataclasses.dataclass(frozen=True)
class Work:
    model: str
    batch: int
    seq_len: int
    precision: str
    warmup: int
    seconds: int  # of a round on two cores of 2026, for the announcement only

    @property
    def name(self):
        return "%s-%dx%d-%s" % (self.model, self.batch, self.seq_len, self.precision)

    @property
    def config(self):
        return "hybrid" if self.model == "sparse" else self.model

    @property
    def sets(self):
        return SPARSE if self.model == "sparse" else {}


# InfLLM-v2 as MiniCPM4 has it: 64 blocks of 64 and a window of 2048, from 8192 tokens.
SPARSE = {"model.mixers": "[sparse, lightning, lightning, lightning]", "model.sparse": "on"}
WORKS = tuple(Work(model, batch, seq_len, precision, 2 if seq_len < 8192 else 1, int(seconds * scale))
              for precision, scale in (("f32", 1.0), ("bf16", 0.6))
              for model, batch, seq_len, seconds in (("dense", 4, 1024, 70), ("hybrid", 4, 1024, 70), ("dense", 1, 8192, 200),
                                                     ("hybrid", 1, 8192, 150), ("sparse", 1, 8192, 40)))
# Tokens, steps before and steps that count: long ones take seconds enough for two to say something.
LONG = ((8192, 1, 5), (32768, 1, 2), (131072, 1, 2))


class Failed(RuntimeError):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def has_bf16():
    return bool({"avx512_bf16", "amx_bf16"} & set(machine.describe(1)["flags"]))


def choose(names):
    known = {w.name: w for w in WORKS}
    chosen, long = [], False
    for name in names.split(","):
        if name in ("default", "all", "long"):
            long = True
        found = [w for w in WORKS if name in ("default", "all") or w.name == name or w.name.startswith(name + "-") or
                 (name in ("f32", "bf16") and w.precision == name)]
        if not found and name != "long":
            raise SystemExit("train_bench: no work '%s'; known: default, long, dense, hybrid, sparse, f32, bf16, %s" % (
                name, ", ".join(known)))
        chosen += [w for w in found if w not in chosen]
    return chosen, long


# ---- running ---------------------------------------------------------------------------------------------------------


def run(command, timeout=3600):
    """Output of a command that must succeed."""
    p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    if p.returncode:
        raise Failed("%s: exit %d\n%s" % (" ".join(command), p.returncode, p.stderr.decode("utf-8", "replace")[-2000:]))
    return p.stdout.decode("utf-8", "replace")


def watched(command):
    """Runs it; what it said, and its peak of resident memory (VmHWM, looked at until it ends)."""
    peak = 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
        os.set_blocking(p.stderr.fileno(), False)
        said = b""
        while p.poll() is None:
            try:
                with open("/proc/%d/status" % p.pid, encoding="ascii", errors="replace") as f:
                    found = re.search(r"VmHWM:\s+(\d+) kB", f.read())
                peak = max(peak, int(found.group(1)) * 1024 if found else 0)
            except OSError:
                pass
            said += p.stderr.read() or b""
            time.sleep(0.05)
        said += p.stderr.read() or b""
    if p.returncode:
        raise Failed("%s: exit %d\n%s" % (" ".join(command), p.returncode, said.decode("utf-8", "replace")[-2000:]))
    return said.decode("utf-8", "replace"), peak


class Bench:
    def __init__(self, a):
        self.a = a
        self.dir = pathlib.Path(a.work)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.peaks = {"f32": {}, "bf16": {}}  # of matrix products, by who measured
        self.shards = self.dir / "shards"
        if not (self.shards / "manifest.json").exists():
            text = self.dir / "text.txt"
            draw = random.Random(1)
            text.write_text("".join(draw.choices("abcdefghijklmnopqrstuvwxyz      \n", k=CORPUS_BYTES)), encoding="ascii")
            run([SALA, "data", "pack", str(text), "--tokenizer", "bytes", "--out", str(self.shards)])

    def command(self, model, out, sets, *more):
        sets = {"data.stages.0.sources.0.path": self.shards, "compute.threads": self.a.threads, **sets}
        return [SALA, "train", str(HERE / (model + ".yaml")), "--out", str(out), "--fresh", *more,
                *[w for key, value in sets.items() for w in ("--set", "%s=%s" % (key, value))]]

    def weights(self, model):
        """The first weights as a directory: what a run of one step with a learning rate of 0 leaves."""
        out = self.dir / ("first-" + model)
        if not (out / "model" / "model.safetensors").exists():
            run(self.command(model, out, {"data.stages.0.steps": 1, "data.stages.0.batch": 1, "data.stages.0.seq_len": 64,
                                          "optimizer.lr": 0, "compute.precision": "f32"}))
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return out / "model"

    def sala(self, model, seq_len, batch, precision, steps, sets=None, batches=None):
        out = self.dir / "run"
        shutil.rmtree(out, ignore_errors=True)
        command = self.command(model, out, {"data.stages.0.seq_len": seq_len, "data.stages.0.batch": batch,
                                            "compute.precision": precision, **(sets or {})}, "--stop-at", str(steps),
                               *(["--dump-batches", str(batches)] if batches else []))
        said, peak = watched(command)
        with open(out / "metrics.jsonl", encoding="utf-8") as f:
            lines = [json.loads(line) for line in f]
        shutil.rmtree(out, ignore_errors=True)
        flop = re.search(r"([\d.]+) MFLOP a token", said)
        if len(lines) != steps or not flop:
            raise Failed("%s: %d steps in metrics.jsonl, %d asked for\n%s" % (" ".join(command), len(lines), steps, said))
        flop = float(flop.group(1)) * 1e6
        rates = [m["tokens_per_second"] for m in lines]
        own = [m["tokens_per_second"] * flop / m["share_of_peak"] for m in lines if m.get("share_of_peak")]
        if own:
            mine = self.peaks[precision]
            mine["sala"] = max(mine.get("sala", 0), statistics.median(own))
        plan = [line for line in said.splitlines() if re.match(r"(model|precision|step|memory|  ) ", line)]
        return {"tokens_per_second": rates, "losses": [m["loss"] for m in lines], "peak_rss_bytes": peak,
                "flop_per_token": flop, "plan": [line for line in plan if "loss" not in line]}

    def torch(self, work, steps, batches):
        files = sorted(map(str, pathlib.Path(batches).glob("step-*.npy")))[:steps]
        r = json.loads(run([sys.executable, str(HERE / "torch_step.py"), str(self.weights(work.config)), *files, "--seq-len",
                            str(work.seq_len), "--steps", str(steps), "--threads", str(self.a.threads),
                            "--precision", work.precision]))
        r["tokens_per_second"] = [work.batch * work.seq_len / s for s in r.pop("seconds")]
        return r

    def torch_peak(self):
        r = json.loads(run([sys.executable, str(HERE / "torch_step.py"), "--peak", "--threads", str(self.a.threads)]))
        self.torch_version = r["torch"]
        for precision in ("f32", "bf16"):
            self.peaks[precision]["torch"] = max(self.peaks[precision].get("torch", 0), r[precision])

    def peak(self, precision):
        return max(self.peaks[precision].values())


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(b, works, a):
    rows = {w.name: {"work": w.name, "model": w.model, "batch": w.batch, "seq_len": w.seq_len, "precision": w.precision,
                     "engines": {e: {"samples": []} for e in ("sala", "torch")}} for w in works}
    for n in range(a.rounds):
        if works:
            b.torch_peak()
        known = {}  # PyTorch's runs, which the works `sparse` share with those of the hybrid
        for w in works:
            began, steps = time.monotonic(), w.warmup + a.steps
            batches = b.dir / "batches"
            shutil.rmtree(batches, ignore_errors=True)
            b.weights(w.config)
            row, found = rows[w.name], {"sala": b.sala(w.config, w.seq_len, w.batch, w.precision, steps, w.sets, batches)}
            key = (w.config, w.seq_len, w.batch, w.precision)
            known[key] = found["torch"] = known.get(key) or b.torch(w, steps, batches)
            for name, r in found.items():
                e = row["engines"][name]
                e["samples"].append(r["tokens_per_second"][w.warmup:])
                e["peak_rss_bytes"] = max(e.get("peak_rss_bytes", 0), r["peak_rss_bytes"])
                e["losses"] = r["losses"]
                e.update({k: r[k] for k in ("plan", "fused_adamw", "rss_after_import") if k in r})
            row["flop_per_token"] = found["sala"]["flop_per_token"]
            rate = {name: statistics.median(r["tokens_per_second"][w.warmup:]) for name, r in found.items()}
            say("round %d of %d, %-20s sala %.0f, torch %.0f tokens/s, ratio %.2f; %.0f s" % (
                n + 1, a.rounds, w.name, rate["sala"], rate["torch"], rate["sala"] / rate["torch"], time.monotonic() - began))
    for row in rows.values():
        for e in row["engines"].values():
            e["median"] = statistics.median(x for s in e["samples"] for x in s)
            e["share_of_peak"] = e["median"] * row["flop_per_token"] / b.peak(row["precision"])
        ours, theirs = row["engines"]["sala"], row["engines"]["torch"]
        row["ratio"] = ours["median"] / theirs["median"]
        row["memory_ratio"] = ours["peak_rss_bytes"] / theirs["peak_rss_bytes"]
        row["loss_difference"] = None if row["model"] == "sparse" else max(abs(x - y) for x, y in zip(ours["losses"], theirs["losses"]))
    return list(rows.values())


def measure_long(b, lengths, precision):
    """The hybrid with sparse layers at growing lengths, everything of a layer but attention made again at all of them, so that they do the same
    work."""
    rows = []
    for tokens, warmup, steps in lengths:
        began = time.monotonic()
        r = b.sala("hybrid", tokens, 1, precision, warmup + steps,
                   {**SPARSE, "model.kv_heads": LONG_KV_HEADS, "model.context": max(n for n, *_ in lengths),
                    "compute.recompute": "mixer", "compute.memory": LONG_MEMORY})
        rate = statistics.median(r["tokens_per_second"][warmup:])
        rows.append({"tokens": tokens, "precision": precision, "median": rate, "samples": r["tokens_per_second"][warmup:],
                     "peak_rss_bytes": r["peak_rss_bytes"], "plan": r["plan"], "cost": 1 / rate})
        rows[-1]["against_shortest"] = rows[-1]["cost"] / rows[0]["cost"]
        say("long, %6d tokens: %.0f tokens/s, %.2f times the cost of the shortest; %.0f s" % (
            tokens, rate, rows[-1]["against_shortest"], time.monotonic() - began))
    return rows


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--works", default="default", help="names joined by commas, or dense, hybrid, sparse, f32, bf16, long [all]")
    ap.add_argument("--list", action="store_true", help="say which works there are")
    ap.add_argument("--rounds", type=int, default=1)
    ap.add_argument("--steps", type=int, default=5, help="steps of a run that count")
    ap.add_argument("--quick", action="store_true", help="2 steps, and `long` up to 32 K tokens only")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--work", default=str(ROOT / "build" / "bench" / "train-work"), help="where weights and batches are kept")
    ap.add_argument("--out", metavar="STEM", default=str(ROOT / "build" / "bench" / "train"))
    ap.add_argument("--publish", action="store_true", help="make this what the documents say")
    return ap.parse_args()


def main():
    a = arguments()
    if a.list:
        for w in WORKS:
            print("%-20s some %3d s a round" % (w.name, w.seconds))
        print("%-20s %s tokens" % ("long", ", ".join(str(n) for n, *_ in LONG)))
        return 0
    works, long = choose(a.works)
    bf16 = has_bf16()
    if not bf16 and any(w.precision == "bf16" for w in works):
        say("bf16 is left out: this CPU does not multiply it")
        works = [w for w in works if w.precision != "bf16"]
    a.steps = 2 if a.quick else a.steps
    lengths = LONG[:2] if a.quick else LONG
    b = Bench(a)
    b.torch_version = None
    begin = time.monotonic()
    rows = measure(b, works, a)
    far = measure_long(b, lengths, "bf16" if bf16 else "f32") if long else []
    found = {"machine": machine.describe(a.threads), "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
             "rounds": a.rounds, "steps": a.steps, "minutes": round((time.monotonic() - begin) / 60, 1),
             "sala": json.loads(run([SALA, "version", "--json"]))["version"], "torch": b.torch_version,
             "product_peak": b.peaks, "rows": rows, "long": far}
    out = pathlib.Path(a.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = [out.with_suffix(s) for s in (".json", ".svg", ".md")]
    for path, text in zip(written, (train_report.as_json(found), train_report.as_svg(found), train_report.as_text(found))):
        path.write_text(text, encoding="utf-8")
    print(train_report.as_text(found))
    if a.publish:
        written += train_report.publish(found)
    print("written: %s" % ", ".join(os.path.relpath(p) for p in written))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit("train_bench: %s" % e)
