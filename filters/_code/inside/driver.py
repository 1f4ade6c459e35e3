"""Inside the sandbox: reads a job, runs the code under test in processes of its own, reports.

The job comes on stdin in two parts, each with its length before it. The code under test is started
before the second part, the tests, is read: whatever it does, they are not in its memory. Nor can it
write to the report, which goes to a file that it does not have.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time

from filters._code.inside import process, remote, server, tester
from filters._code.inside.wire import Channel, Gone, Unreadable, decode, encode

TYPE_CHECKING = False  # `typing` takes longer to load than most code to run
if TYPE_CHECKING:
    from typing import Any


# Where the report goes.
_report = 1
# Seconds of processor time that a compiler may use.
_COMPILE_S = 30


def main() -> None:
    """Do what stdin says."""
    global _report
    # What tests print goes nowhere.
    _report = os.dup(1)
    os.set_inheritable(_report, False)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    job = _part()
    {"asserts": _asserts, "calls": _calls, "stdin": _stdin}[job["kind"]](job)


def _part() -> Any:
    (length,) = struct.unpack("<Q", os.read(0, 8))
    content = bytearray()
    while len(content) < length:
        content += os.read(0, length - len(content))
    return json.loads(content)


def _say(report: dict[str, Any]) -> None:
    view = memoryview(json.dumps(report).encode() + b"\n")
    while view:
        view = view[os.write(_report, view) :]


def _asserts(job: dict[str, Any]) -> None:
    """Tests as Python code: one process holds the code under test, this one runs the tests."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()

    def serve() -> None:
        server.Server(Channel(3, 4), job["programs"], job["wanted"]).serve()

    child = process.fork(serve, {3: their_in, 4: their_out}, job["cpu"])
    os.close(their_in)
    os.close(their_out)
    tests = _part()
    client = remote.Client(Channel(our_in, our_out, time.monotonic() + job["wall"]))
    try:
        running = tester.Tester(client, tests["helpers"], job["wanted"])
        report = tester.report(running, client, tests["pieces"])
    except TimeoutError:
        report = child.end()
    except Gone:
        report = child.end(kill=False)
    _say({**report, "token": tests["token"]})


def _calls(job: dict[str, Any]) -> None:
    """Calls of one function: each in a fresh process, whose result the host compares."""
    for number, arguments in enumerate(job["cases"]):
        reading, writing = os.pipe()

        def call(arguments: list[Any] = arguments) -> None:
            channel = Channel(-1, 3)
            try:
                names = server.load(job["programs"], None)
                function = server.find_function(names, job["function"])
                value = function(*arguments)
                # A result is compared as the JSON of its values.
                value = list(value) if hasattr(value, "__next__") else value
                channel.send({"value": encode(value, _no_form)})
            except BaseException as error:
                channel.send({"raised": type(error).__name__, "text": str(error)[:300]})

        child = process.fork(call, {3: writing}, job["cpu"])
        os.close(writing)
        report: dict[str, Any]
        try:
            report = _returned(Channel(reading, -1, time.monotonic() + job["wall"]).receive())
            child.end()
        except TimeoutError:
            report = child.end()
        except Gone:
            report = child.end(kill=False)
        except Unreadable as error:
            child.end()
            report = {"ended": "returned", "raised": "Unreadable", "text": str(error)}
        os.close(reading)
        process.kill_all()
        _say({**report, "case": number})


def _returned(message: Any) -> dict[str, Any]:
    """Return what a call sent, checked and sent anew: any process can write to a pipe."""
    if not isinstance(message, dict):
        raise Unreadable("no message")
    if "raised" in message:
        return {"ended": "returned", **{k: str(message.get(k))[:300] for k in ("raised", "text")}}
    value = decode(message.get("value"), _unknown_form)
    return {"ended": "returned", "value": encode(value, _no_form)}


def _unknown_form(name: str, content: Any) -> Any:
    raise Unreadable(name)


def _no_form(value: Any) -> Any:
    raise TypeError(f"the result is of the kind {type(value).__name__}")


def _stdin(job: dict[str, Any]) -> None:
    """Whole programs that read and write: each case in a fresh process."""
    if job["compile"]:
        limits = {"cpu": _COMPILE_S, "wall": 4 * _COMPILE_S}
        report = _spawn(job["compile"], "", {**job, **limits}, 1 << 16)
        if report["ended"] != "exit" or report["code"]:
            _say({**report, "case": "compile"})
            return
    for number, (stdin_text, max_output) in enumerate(job["cases"]):
        _say({**_spawn(job["command"], stdin_text, job, max_output), "case": number})


def _spawn(
    command: list[str], stdin_text: str, job: dict[str, Any], max_output: int
) -> dict[str, Any]:
    # A file, and by this name: programs open /dev/stdin, too.
    with contextlib.suppress(FileNotFoundError):
        os.unlink("/tmp/stdin")
    with open("/tmp/stdin", "wb") as file:
        file.write(stdin_text.encode("utf-8", "replace"))
    with open("/tmp/stdin", "rb") as stdin:
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()

        def execute() -> None:
            if job["big_stack"]:
                process.raise_stack()
            os.execvp(command[0], command)

        inherited = {0: stdin.fileno(), 1: their_out, 2: their_err}
        child = process.fork(execute, inherited, job["cpu"])
    os.close(their_out)
    os.close(their_err)
    return process.capture(child, out, err, max_output, time.monotonic() + job["wall"])
