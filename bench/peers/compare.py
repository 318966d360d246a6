#!/usr/bin/env python3
"""Speed of sala next to llama.cpp: same files, same threads, same machine, runs taken in turn.

    compare.py [--works LIST] [--rounds 3] [--minutes 30] [--threads N] [--models DIR] [--out STEM]
    compare.py --model FILE [--depths 0,4096] [--caches f16,q8_0]
    compare.py --list

A round goes through the works; in each, the engines take turns, every run in a process of its own, so that all see the same
weather. Where an engine has variants (type of the cache, flash attention) each is run, and the best one counts, for prefill
and for decoding on their own; a variant that was far behind in the first round is not run again. The median of the rounds
counts. No round is begun that would not end within --minutes. Prints a table and writes it with all samples and a chart to
STEM.md, STEM.json and STEM.svg (default build/bench/peers); --publish puts them where README.md quotes them (see report.py).
"""
import argparse
import itertools
import json
import os
import pathlib
import statistics
import sys
import time

import engines as eng
import machine
import report
import works

SALA = os.environ.get("SALA") or str(works.ROOT / "build" / "release" / "sala")
FAR_BEHIND = 0.8  # of the best variant of the same engine; below it in every row, a variant is left out after round 1


def say(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--works", default="default", help="names joined by commas, see --list [all but the 8B shape]")
    ap.add_argument("--list", action="store_true", help="say which works there are")
    ap.add_argument("--model", help="a GGUF file or a name of the catalogue, instead of the works")
    ap.add_argument("--depths", default="0", help="with --model [0]")
    ap.add_argument("--caches", default="f16", help="with --model: f16, q8_0 or both [f16]")
    ap.add_argument("--models", default=str(works.ROOT / "build" / "bench" / "models"), help="where random models are kept")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--kernels", default="", help="kernel family of sala; llama.cpp uses what it was built for")
    ap.add_argument("--prefill", type=int, default=512)
    ap.add_argument("--decode", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--minutes", type=float, default=30)
    ap.add_argument("--peer-bench", metavar="PATH", help="another llama-bench, measured as well at depth 0")
    ap.add_argument("--peer-args", default="", help="further arguments for it")
    ap.add_argument("--out", metavar="STEM", default=str(works.ROOT / "build" / "bench" / "peers"))
    ap.add_argument("--publish", action="store_true", help="make this what README.md says")
    return ap.parse_args()


def label(variant):
    return " ".join("%s %s" % kv for kv in variant.items() if kv[1])


# ---- measuring ---------------------------------------------------------------------------------------------------------


class Samples:
    """Tokens per second of every work, row (kind, n, depth), engine and variant."""

    def __init__(self):
        self.of, self.rss, self.left_out, self.bandwidths = {}, {}, set(), []

    def bandwidth(self):
        return statistics.median(self.bandwidths)

    def add(self, work, engine, variant, rows):
        for r in rows:
            slot = self.of.setdefault((work, r["kind"], r["n"], r["depth"]), {}).setdefault(engine, {})
            slot.setdefault(variant, []).append(r["tokens_per_second"])
            key = (work, engine)
            self.rss[key] = max(self.rss.get(key, 0), r.get("peak_rss_bytes", 0))

    def leave_out_slow(self, work):
        near, seen = set(), set()
        for (w, *_), by_engine in self.of.items():
            for engine, by_variant in by_engine.items() if w == work else ():
                best = max(map(statistics.median, by_variant.values()))
                seen |= {(work, engine, v) for v in by_variant}
                near |= {(work, engine, v) for v, s in by_variant.items() if statistics.median(s) >= FAR_BEHIND * best}
        self.left_out |= seen - near


def measure(chosen, paths, peers, a, samples, problems):
    """Runs the rounds. Returns how many were complete."""
    begin = time.monotonic()
    until, longest = begin + 60 * a.minutes, 0
    for done in range(a.rounds):
        start = time.monotonic()
        if done and start + longest > until:
            say("no time for another round: %d of %d done" % (done, a.rounds))
            return done
        samples.bandwidths.append(machine.read_bandwidth(a.threads))
        for work in chosen:
            turns = itertools.zip_longest(*[[(e, v) for v in e.variants(work)] for e in peers])
            began = time.monotonic()
            for engine, variant in (t for turn in turns for t in turn if t):
                key = (work.name, engine.name, label(variant))
                if key in samples.left_out or key in problems:
                    continue
                try:
                    rows = engine.run(work, paths[work.name], variant, max(300, until - time.monotonic()))
                    samples.add(*key, rows)
                except eng.Failed as e:
                    if engine is peers[0]:
                        raise
                    problems[key] = str(e)
                    say("  %s, %s, %s cannot run this and is left out:\n%s" % (*key, e))
            if done == 0:
                samples.leave_out_slow(work.name)
            say("round %d of %d, %-10s %4.0f s; %.1f minutes so far" % (
                done + 1, a.rounds, work.name, time.monotonic() - began, (time.monotonic() - begin) / 60))
        longest = max(longest if done > 1 else 0, time.monotonic() - start)  # the first round also runs what is left out
    return a.rounds


# ---- reporting ---------------------------------------------------------------------------------------------------------


def bytes_per_token(info, depth, n, cache):
    """What decoding one token has to read: weights (of an untied embedding one row only) and, on average, the cache."""
    tied = info["shape"]["tied_head"]
    weights = sum(c["bytes"] for c in info["tensor_classes"] if tied or c["class"] != "token embedding")
    table = {t["kv_type"]: t["at"][0]["kv_bytes"] / t["at"][0]["tokens"] for t in info["memory"]["table"]}
    return weights + table[cache] * (depth + n / 2)


def report_rows(samples, chosen, paths, inspect):
    rows, order = [], {w.name: i for i, w in enumerate(chosen)}
    infos = {w.name: inspect(paths[w.name]) for w in chosen}
    for key in sorted(samples.of, key=lambda k: (order[k[0]], k[3], k[1] != "prefill")):
        (work, kind, n, depth), by_engine = key, samples.of[key]
        row = {"work": work, "file": os.path.basename(paths[work]), "kind": kind, "n": n, "depth": depth, "engines": {}}
        for engine, by_variant in by_engine.items():
            best = max(by_variant, key=lambda v: statistics.median(by_variant[v]))
            row["engines"][engine] = {"median": statistics.median(by_variant[best]), "variant": best, "samples": by_variant,
                                      "peak_rss_bytes": samples.rss[work, engine]}
        ours = row["engines"]["sala"]
        others = [e["median"] for name, e in row["engines"].items() if name != "sala"]
        if others:
            row["ratio"] = ours["median"] / max(others)
        if kind == "decode":
            for e in row["engines"].values():
                cache = "q8_0" if "q8_0" in e["variant"] else "f16"
                e["share_of_bandwidth"] = e["median"] * bytes_per_token(infos[work], depth, n, cache) / samples.bandwidth()
        rows.append(row)
    return rows


def main():
    a = arguments()
    if a.list:
        for w in works.WORKS:
            print("%-10s %-26s depth %-12s cache %-9s %4.1f GiB %s" % (
                w.name, w.model, ",".join(map(str, w.depths)), ",".join(w.caches), w.gib,
                "" if w.name in works.DEFAULT else "(not by default)"))
        return 0
    if a.model:
        chosen = [works.Work(os.path.basename(a.model), a.model, depths=tuple(int(d) for d in a.depths.split(",")),
                             caches=tuple(a.caches.split(",")))]
    else:
        chosen = works.choose(a.works)
    for w in [w for w in chosen if w.gib > works.free_gib()]:
        say("%s is left out: it needs %.1f GiB of memory, %.1f are free" % (w.name, w.gib, works.free_gib()))
        chosen.remove(w)
    if not chosen:
        return 1

    def inspect(model):
        return eng.run_json([SALA, "inspect", model, "--json"])

    paths = {w.name: works.model_file(w, SALA, a.models, inspect) for w in chosen}
    import llama_cpp
    peers = [eng.Sala(SALA, a), eng.LlamaCpp(a)] + ([eng.BenchProgram(a.peer_bench, a.peer_args, a)] if a.peer_bench else [])
    guess = a.rounds * sum(w.seconds for w in chosen) / 60
    say("%d works, %d rounds: some %.0f minutes on two cores, %.0f at most (and the first round to its end)"
        % (len(chosen), a.rounds, guess, a.minutes))
    samples, problems = Samples(), {}
    rounds = measure(chosen, paths, peers, a, samples, problems)

    found = {"machine": machine.describe(a.threads), "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
             "rounds": rounds, "read_bytes_per_second": samples.bandwidth(),
             "sala": eng.run_json([SALA, "version", "--json"])["version"], "kernels": a.kernels or "auto",
             "llama_cpp_python": llama_cpp.__version__, "llama_cpp_system": llama_cpp.llama_print_system_info().decode(),
             "peer_args": a.peer_args, "rows": report_rows(samples, chosen, paths, inspect),
             "could_not_run": [dict(zip(("work", "engine", "variant"), k), why=v) for k, v in problems.items()]}
    out = pathlib.Path(a.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = [out.with_suffix(s) for s in (".json", ".svg", ".md")]
    for path, text in zip(written, (report.as_json(found), report.as_svg(found), report.as_text(found))):
        path.write_text(text, encoding="utf-8")
    print(report.as_text(found))
    if a.publish:
        written += report.publish(found)
    print("written: %s" % ", ".join(os.path.relpath(p) for p in written))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except eng.Failed as e:
        sys.exit("compare: %s" % e)
