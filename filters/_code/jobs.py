"""What is put into the sandbox to run one trace's code against its tests."""

from __future__ import annotations

import json
import marshal
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
    """How code in a language is run.

    Attributes:
        tags: Its names on code blocks.
        file: The name that the code is given.
        command: What runs it.
        compile: What makes it ready to run.
    """

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
    """One run of the sandbox.

    Attributes:
        argv: What runs there.
        files: What lies there.
        stdin: What it reads.
        output: Bytes that its reports may have.
        wall: Seconds by the clock in which it ends where nothing hinders it.
        token: What the report on assertions has to hold.
    """

    argv: list[str]
    files: dict[str, bytes]
    stdin: bytes
    output: int
    wall: float
    token: str


def language_named(name: str) -> str | None:
    """The language that a tag or a data set's field means."""
    name = name.strip().lower()
    fitting = (key for key, one in LANGUAGES.items() if name == key or name in one.tags)
    return next(fitting, None)


def lacks(language: str) -> str | None:
    """The program that a language needs and a sandbox does not see."""
    one = LANGUAGES[language]
    needed = (one.compile or one.command)[0]
    return (
        None if shutil.which(needed, path="/usr/bin:/bin") or needed == sandbox.PYTHON else needed
    )


def make(tests: Tests, code: str, language: str, timeout: float) -> Job:
    """The job that runs code against tests."""
    wall = _WALL * timeout + 1
    job: dict[str, Any] = {"kind": tests.kind, "timeout": timeout, "wall": wall}
    files = {"inside": _inside()}
    token = secrets.token_hex(16)
    parts, output = [job], 1 << 20
    if tests.kind == "stdin":
        one = LANGUAGES[language]
        files[one.file] = code.encode("utf-8", "replace")
        # What is longer than this is wrong whatever it says.
        cases = [(given, 4 * len(expected) + (1 << 16)) for given, expected in tests.cases]
        job.update(cases=cases, command=one.command, compile=one.compile)
        job["big_stack"] = bool(one.compile)
        output += sum(6 * most + (1 << 14) for _, most in cases)
    elif tests.kind == "calls":
        job.update(cases=[arguments for arguments, _ in tests.cases], function=tests.function)
        job["programs"] = [code]
        output += (4 << 20) * len(tests.cases)
    else:
        job.update(programs=_readings(code, tests), wanted=tests.function)
        helpers = _stub(tests.prompt) if tests.prompt else None
        parts.append({"pieces": tests.pieces, "helpers": helpers, "token": token})
    stdin = b"".join(struct.pack("<Q", len(p)) + p for p in map(_json, parts))
    whole = _BESIDE + wall * max(1, len(tests.cases))
    return Job([*_PYTHON, "-c", _BOOT], files, stdin, output, whole, token)


def _json(part: dict[str, Any]) -> bytes:
    return json.dumps(part).encode()


def _stub(prompt: str) -> str:
    """A prompt that ends where a function's body begins, as code that compiles."""
    return f"{prompt}\n    pass\n"


def _readings(code: str, tests: Tests) -> list[str]:
    """The programs that an answer may mean: itself, or the rest of the prompt."""
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
    """The modules that run in the sandbox, compiled: it is the same interpreter."""
    here = Path(__file__).parent / "inside"
    sources = [(name, (here / f"{name}.py").read_bytes()) for name in _INSIDE]
    return marshal.dumps([(name, compile(text, f"{name}.py", "exec")) for name, text in sources])
