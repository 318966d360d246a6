#!/usr/bin/env python3
"""The demonstration of `make demo`: brings the default model, asks it something, then asks about a long text.

    tools/demo.py PROGRAM

Prints every command as one would type it, the answer as it is generated, the program's own line of timings, and the peak
resident memory as the kernel counted it. Exit 0 only if every command succeeded and the answers are not empty.
"""
import gzip
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

MODEL = "smollm2"
JARGON = "/usr/share/doc/jargon-text/jargon.txt.gz"
STORY, STORY_END = "A Story About \u2018Magic'", "Some AI Koans"
QUESTION = "What two words were written on the switch?"
CHAT = "Explain in three sentences why the sky is blue."

COLOUR = sys.stdout.isatty() and os.environ.get("NO_COLOR") is None
bold = (lambda s: "\033[1m%s\033[0m" % s) if COLOUR else (lambda s: s)
faint = (lambda s: "\033[2m%s\033[0m" % s) if COLOUR else (lambda s: s)


def excerpt(before=12000, after=4000):
    """Text around one story of the Jargon File, Appendix A: long, but within the model's context."""
    with gzip.open(JARGON, "rt", encoding="utf-8", errors="replace") as f:
        full = f.read()
    start = full.rindex(STORY)
    end = full.index(STORY_END, start)
    text = full[max(0, end - before):end + after]
    return re.sub(r"[ \t]+", " ", text[text.index("\n") + 1:text.rindex("\n")]).strip()


def show(args):
    """The command as typed, with `sala` for the program and long arguments cut."""
    words = ["sala"] + [shlex.quote(a) for a in args]
    print(bold("$ " + " ".join(words)), flush=True)


def run(program, args, answer=True):
    """Runs the program with its answer on our terminal; returns (answer, its talk on stderr)."""
    show(args)
    with tempfile.TemporaryFile() as talk:
        p = subprocess.Popen([program, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=talk if answer else None)
        out = bytearray()
        while True:
            piece = os.read(p.stdout.fileno(), 4096)
            if not piece:
                break
            out += piece
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        talk.seek(0)
        words = talk.read().decode("utf-8", "replace")
    if out and not out.endswith(b"\n"):
        print(flush=True)
    if p.returncode:
        sys.exit("demo: `sala %s` failed with exit code %d\n%s" % (args[0], p.returncode, words))
    if answer:
        if not out.strip():
            sys.exit("demo: the answer is empty")
        for line in [ln for ln in re.split(r"[\r\n]+", words) if ln.strip()][-2:]:
            print(faint("  " + line.strip()))
        print(faint("  peak resident memory as the system counted it: %.0f MiB" % (usage.ru_maxrss / 1024)), flush=True)
    print(flush=True)
    return out.decode("utf-8", "replace"), words


def main():
    program = os.path.abspath(sys.argv[1])
    print("\nThe default model (it is fetched once, then kept in the cache folder):")
    run(program, ["pull", MODEL], answer=False)

    print("A question:")
    run(program, ["run", MODEL, "-p", CHAT, "--temp", "0", "-n", "160"])

    text = excerpt()
    ids = subprocess.run([program, "tokenize", MODEL, "--json"], input=text.encode(), stdout=subprocess.PIPE, check=True)
    print("A question about a long text: %d words (%d tokens) of the Jargon File, Debian's package jargon-text:" % (
        len(text.split()), ids.stdout.count(b",") + 1))
    with tempfile.TemporaryDirectory() as d:
        os.chdir(d)
        pathlib.Path("question.txt").write_text(text + "\n\n" + QUESTION, encoding="utf-8")
        print(faint("  question.txt ends: ...%s" % " ".join(text.split()[-8:])))
        print(faint("  %s" % QUESTION))
        run(program, ["run", MODEL, "-f", "question.txt", "--temp", "0", "-n", "80"])
        os.chdir("/")
    print("Try it yourself:  build/release/sala run %s" % MODEL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
