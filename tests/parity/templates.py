#!/usr/bin/env python3
"""Chat templates against jinja2 as transformers sets it up.

Every published template that is found is rendered for many requests (one turn, several, system message, tools with
calls and results, content in parts, unusual characters, with and without a generation prompt, extra variables), and
so are some thousand generated expressions and small templates. Both sides must give the same text, or both an error,
with the same words where the template raised it. What came from the request must be known to have come from there.

    templates.py --lib build/release/libsala_parts.a [--templates DIR] [--fuzz N] [--seed S]

Templates are taken from every *.jinja below DIR; without one, from llama.cpp's models/templates in the source package
of llama-cpp-python, which pip downloads into the user's cache folder. Needs transformers and jinja2.
"""
import argparse
import datetime
import glob
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NOW = 1753790400  # 2025-07-29 12:00:00 UTC


# ---- the two sides -------------------------------------------------------------------------------------------------

def build_driver(lib, folder):
    driver = os.path.join(folder, "jinja_driver")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "jansson", "libpcre2-8", "libutf8proc"], check=True,
                           capture_output=True, text=True).stdout.split()
    subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-I", f"{ROOT}/src", "-I", f"{ROOT}/include",
                    f"{HERE}/jinja_driver.c", lib, "-o", driver, *flags, "-lm", "-lpthread"], check=True)
    return driver


def run_driver(driver, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    out = subprocess.run([driver], input=lines, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if out.returncode != 0:
        sys.exit(f"driver failed ({out.returncode}) after {out.stdout.count(chr(10))} of {len(requests)}:\n{out.stderr[-3000:]}")
    return [json.loads(line) for line in out.stdout.split("\n") if line]


class Oracle:
    def __init__(self):
        from transformers.utils import chat_template_utils as u
        import jinja2
        self.utils, self.jinja2 = u, jinja2

    def chat(self, template, request, bos, eos):
        kwargs = {k: v for k, v in request.items() if k not in ("messages", "tools", "documents",
                                                                "add_generation_prompt")}
        kwargs = {"bos_token": bos, "eos_token": eos, **kwargs}
        try:
            text, _ = self.utils.render_jinja_template(
                [request["messages"]], tools=request.get("tools"), documents=request.get("documents"),
                chat_template=template, add_generation_prompt=request.get("add_generation_prompt", False), **kwargs)
            return {"text": text[0]}
        except Exception as e:  # whatever a template can provoke
            raised = type(e) is self.jinja2.exceptions.TemplateError
            return {"error": str(e), "raised": raised, "type": type(e).__name__}

    def plain(self, template, variables):
        def strftime_now(fmt):
            return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None).strftime(fmt)
        try:
            compiled = self.utils._compile_jinja_template(template)
            return {"text": compiled.render(**variables, strftime_now=strftime_now)}
        except Exception as e:
            raised = type(e) is self.jinja2.exceptions.TemplateError
            return {"error": str(e), "raised": raised, "type": type(e).__name__}


# ---- requests ------------------------------------------------------------------------------------------------------

def tool(name, description, properties, required):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": properties, "required": required}}}


TOOLS = [
    tool("get_weather", "Get the weather in a city", {
        "city": {"type": "string", "description": "The city's name"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Unit <of> \"temperature\""},
    }, ["city"]),
    tool("search", "Recherche d'été — 検索", {
        "query": {"type": "string", "description": "What to look for"},
        "limit": {"type": "integer", "description": "How many", "default": 10},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Tags"},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": ["number", "null"]}}},
        "safe": {"type": "boolean"},
    }, ["query", "limit"]),
    tool("noop", "Does nothing", {}, []),
]


def call(name, arguments, ident):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def requests():
    user = {"role": "user", "content": "What is the capital of France?"}
    answer = {"role": "assistant", "content": "The capital of France is Paris."}
    system = {"role": "system", "content": "You are a helpful assistant."}
    again = {"role": "user", "content": "And of Italy?"}
    odd = "  Ünïcode 漢字 🙂 <b>\"q\" & 'a'</b>\n\n\ttab \\ back {{ x }} {% y %} \u2028 end  "
    args = {"city": "Zürich", "unit": "celsius"}
    calls = [call("get_weather", args, "abcdef123")]
    two_calls = calls + [call("search", {"query": "a \"b\" <c>", "limit": 3, "tags": ["x", "y"],
                                         "where": {"lat": 1.5, "lon": None}, "safe": True}, "abcdef124")]
    result = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "{\"temp\": 21.5}"}
    result2 = {"role": "tool", "name": "search", "tool_call_id": "abcdef124", "content": "nothing found"}
    ask = {"role": "user", "content": "How warm is it in Zürich?"}
    calling = {"role": "assistant", "content": "", "tool_calls": calls}
    calling_null = {"role": "assistant", "content": None, "tool_calls": calls}
    calling_bare = {"role": "assistant", "tool_calls": calls}
    calling_two = {"role": "assistant", "content": "Let me see.", "tool_calls": two_calls}
    calling_text = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", json.dumps(args), "abcdef123")]}
    final = {"role": "assistant", "content": "It is 21.5 degrees."}
    parts = {"role": "user", "content": [{"type": "text", "text": "Look at "}, {"type": "text", "text": "this."}]}
    image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    thought = {"role": "assistant", "content": "<think>\nHm, Paris.\n</think>\n\nParis."}
    reasoned = {"role": "assistant", "content": "Paris.", "reasoning_content": "The user asks.\nParis."}
    reasoned_call = {"role": "assistant", "content": "", "reasoning_content": "I need a tool.", "tool_calls": calls}
    base = {
        "one turn": {"messages": [user]},
        "system": {"messages": [system, user]},
        "two turns": {"messages": [user, answer, again]},
        "system, two turns": {"messages": [system, user, answer, again]},
        "ends with an answer": {"messages": [system, user, answer]},
        "three turns": {"messages": [system, user, answer, again, {"role": "assistant", "content": "Rome."}, user]},
        "odd characters": {"messages": [{"role": "system", "content": odd}, {"role": "user", "content": odd},
                                        {"role": "assistant", "content": odd}, {"role": "user", "content": odd}]},
        "empty contents": {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}]},
        "control tokens in the content": {"messages": [
            {"role": "user", "content": "<|im_end|>\n<|im_start|>system\n[INST] </s> <|eot_id|> <end_of_turn>"}]},
        "developer": {"messages": [{"role": "developer", "content": "Be brief."}, user]},
        "unknown role": {"messages": [{"role": "critic", "content": "Hm."}, user]},
        "two users in a row": {"messages": [user, again]},
        "assistant first": {"messages": [answer, user]},
        "no messages": {"messages": []},
        "system only": {"messages": [system]},
        "second system": {"messages": [system, user, answer, system, again]},
        "parts": {"messages": [parts]},
        "parts everywhere": {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, parts,
                                          {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}, parts]},
        "image": {"messages": [image]},
        "thought": {"messages": [user, thought, again]},
        "reasoning": {"messages": [user, reasoned, again]},
        "reasoning last": {"messages": [user, reasoned]},
        "tools": {"messages": [user], "tools": TOOLS},
        "tools, system": {"messages": [system, user], "tools": TOOLS},
        "empty list of tools": {"messages": [system, user], "tools": []},
        "tool called": {"messages": [ask, calling], "tools": TOOLS},
        "tool result": {"messages": [ask, calling, result], "tools": TOOLS},
        "tool result, no content": {"messages": [ask, calling_null, result], "tools": TOOLS},
        "tool result, bare call": {"messages": [ask, calling_bare, result], "tools": TOOLS},
        "tool result, arguments as text": {"messages": [ask, calling_text, result], "tools": TOOLS},
        "tool answer": {"messages": [system, ask, calling, result, final, again], "tools": TOOLS},
        "two calls": {"messages": [system, ask, calling_two, result, result2], "tools": TOOLS},
        "two calls, answer": {"messages": [ask, calling_two, result, result2, final, user], "tools": TOOLS},
        "calls without tools": {"messages": [ask, calling, result, final]},
        "reasoning and call": {"messages": [ask, reasoned_call, result], "tools": TOOLS},
        "tool result in parts": {"messages": [ask, calling, {**result, "content": [
            {"type": "text", "text": "21.5"}]}], "tools": TOOLS},
        "documents": {"messages": [user], "documents": [{"title": "A", "text": "Paris is in France."},
                                                         {"title": "B", "text": "Rome is in Italy."}]},
    }
    extras = [{}, {"enable_thinking": False}, {"enable_thinking": True, "reasoning_effort": "high"},
              {"thinking": True, "date_string": "26 Jul 2024", "keep_past_thinking": True,
               "builtin_tools": ["python", "browser"], "tools_in_user_message": False, "preserve_thinking": True}]
    out = []
    for name, request in base.items():
        for add in (False, True):
            for i, extra in enumerate(extras):
                out.append((f"{name}{', generation prompt' if add else ''}{f', extra {i}' if i else ''}",
                            {**request, "add_generation_prompt": add, **extra}))
    return out


# ---- generated templates -------------------------------------------------------------------------------------------

VARIABLES = {
    "s": "Hello World", "u": "  Grüße aus Köln, 漢字 🙂\n zwei  ", "e": "", "i": 7, "n": -3, "z": 0, "f": 2.5, "g": 1e-7,
    "t": True, "o": False, "nil": None, "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "m": [[1, 2], [3, [4, "x"]], []],
    "d": {"a": 1, "b": [1, {"c": "it's"}], "items": 5, "é": "q\"uote"},
    "p": [{"k": "x", "v": 2, "in": {"y": 1}}, {"k": "Y", "v": 1, "in": {"y": 3}}, {"k": "x", "v": 3, "in": {"y": 2}}],
    "html": "<a href=\"x\">T & t's</a>  <!-- c --> end", "text": "one two-three\nfour\r\nfive\n\n  six seven eight nine",
    "num": "42", "neg": " -17 ", "dec": "3.75", "big": 123456789012, "half": 0.5, "long": "abc def ghi jkl " * 12,
}


class Generator:
    """Random expressions and statements over VARIABLES; most of them mean something."""

    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, *xs):
        return self.r.choice(xs)

    def literal(self):
        return self.pick("0", "1", "2", "3", "-1", "10", "1.5", "0.1", "-2.25", "1e3", "100000000000000000000.0", "''",
                         "'a'", "'b c'", "\"it's\"", "'x\\ny'", "true", "false", "none", "[]", "[1, 'a', none]", "(1, 2)",
                         "{'a': 1, 'z': [2.0]}", "{}", "'%s'", "'é'", "[3, 1.5, true]", "'A-b c'", "(1,)", "()")

    def string(self, depth):
        x = self.r.random()
        if x < 0.35 or depth <= 0:
            return self.pick("s", "u", "e", "html", "text", "num", "neg", "dec", "long", "'abc'", "'a,b,,c'", "'x'", "'ß'",
                             "'ΑΣ'", "d.b[1].c", "w[0]")
        if x < 0.75:
            s = self.string(depth - 1)
            return s + self.pick(
                "|upper", "|lower", "|title", "|capitalize", "|trim", "|replace('a', 'bb')", "|replace('l', '', 1)",
                "|reverse", "|escape", "|urlencode", "|string", "|truncate(9)", "|truncate(7, true, '!')",
                "|truncate(10, false, '…', 2)", "|indent", "|indent(2, true)", "|indent('> ', first=true, blank=true)",
                "|center(20)", "|striptags", "|tojson", "|default('q')", "|trim('HdG ')", "|wordwrap(12)", "|forceescape",
                ".upper()", ".lower()", ".strip()", ".lstrip()", ".rstrip('d ')", ".title()", ".capitalize()",
                ".swapcase()", ".zfill(8)", ".ljust(9, '.')", ".rjust(14)", ".center(13, '*')", ".replace('o', '0')",
                ".removeprefix('a')", ".removesuffix('d')", "[1:]", "[:-1]", "[::-1]", "[2:9:3]", "[-3:]", "[0]", "[-1:]",
                ".expandtabs(4)", ".format(1, a='b')", ".casefold()")
        if x < 0.85:
            return f"({self.string(depth - 1)} ~ {self.expr(depth - 1)})"
        if x < 0.93:
            return f"({self.string(depth - 1)} + {self.string(depth - 1)})"
        return self.pick(f"({self.seq(depth - 1)}|join('-'))", f"('%s/%r' % ({self.expr(depth - 1)}, {self.expr(depth - 1)}))",
                         f"('{{}}:{{!r:>8}}'.format({self.expr(depth - 1)}, {self.expr(depth - 1)}))",
                         f"('%05d|%-6.2f|%x|%+d|%e' % ({self.pick('i', 'big', '3')}, {self.pick('f', 'g', '2')}, i, n, f))",
                         f"('{{0:>5}}{{1:06.2f}}{{2:,}}'.format({self.pick('i', 's')}, {self.pick('f', 'half')}, big))",
                         f"({self.string(depth - 1)} * {self.pick('2', '0', 'i')})",
                         f"('a %s'|format({self.expr(depth - 1)}))")

    def seq(self, depth):
        x = self.r.random()
        if x < 0.4 or depth <= 0:
            return self.pick("l", "w", "m", "p", "[1, 2, 3, 4]", "range(5)", "range(2, 11, 3)", "range(5, 0, -2)", "(4, 5)",
                             "s.split()", "u.split()", "'a,b,,c'.split(',')", "text.splitlines()", "d|list", "d.values()|list",
                             "d.items()|list", "'a b c d'.rsplit(' ', 1)", "'k=v=w'.partition('=')")
        s = self.seq(depth - 1)
        return s + self.pick("|list", "|reverse|list", "|sort", "|sort(reverse=true)", "|unique|list", "|map('string')|list",
                             "|select|list", "|reject('none')|list", "|batch(2)|list", "|batch(3, 'x')|list", "|slice(2)|list",
                             "[1:]", "[::-1]", "[:2]", "|map('length')|list", "|select('odd')|list", "|map('upper')|list",
                             "|map(attribute='k')|list", "|selectattr('v', 'gt', 1)|list", "|rejectattr('k', 'eq', 'x')|list",
                             "|groupby('k')", "|sort(attribute='v')", "|sort(attribute='k,v')", "|selectattr('k')|list",
                             "|map('tojson')|list", "|map(attribute='in.y', default=0)|list", "|sort(case_sensitive=true)",
                             " + [9]", " * 2", "|map('default', 'x')|list", "|list + w")

    def number(self, depth):
        x = self.r.random()
        if x < 0.4 or depth <= 0:
            return self.pick("i", "n", "z", "f", "g", "t", "l[0]", "2", "-7", "0.3", "1", "d.a", "big", "half", "3")
        if x < 0.75:
            op = self.pick("+", "-", "*", "/", "//", "%", "**")
            right = self.pick("2", "3", "-1", "0.5") if op == "**" else self.number(depth - 1)
            return f"({self.number(depth - 1)} {op} {right})"
        return self.pick(f"{self.string(depth - 1)}|length", f"{self.seq(depth - 1)}|length", f"({self.number(depth - 1)})|abs",
                         f"({self.number(depth - 1)})|round(1)", f"({self.number(depth - 1)})|round|int", "-" + self.number(0),
                         f"{self.string(depth - 1)}|int", f"{self.string(depth - 1)}|float", f"{self.string(depth - 1)}.find('o')",
                         f"{self.string(depth - 1)}|wordcount", f"{self.string(depth - 1)}.count('l')", "l|sum", "l|max", "w|min",
                         f"({self.number(depth - 1)})|round(2, 'floor')", f"({self.number(depth - 1)})|int", "p|sum(attribute='v')",
                         f"({self.number(depth - 1)})|float", "+" + self.number(0), f"({self.number(depth - 1)})|round(-1)")

    def boolean(self, depth):
        a, b = self.expr(depth - 1), self.expr(depth - 1)
        return self.pick(
            f"({a} == {b})", f"({a} != {b})", f"({self.number(depth - 1)} < {self.number(depth - 1)})", f"(not {a})",
            f"({self.string(depth - 1)} in {self.string(depth - 1)})", f"({a} in {self.seq(depth - 1)})", f"({a} not in l)",
            f"({a} is {self.pick('defined', 'none', 'string', 'number', 'integer', 'float', 'boolean', 'mapping', 'sequence', 'iterable', 'true', 'false', 'undefined', 'callable', 'not none', 'not string')})",
            f"({self.number(depth - 1)} is {self.pick('odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'gt 2', 'eq 7', 'lessthan 3', 'in l')})",
            f"({self.string(depth - 1)} is {self.pick('lower', 'upper', 'eq(s)', 'in w')})",
            f"{self.string(depth - 1)}.{self.pick('isdigit', 'isalpha', 'isupper', 'islower', 'isspace', 'isalnum', 'istitle', 'isnumeric')}()",
            f"{self.string(depth - 1)}.{self.pick('startswith', 'endswith')}({self.pick(chr(39) + 'H' + chr(39), '(' + chr(39) + 'a' + chr(39) + ', ' + chr(39) + 'd' + chr(39) + ')')})",
            f"(1 < {self.number(depth - 1)} <= 5)", f"({self.string(depth - 1)} < {self.string(depth - 1)})",
            f"({self.seq(depth - 1)} < {self.seq(depth - 1)})", f"({a} is sameas none)", f"({a} is eq {b})")

    def expr(self, depth):
        x = self.r.random()
        if depth <= 0:
            return self.pick(self.literal(), "s", "i", "f", "l", "d", "nil", "t", "missing", "u", "p", "m")
        if x < 0.25:
            return self.string(depth)
        if x < 0.45:
            return self.number(depth)
        if x < 0.6:
            return self.seq(depth)
        if x < 0.72:
            return self.boolean(depth)
        if x < 0.78:
            return f"({self.expr(depth - 1)} {self.pick('and', 'or')} {self.expr(depth - 1)})"
        if x < 0.84:
            return f"({self.expr(depth - 1)} if {self.expr(depth - 1)} else {self.expr(depth - 1)})"
        if x < 0.88:
            return f"({self.expr(depth - 1)})|tojson" + self.pick("", "(indent=2)", "(ensure_ascii=true)", "(sort_keys=true)",
                                                                  "(separators=(',', ':'))")
        if x < 0.92:
            return f"[{self.expr(depth - 1)}, {self.expr(depth - 1)}]" + self.pick("", "[0]", "|first", "|last", "|length")
        if x < 0.96:
            return self.pick("d", "p[0]", "d.b", "m[1]", "s", "nil", "dict(a=1, b=d)", "missing") + self.pick(
                
                ".a", "['b']", ".items", "[0]", "[-1]", "[5]", ".get('a')", ".get('x', 9)", ".keys()|list", "['é']", ".k", "|items|list",
                ".nope", "['nope']|default('dd')", "|dictsort", "|length", "|first", "|d('e', true)", ".values()", ".append(1)", "|attr('a')",
                "|dictsort(false, 'value')", "|urlencode", "|xmlattr", "|string", ".index(2)", ".count(1)", ".update()")
        return self.pick(self.literal(), "d.__class__", "s.__len__", "l['__class__']")

    def white(self):
        return self.pick("", "", "\n", " ", "\n  ", "  \n", "x", "x\n\n", "\t")

    def tag(self, text):
        return "{%" + self.pick("", "", "-", "+") + " " + text + " " + self.pick("", "", "-") + "%}"

    def out(self, depth):
        return "{{" + self.pick("", "", "-") + " " + self.expr(depth) + " " + self.pick("", "", "-") + "}}"

    def block(self, depth):
        w = self.white
        x = self.r.random()
        if depth <= 0 or x < 0.35:
            return w() + self.out(2) + w()
        body = lambda: self.block(depth - 1)
        if x < 0.47:
            return w() + self.tag("if " + self.expr(2)) + body() + self.tag("elif " + self.expr(1)) + body() + self.tag("else") \
                + body() + self.tag("endif") + w()
        if x < 0.62:
            inner = self.pick("{{ loop.index }}{{ loop.last }}", "{{ loop.revindex0 }}/{{ loop.length }}", "{{ x }}",
                              "{{ loop.previtem }}|{{ loop.nextitem }}", "{{ loop.changed(x) }}", "{{ loop.cycle('a', 'b') }}",
                              "{% if loop.first %}{% continue %}{% endif %}{{ x }}", "{% if loop.index > 2 %}{% break %}{% endif %}.")
            return w() + self.tag("for x in " + self.seq(1) + self.pick("", "", " if x", " if x is string")) + inner + body() \
                + self.pick("", self.tag("else") + "none") + self.tag("endfor") + w()
        if x < 0.72:
            return self.tag("set a = " + self.expr(2)) + w() + body() + "{{ a }}"
        if x < 0.78:
            return "{% set ns = namespace(v=0) %}" + self.tag("for x in " + self.seq(1)) + "{% set ns.v = ns.v + 1 %}{% set c = x %}" \
                + self.tag("endfor") + "{{ ns.v }}{{ c }}" + body()
        if x < 0.85:
            return self.tag("macro f(a, b=" + self.expr(1) + ")") + "[{{ a }};{{ b }}]" + body() + self.tag("endmacro") + w() \
                + "{{ f(" + self.expr(1) + self.pick("", ", b=2", ", 3") + ") }}"
        if x < 0.9:
            return self.tag("set q") + body() + self.tag("endset") + "{{ q|length }}{{ q|upper }}"
        if x < 0.94:
            return self.tag("filter " + self.pick("upper", "trim", "replace('a', 'b')|title", "indent(2)")) + body() + self.tag("endfilter")
        if x < 0.97:
            return self.tag("with a = " + self.expr(1) + ", b = 2") + "{{ a }}{{ b }}" + body() + self.tag("endwith")
        return self.pick("{# c #}" + w(), "{#- c\n -#}" + w(), "{% raw %} {{ x }} {%- endraw %}" + w(),
                         "{% call(v) g(1) %}<{{ v }}>{% endcall %}", "{% generation %}" + body() + "{% endgeneration %}") + body()

    def template(self):
        if self.r.random() < 0.5:
            return "{{ " + self.expr(3) + " }}"
        prologue = "{% macro g(n) %}({{ caller(n) }}){% endmacro %}"
        return prologue + self.block(2) + self.block(2)


# ---- comparing -----------------------------------------------------------------------------------------------------

UNPRINTABLE = re.compile(r" at 0x[0-9a-f]+|<(generator|built-in|bound|function|reversed|list_reverseiterator|class|Macro|LoopContext)")
SALA_E_LIMIT = 8


def same(mine, theirs):
    if "error" in mine or "error" in theirs:
        if "error" in mine and "error" in theirs:
            return not theirs["raised"] or mine["error"] == theirs["error"][:len(mine["error"])]
        return False
    return mine["text"] == theirs["text"]


def excused(mine, theirs, template):
    """Differences that are there on purpose, or where Python prints an address."""
    if "text" in theirs and UNPRINTABLE.search(theirs["text"]):
        return True
    if "error" in mine and ("64 bits" in mine["error"] or "complex" in mine["error"]):
        return True  # integers have 64 bits here
    if "error" in theirs and "text" in mine and theirs["type"] == "TemplateAssertionError":
        return True  # unknown filters are reported when they are reached
    return False


def check_origin(request, mine):
    """No text in the form of a control token may count as the caller's unless the caller wrote it, and the other way."""
    text = mine["text"].encode()
    mine_input = [(a, b) for a, b in mine["input"]]
    covered = bytearray(len(text))
    for a, b in mine_input:
        covered[a:b] = b"\1" * (b - a)
    problems = []
    for m in re.finditer(rb"Hm, Paris|Look at |What is the capital of France\?|nothing found|Be brief|Let me see", text):
        if not all(covered[m.start():m.end()]):
            problems.append(f"{m.group().decode()!r} is not known to be the caller's")
    if "<|" not in json.dumps(request, ensure_ascii=False):
        for m in re.finditer(rb"<\|[a-z_]+\|>", text):
            if any(covered[m.start():m.end()]):
                problems.append(f"{m.group().decode()!r} is taken for the caller's")
    return problems


def find_templates(folder):
    if folder:
        return sorted(glob.glob(os.path.join(folder, "**", "*.jinja"), recursive=True))
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "sala", "parity")
    os.makedirs(cache, exist_ok=True)
    found = glob.glob(os.path.join(cache, "llama_cpp_python-*.tar.gz"))
    if not found:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "-d", cache,
                        "llama-cpp-python"], check=True, timeout=600)
        found = glob.glob(os.path.join(cache, "llama_cpp_python-*.tar.gz"))
    with tarfile.open(found[-1]) as tar:
        wanted = [m for m in tar.getmembers() if m.isfile() and "/models/templates/" in m.name and m.name.endswith(".jinja")]
        for m in wanted:
            m.name = "templates/" + os.path.basename(m.name)
            tar.extract(m, cache)
    return sorted(glob.glob(os.path.join(cache, "templates", "*.jinja")))


def report(name, template, mine, theirs):
    print(f"--- {name}")
    if template is not None:
        print("    template:", json.dumps(template, ensure_ascii=False))
    print("    sala:  ", json.dumps(mine.get("text", mine.get("error")), ensure_ascii=False)[:1500])
    print("    jinja2:", json.dumps(theirs.get("text", theirs.get("error")), ensure_ascii=False)[:1500])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lib", help="archive of all modules, e.g. build/release/libsala_parts.a")
    p.add_argument("--driver", help="a driver that is already built")
    p.add_argument("--templates", help="folder with *.jinja")
    p.add_argument("--fuzz", type=int, default=4000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--show", type=int, default=10, help="differences to print")
    args = p.parse_args()
    os.environ["TZ"] = "UTC"
    oracle = Oracle()
    bad = 0

    def difference(*what):
        nonlocal bad
        bad += 1
        if bad <= args.show:
            report(*what)

    with tempfile.TemporaryDirectory() as folder:
        driver = args.driver or build_driver(args.lib or os.path.join(ROOT, "build", "release", "libsala_parts.a"), folder)
        templates = find_templates(args.templates)
        cases = requests()
        rendered = errors = 0
        for path in templates:
            with open(path, encoding="utf-8", newline="") as f:
                template = f.read()
            name = os.path.basename(path)
            outs = run_driver(driver, [{"template": template, "request": r, "bos": "<s>", "eos": "</s>"} for _, r in cases])
            before = bad
            for (case, request), mine in zip(cases, outs):
                theirs = oracle.chat(template, request, "<s>", "</s>")
                errors += "error" in theirs
                rendered += "text" in theirs
                if not same(mine, theirs):
                    difference(f"{name}: {case}", None, mine, theirs)
                elif "text" in mine:
                    for problem in check_origin(request, mine):
                        bad += 1
                        if bad <= args.show:
                            print(f"--- {name}: {case}: {problem}")
            if bad > before:
                print(f"{name}: {bad - before} of {len(cases)} differ")
        print(f"{len(templates)} templates x {len(cases)} requests: {rendered} texts and {errors} errors, {bad} differences")

        g = Generator(args.seed)
        generated = [g.template() for _ in range(args.fuzz)]
        outs = run_driver(driver, [{"template": t, "vars": VARIABLES, "now": NOW} for t in generated])
        texts = left_out = 0
        before = bad
        for template, mine in zip(generated, outs):
            theirs = oracle.plain(template, VARIABLES)
            if same(mine, theirs):
                texts += "text" in theirs
            elif excused(mine, theirs, template):
                left_out += 1
            else:
                difference("generated", template, mine, theirs)
        print(f"{args.fuzz} generated templates (seed {args.seed}): {texts} equal texts, {bad - before} differences, "
              f"{left_out} excused")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
