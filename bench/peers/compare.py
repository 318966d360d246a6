#!/usr/bin/env python3
"""Speed of sala next to llama.cpp: same file, same threads, same machine, runs taken in turn.

    compare.py [--model FILE] [--threads N] [--depths 0,1024,4096] [--prefill 512] [--decode 128] [--rounds 5] [--out STEM]

Each round runs `sala bench` and then a fresh process with llama.cpp (package llama-cpp-python), so that both see the same
weather. The median of the rounds counts. Writes STEM.json and STEM.svg (default build/bench/peers) and prints a table.
"""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SALA = os.environ.get("SALA") or str(ROOT / "build" / "release" / "sala")


# ---- llama.cpp, in a process of its own --------------------------------------------------------------------------------


def worker(model, threads, depths, n_prefill, n_decode):
    """Prints one JSON array like that of `sala bench`. Weights mapped, f16 cache, library defaults otherwise."""
    import llama_cpp as lc
    quiet = lc.llama_log_callback(lambda level, text, user: None)
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    lc.llama_backend_init()
    mp = lc.llama_model_default_params()
    mp.n_gpu_layers = 0
    m = lc.llama_model_load_from_file(model.encode(), mp)
    cp = lc.llama_context_default_params()
    cp.n_ctx = max(depths) + n_prefill + n_decode + 64
    cp.n_batch = cp.n_ubatch = 512
    cp.n_threads = cp.n_threads_batch = threads
    ctx = lc.llama_init_from_model(m, cp)
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(m))
    state = [1]

    def feed(n):
        state[0] = (state[0] * 1664525 + 1013904223) & 0xFFFFFFFF
        ids = (lc.llama_token * n)(*[3 + (state[0] + 7919 * i) % (vocab - 3) for i in range(n)])
        if lc.llama_decode(ctx, lc.llama_batch_get_one(ids, n)) != 0:
            raise RuntimeError("llama_decode failed")
        lc.llama_synchronize(ctx)

    def fill(n):
        lc.llama_memory_clear(lc.llama_get_memory(ctx), True)
        while n > 0:
            feed(min(n, 512))
            n -= 512

    fill(64)  # pages in the weights
    feed(1)
    rows = []
    for depth in depths:
        for kind, n in (("prefill", n_prefill), ("decode", n_decode)):
            fill(depth)
            begin = time.perf_counter()
            if kind == "prefill":
                for at in range(0, n, 512):
                    feed(min(512, n - at))
            else:
                for _ in range(n):
                    feed(1)
            rows.append({"kind": kind, "n": n, "depth": depth, "threads": threads,
                         "tokens_per_second": n / (time.perf_counter() - begin)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for r in rows:
        r["peak_rss_bytes"] = peak
    print(json.dumps(rows))


# ---- the comparison ----------------------------------------------------------------------------------------------------


def run_json(command):
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        sys.exit("compare: %s: exit %d\n%s" % (" ".join(command), p.returncode, p.stderr.decode("utf-8", "replace")))
    return json.loads(p.stdout)


def cpu_name():
    try:
        for line in open("/proc/cpuinfo", encoding="utf-8"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def chart(rows, title):
    """Grouped bars, one panel for prefill and one for decode, with the ratio above each pair."""
    panels = [k for k in ("prefill", "decode") if any(r["kind"] == k for r in rows)]
    width, height, top, left, gap = 420 * len(panels) + 20, 330, 64, 60, 420
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">'
           % (width, height), '<rect width="100%" height="100%" fill="#fff"/>',
           '<text x="20" y="24" font-size="15" font-weight="bold">%s</text>' % title.replace("&", "&amp;")]
    for x, colour, name in ((20, "#1b6ca8", "sala"), (90, "#b9c3cc", "llama.cpp")):
        out.append('<rect x="%d" y="36" width="12" height="12" fill="%s"/><text x="%d" y="47">%s</text>' % (
            x, colour, x + 17, name))
    for p, kind in enumerate(panels):
        mine = [r for r in rows if r["kind"] == kind]
        x0, base, high = left + gap * p, height - 50, height - 50 - top - 30
        most = max(max(r["sala"], r["llama_cpp"]) for r in mine)
        out.append('<text x="%d" y="%d" font-weight="bold">%s of %d, tokens/s</text>' % (x0, top + 14, kind, mine[0]["n"]))
        out.append('<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#333"/>' % (x0 - 8, base, x0 + gap - 70, base))
        step = (gap - 80) / len(mine)
        for i, r in enumerate(mine):
            bar = min(44, step / 2 - 6)
            for j, (key, colour) in enumerate((("sala", "#1b6ca8"), ("llama_cpp", "#b9c3cc"))):
                h, x = high * r[key] / most, x0 + i * step + j * (bar + 3)
                out.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>' % (x, base - h, bar, h, colour))
                out.append('<text x="%.1f" y="%.1f" text-anchor="middle" font-size="10">%.0f</text>' % (
                    x + bar / 2, base - h - 4, r[key]))
            out.append('<text x="%.1f" y="%d" text-anchor="middle">depth %d</text>' % (x0 + i * step + bar, base + 16, r["depth"]))
            out.append('<text x="%.1f" y="%d" text-anchor="middle" font-weight="bold">&#215; %.2f</text>' % (
                x0 + i * step + bar, base + 33, r["ratio"]))
    return "\n".join(out + ["</svg>", ""])


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--model", default="smollm2")
    ap.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    ap.add_argument("--depths", default="0,1024,4096")
    ap.add_argument("--prefill", type=int, default=512)
    ap.add_argument("--decode", type=int, default=128)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--out", default=str(ROOT / "build" / "bench" / "peers"))
    ap.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    a = ap.parse_args()
    depths = [int(d) for d in a.depths.split(",")]
    if a.worker:
        worker(a.model, a.threads, depths, a.prefill, a.decode)
        return 0
    if not os.path.exists(a.model):  # a name of the catalogue
        name, a.model = a.model, run_json([SALA, "inspect", a.model, "--json"]).get("path", a.model)
        if not os.path.exists(a.model):
            sys.exit("compare: no file for the model %s; run `%s pull %s`" % (name, SALA, name))

    ours = [SALA, "bench", a.model, "-p", str(a.prefill), "-n", str(a.decode), "-d", a.depths, "-t", str(a.threads),
            "-r", "1", "--json"]
    theirs = [sys.executable, __file__, "--worker", "--model", a.model, "--threads", str(a.threads), "--depths", a.depths,
              "--prefill", str(a.prefill), "--decode", str(a.decode)]
    samples = {}
    for i in range(a.rounds):
        for peer, command in (("sala", ours), ("llama_cpp", theirs)):
            for r in run_json(command):
                key = (r["kind"], r["n"], r["depth"])
                slot = samples.setdefault(key, {"sala": [], "llama_cpp": [], "rss": {}})
                slot[peer].append(r["tokens_per_second"])
                slot["rss"][peer] = max(slot["rss"].get(peer, 0), r["peak_rss_bytes"])
        print("round %d of %d done" % (i + 1, a.rounds), file=sys.stderr, flush=True)

    rows = []
    for (kind, n, depth), s in sorted(samples.items(), key=lambda kv: (kv[0][0] != "prefill", kv[0][2])):
        rows.append({"kind": kind, "n": n, "depth": depth, "threads": a.threads,
                     "sala": statistics.median(s["sala"]), "llama_cpp": statistics.median(s["llama_cpp"]),
                     "ratio": statistics.median(s["sala"]) / statistics.median(s["llama_cpp"]),
                     "sala_samples": s["sala"], "llama_cpp_samples": s["llama_cpp"], "peak_rss_bytes": s["rss"]})
    import llama_cpp
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": a.threads, "system": platform.platform()}
    report = {"model": os.path.basename(a.model), "model_bytes": os.path.getsize(a.model), "machine": machine,
              "llama_cpp_python": llama_cpp.__version__, "rounds": a.rounds, "rows": rows}
    out = pathlib.Path(a.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    title = "%s, %d threads, %s" % (report["model"], a.threads, machine["cpu"])
    out.with_suffix(".svg").write_text(chart(rows, title))
    print("%s; llama-cpp-python %s; median of %d rounds\n" % (title, llama_cpp.__version__, a.rounds))
    print("| work | depth | sala tok/s | llama.cpp tok/s | ratio | peak memory sala / llama.cpp, MiB |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        print("| %s %d | %d | %.1f | %.1f | %.2f | %.0f / %.0f |" % (
            r["kind"], r["n"], r["depth"], r["sala"], r["llama_cpp"], r["ratio"],
            r["peak_rss_bytes"]["sala"] / 2**20, r["peak_rss_bytes"]["llama_cpp"] / 2**20))
    print("\nwritten: %s, %s" % (out.with_suffix(".json"), out.with_suffix(".svg")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
