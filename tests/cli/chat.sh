#!/usr/bin/env bash
# The chat on a terminal, played through a pseudo-terminal.
. "$(dirname "$0")/common.bash"
if ! python3 -c 'import os; os.openpty()' 2>/dev/null; then
    echo "skipped: this machine gives no pseudo-terminal (is /dev/pts mounted?)"
    exit 77
fi
make_model "$model" qwen3
cat >play.py <<'PY'
"""Starts the program on a pseudo-terminal and talks to it."""
import os, pty, re, select, signal, sys, termios, time


class Chat:
    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(os.environ["SALA"], ["sala", "run", *args])
        self.seen = b""
        self.expect(b"> ")

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)

    def expect(self, what, seconds=60):
        """Waits for `what`; returns what came before it, and forgets both."""
        end = time.time() + seconds
        while what not in self.seen:
            if time.time() > end or not self.read(end - time.time()):
                sys.exit("no %r within %r" % (what, self.seen))
        before, self.seen = self.seen.split(what, 1)
        return before

    def say(self, line):
        os.write(self.fd, line.encode() + b"\r")
        self.expect(b"\n")  # the echo

    def press(self, keys):
        """Types control keys: not before the line editor reads keys one by one, which it does a moment after the prompt."""
        end = time.time() + 60
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            if time.time() > end:
                sys.exit("the terminal stays in line mode")
            time.sleep(0.01)
        os.write(self.fd, keys)

    def end(self):
        """Waits for the program; returns its exit code and its last words."""
        end = time.time() + 60
        while True:
            self.read(0.1)
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            if time.time() > end:
                os.kill(self.pid, signal.SIGKILL)
                sys.exit("it does not end; last seen: %r" % self.seen)
        while self.read(0.1):
            pass
        if not os.WIFEXITED(status):
            sys.exit("ended by signal %d" % os.WTERMSIG(status))
        return os.WEXITSTATUS(status), self.seen


model = os.environ["MODEL"]
greedy = ["--temp", "0", "--kernels", "ref", "-n", "6"]

# Commands.
c = Chat(model, *greedy)
c.say("/help")
c.expect(b"/save FILE")
c.expect(b"> ")
c.say("/hlep")
c.expect(b"did you mean /help?")
c.expect(b"> ")
c.say("hello")
c.expect(b"\n> ")
c.say("one two")
c.expect(b"\n> ")
c.say("/save talk.json")
c.expect(b"saved to talk.json")
c.expect(b"> ")
c.say("/save no/such/talk.txt")
c.expect(b"No such file")
c.expect(b"> ")
c.say("/system be brief")
c.expect(b"starts over")
c.expect(b"> ")
c.say("/save talk2.json")
c.expect(b"saved")
c.expect(b"> ")
c.say("/reset")
c.expect(b"forgotten")
c.expect(b"> ")
c.say("/exit")
code, words = c.end()
assert code == 0, code
prefilled = int(re.search(rb"prompt (\d+) tokens", words).group(1))

import json
talk = json.load(open("talk.json"))
assert [m["role"] for m in talk["messages"]] == ["user", "assistant"] * 2, talk
assert talk["messages"][2]["content"] == "one two"
assert [m["role"] for m in json.load(open("talk2.json"))["messages"]] == ["system"]


def prompt_tokens(messages):
    import subprocess
    request = json.dumps({"messages": messages, "add_generation_prompt": True})
    text = subprocess.run([os.environ["SALA"], "template", model, "--json"], input=request.encode(), capture_output=True, check=True)
    ids = subprocess.run([os.environ["SALA"], "tokenize", model, "--json"], input=text.stdout, capture_output=True, check=True)
    return len(json.loads(ids.stdout))


# The second turn fed only what the session did not hold yet.
first, second = prompt_tokens(talk["messages"][:1]), prompt_tokens(talk["messages"][:3])
assert prefilled < first + second - first // 2, (prefilled, first, second)

# Ctrl-D leaves with 0; Ctrl-C at the prompt with 1; the history is kept.
c = Chat(model, *greedy)
c.press(b"\x1b[A\r")  # the line before: /exit
assert c.end()[0] == 0
c = Chat(model, *greedy)
c.press(b"\x04")
assert c.end()[0] == 0
c = Chat(model, *greedy)
c.press(b"\x03")
code, words = c.end()
assert code == 1 and b"interrupted" in words, (code, words)

# Ctrl-C stops the answer and not the program; twice within a second it ends the program.
endless = ["--temp", "0", "--kernels", "ref", "-c", "100000", "--ignore-eos"]
c = Chat(model, *endless)
c.say("hello")
c.read(60)
time.sleep(0.2)
os.write(c.fd, b"\x03")
c.expect(b"[stopped]")
c.expect(b"> ")
c.say("/exit")
assert c.end()[0] == 0
c = Chat(model, *endless)
c.say("hello")
c.read(60)
os.kill(c.pid, signal.SIGINT)
time.sleep(0.1)
os.kill(c.pid, signal.SIGINT)  # during the answer or, if that has stopped already, at the prompt
assert c.end()[0] == 1

# A full context says so and the chat goes on; several lines make one message.
c = Chat(model, "--temp", "0", "--kernels", "ref", "-c", "40", "--ignore-eos")
c.say("hello")
c.expect(b"context of 40 tokens is full")
c.expect(b"> ")
c.say("hello")
c.expect(b"/reset starts over")
c.expect(b"> ")
c.say("/reset")
c.expect(b"> ")
c.say('"""one')
c.expect(b". ")
c.say('two"""')
c.expect(b"> ")
c.say("/save lines.json")
c.expect(b"saved")
c.expect(b"> ")
c.say("/bye")
assert c.end()[0] == 0
assert json.load(open("lines.json"))["messages"][0]["content"] == "one\ntwo"

# Raw text goes on where it stopped.
c = Chat(model, *greedy, "--raw")
c.say("hello")
c.expect(b"\n> ")
c.say(" world")
c.expect(b"\n> ")
c.say("/save raw.txt")
c.expect(b"saved")
c.expect(b"> ")
c.press(b"\x04")
assert c.end()[0] == 0
assert b"hello" in open("raw.txt", "rb").read() and b"world" in open("raw.txt", "rb").read()
PY
MODEL="$model" python3 play.py >out 2>err || fail "chat"

# Without a terminal -i reads line by line.
feed 0 'hello\none two\n' "$SALA" run "$model" -i --temp 0 --kernels ref -n 4
[ -s out ] || fail "no answer"
has err "tok/s"
finish
