"""The engines: how each is started for one run, and how its output becomes rows.

A variant is a way to run an engine that its user may choose: the type of the cache, flash attention. Every variant is
measured, and each engine counts with its best.
"""
import json
import os
import pathlib
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


class Failed(RuntimeError):
    pass


def run_json(command, timeout=None):
    try:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    except subprocess.TimeoutExpired as e:
        raise Failed("%s: no end after %d s" % (" ".join(command), timeout)) from e
    except OSError as e:
        raise Failed("%s: %s" % (command[0], e.strerror)) from e
    if p.returncode:
        how = "exit %d" % p.returncode if p.returncode > 0 else "ended by signal %d" % -p.returncode
        raise Failed("%s: %s\n%s" % (" ".join(command), how, p.stderr.decode("utf-8", "replace")[-2000:]))
    text = p.stdout.decode("utf-8", "replace")  # some programs print warnings among their rows
    return json.loads("\n".join(line for line in text.splitlines() if not line[:1].isalpha()))


class Sala:
    name = "sala"

    def __init__(self, program, settings):
        self.program, self.s = program, settings

    def variants(self, work):
        return [{"kv": kv} for kv in work.caches]

    def run(self, work, path, variant, timeout):
        command = [self.program, "bench", path, "-p", str(self.s.prefill), "-n", str(self.s.decode),
                   "-d", ",".join(map(str, work.depths)), "-t", str(self.s.threads), "-r", "1", "--kv", variant["kv"], "--json"]
        return run_json(command + (["--kernels", self.s.kernels] if self.s.kernels else []), timeout)


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, settings):
        self.s = settings

    def variants(self, work):
        """llama.cpp keeps quantised values with flash attention only."""
        return [{"kv": kv, "flash": flash} for kv in work.caches for flash in (("on", "off") if kv == "f16" else ("on",))]

    def run(self, work, path, variant, timeout):
        return run_json([sys.executable, str(HERE / "llama_cpp_run.py"), path, "--threads", str(self.s.threads),
                         "--depths", ",".join(map(str, work.depths)), "--prefill", str(self.s.prefill),
                         "--decode", str(self.s.decode), "--kv", variant["kv"], "--flash", variant["flash"]], timeout)


class BenchProgram:
    """A `llama-bench` of llama.cpp or of a fork, built by hand. Measures at depth 0: not every fork can go deeper."""

    def __init__(self, path, arguments, settings):
        self.name, self.path, self.arguments, self.s = os.path.basename(path), path, shlex.split(arguments), settings

    def variants(self, work):
        return [{"arguments": " ".join(self.arguments)}] if 0 in work.depths else []

    def run(self, work, path, variant, timeout):
        rows = run_json([self.path, "-m", path, "-p", str(self.s.prefill), "-n", str(self.s.decode), "-t", str(self.s.threads),
                         "-r", "1", "-o", "json"] + self.arguments, timeout)
        return [{"kind": "prefill" if r["n_prompt"] else "decode", "n": r["n_prompt"] or r["n_gen"], "depth": 0,
                 "tokens_per_second": r["avg_ts"]} for r in rows]
