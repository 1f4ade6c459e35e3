"""What is put into the sandbox to run one trace's code against its tests."""

from __future__ import annotations

import json
import marshal
import math
import re
import secrets
import shutil
import struct
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from filters._code.test_formats import Tests
from filters._sandbox import sandbox


class Language(NamedTuple):
    """How code in a language is run: its tags on code blocks, file name, command and compiler."""

    tags: tuple[str, ...]
    file: str
    command: list[str]
    compile: tuple[str, ...] = ()


# Like a script, with the `exit` that comes with `site`, and with no name that is not its own.
_START = """import builtins as b, sys as s
b.exit = b.quit = s.exit
c = compile(open("main.py", "rb").read(), "main.py", "exec")
del b, s
exec(globals().pop("c"))"""
_PYTHON = [sandbox.PYTHON, "-s", "-P", "-S", "-B"]
_COMPILE = ["-O1", "-w", "-o", "main"]
LANGUAGES = {
    "python": Language(("python", "py", "python3"), "main.py", [*_PYTHON, "-c", _START]),
    "cpp": Language(
        ("cpp", "c++", "cc", "cxx", "c++17", "cpp17", "c++20"),
        "main.cpp", ["./main"], ("g++", "-std=c++20", *_COMPILE, "main.cpp"),
    ),
    "c": Language(("c",), "main.c", ["./main"], ("gcc", *_COMPILE, "main.c", "-lm")),
    "javascript": Language(("javascript", "js", "node"), "main.js", ["node", "main.js"]),
    "bash": Language(("bash", "sh", "shell"), "main.sh", ["bash", "main.sh"]),
}  # fmt: skip

# The modules that run in the sandbox, each after those that it imports.
_INSIDE = ("wire", "process", "server", "remote", "tester", "driver")
_BOOT = """import marshal, sys, types
def package(name): return sys.modules.setdefault(name, types.ModuleType(name))
package("filters"); package("filters._code"); inside = package("filters._code.inside")
with open("/tmp/inside", "rb") as file: parts = marshal.load(file)
for name, code in parts:
    module = package("filters._code.inside." + name)
    setattr(inside, name, module)
    exec(code, module.__dict__)
module.main()"""
# By the clock a case may take so many times its processor time, on a machine that does much else.
_WALL = 4
# Seconds by the clock for all but the cases, a compiler among it.
_BESIDE = 60


class Job(NamedTuple):
    """One run of the sandbox: what runs there, the files that lie there and what it reads."""

    argv: list[str]
    files: dict[str, bytes]
    stdin: bytes
    output: int  # bytes that its reports may have
    wall: float  # seconds by the clock in which it ends where nothing hinders it
    token: str  # what the report on assertions has to hold


def language_named(name: str) -> str | None:
    """Return the language that a tag or a data set's field means."""
    name = name.strip().lower()
    return next((key for key, lang in LANGUAGES.items() if name in (key, *lang.tags)), None)


def lacks(language: str) -> str | None:
    """Return the program that a language needs and a sandbox does not see."""
    needed = (LANGUAGES[language].compile or LANGUAGES[language].command)[0]
    is_there = needed == sandbox.PYTHON or shutil.which(needed, path="/usr/bin:/bin")
    return None if is_there else needed


def make(tests: Tests, code: str, language: str, timeout: float) -> Job:
    """Return the job that runs code against tests."""
    wall = _WALL * timeout + 1
    job: dict[str, Any] = {"kind": tests.kind, "cpu": math.ceil(timeout), "wall": wall}
    files = {"inside": _inside()}
    token = secrets.token_hex(16)
    parts, output = [job], 1 << 20
    if tests.kind == "stdin":
        _, file, command, compiler = LANGUAGES[language]
        files[file] = code.encode("utf-8", "replace")
        # What is longer than this is wrong whatever it says.
        cases = [(text, 4 * len(expected) + (1 << 16)) for text, expected in tests.cases]
        job.update(cases=cases, command=command, compile=compiler, big_stack=bool(compiler))
        output += sum(6 * max_output + (1 << 14) for _, max_output in cases)
    elif tests.kind == "calls":
        job.update(cases=[arguments for arguments, _ in tests.cases], function=tests.function)
        job["programs"] = [code]
        output += (4 << 20) * len(tests.cases)
    else:
        job.update(programs=_readings(code, tests), wanted=tests.function)
        helpers = _stub(tests.prompt) if tests.prompt else None
        parts.append({"pieces": tests.pieces, "helpers": helpers, "token": token})
    raw_parts = (json.dumps(part).encode() for part in parts)
    stdin = b"".join(struct.pack("<Q", len(raw)) + raw for raw in raw_parts)
    whole = _BESIDE + wall * max(1, len(tests.cases))
    return Job([*_PYTHON, "-c", _BOOT], files, stdin, output, whole, token)


def _stub(prompt: str) -> str:
    """Return a prompt that ends where a function's body begins, as code that compiles."""
    return f"{prompt}\n    pass\n"


def _readings(code: str, tests: Tests) -> list[str]:
    """Return the programs that an answer may mean: itself, or the rest of the prompt."""
    if not tests.prompt or not tests.function:
        return [code]
    name = re.escape(tests.function)
    if re.search(rf"^(?:async +def|def|class) +{name}\b|^{name} *[:=]", code, re.M):
        return [f"{_stub(tests.prompt)}\n{code}", code]
    indented = textwrap.indent(code, "    ")
    first = f"    {code.lstrip()}"
    return [f"{tests.prompt}\n{body}" for body in (code, first, indented)]


@cache
def _inside() -> bytes:
    """Return the modules that run in the sandbox, compiled: it is the same interpreter."""
    here = Path(__file__).parent / "inside"
    sources = [(name, (here / f"{name}.py").read_bytes()) for name in _INSIDE]
    return marshal.dumps([(name, compile(text, f"{name}.py", "exec")) for name, text in sources])
