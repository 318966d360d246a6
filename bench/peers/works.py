"""What is measured: the works by name, and the model files they need.

A work is a file, the depths it is measured at and the caches that may hold its keys and values. Shapes that are not in the
catalogue are written by `sala random`: the weights are noise, and what an operation costs does not depend on them.
"""
import dataclasses
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "examples" / "configs"


@dataclasses.dataclass(frozen=True)
class Work:
    name: str
    model: str                # a name of the catalogue, a path, or the name of a file written from `config`
    config: str = ""          # shape in examples/configs, "" when the model is a real one
    type: str = ""
    depths: tuple = (0,)
    caches: tuple = ("f16",)
    gib: float = 1            # memory that must be free: the file, once more repacked, and the caches
    seconds: int = 30         # one round of all engines on two cores of 2026, for the announcement only


def _small(name, kind, depths=(0,), caches=("f16",), gib=2.0, seconds=12):
    return Work(name, "minicpm4-0.5b-%s" % kind, "minicpm4-0.5b", kind, depths, caches, gib, seconds)


WORKS = (
    Work("smollm2", "smollm2", depths=(0, 1024, 4096), seconds=60),
    _small("0.5b-q4_0", "q4_0"),
    _small("0.5b-q4_k", "q4_k_m"),
    _small("0.5b-q8_0", "q8_0"),
    _small("0.5b-4k", "q4_0", (4096,), ("f16", "q8_0"), 2.5, 60),
    _small("0.5b-32k", "q4_0", (32768,), ("f16", "q8_0"), 4, 300),
    Work("1b-tq2_0", "bitcpm4-1b-tq2_0", "bitcpm4-1b", "tq2_0", gib=2.5, seconds=40),
    Work("8b-q4_0", "minicpm4-8b-q4_0", "minicpm4-8b", "q4_0", gib=12, seconds=180),
)
DEFAULT = tuple(w.name for w in WORKS if w.name != "8b-q4_0")


def choose(names):
    """The works of a comma-separated list; "default" is all but the 8B shape, "all" is all."""
    known = {w.name: w for w in WORKS}
    chosen = []
    for name in names.split(","):
        for n in {"default": DEFAULT, "all": tuple(known)}.get(name, (name,)):
            if n not in known:
                raise SystemExit("compare: no work '%s'; known: default, all, %s" % (n, ", ".join(known)))
            if known[n] not in chosen:
                chosen.append(known[n])
    return chosen


def free_gib():
    try:
        for line in open("/proc/meminfo", encoding="ascii"):
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass
    return float("inf")


def model_file(work, sala, folder, inspect):
    """Path of the file, written first where it is one of random weights and missing."""
    if work.config:
        path = pathlib.Path(folder) / (work.model + ".gguf")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([sala, "random", str(CONFIGS / (work.config + ".json")), "--type", work.type, "--out",
                            str(path), "-q"],
                           check=True)
        return str(path)
    if os.path.exists(work.model):
        return work.model
    path = inspect(work.model).get("path", "")
    if not os.path.exists(path):
        raise SystemExit("compare: no file for the model %s; run `%s pull %s`" % (work.model, sala, work.model))
    return path
