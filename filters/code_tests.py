"""Keeps traces whose code passes the question's tests, run in a sandbox."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from filters._code import blocks, jobs
from filters._code.compare import same_text, same_value
from filters._code.test_formats import Either, Tests, find
from filters._sandbox import sandbox
from filters.base import NO_SANDBOX, Context, Decision, FilterConfig, Need, cannot_tell
from synth.core.record import Record

_SHOWN = 200
_ERROR = re.compile(r"[A-Za-z_.]{0,80}(?:Error|Exception|Interrupt|Exit)\b")


class Config(FilterConfig):
    """Options of `code_tests`."""

    needs: ClassVar[tuple[Need, ...]] = ("sandbox",)
    verifies = True

    language: Literal["auto", "python", "cpp", "c", "javascript", "bash"] = Field(
        "auto", description="Of the code; auto: what the metadata or the code block says, or Python"
    )
    block: blocks.Which = Field("last", description="Which code block of the answer counts")
    tests: str | None = Field(
        None, description="The metadata field that holds the tests; found by itself if not said"
    )
    timeout: float = Field(
        5, gt=0, le=600, description="Seconds of processor time for one test case"
    )
    total_timeout: float = Field(
        120, gt=0, le=3600, description="Seconds by the clock for all cases of a trace"
    )
    memory_mb: int = Field(512, ge=64, le=65536, description="Memory of all its processes, in MiB")
    float_tolerance: float = Field(
        1e-6, ge=0, lt=1, description="Relative or absolute error allowed in a decimal number"
    )
    allow_without: list[Literal["seccomp", "rlimits", "memory"]] = Field(
        default_factory=list,
        description="Layers of the sandbox that may be missing on this machine",
    )

    def limit(self) -> float:
        """Seconds that one record may take: all cases, and those that failed once more."""
        return 2 * self.total_timeout + 60


def warn(config: Config) -> list[str]:
    """What it cannot judge on this machine: code, where there is no sandbox to run it in."""
    why = sandbox.lacking(config.allow_without)
    return [f"the filter code_tests cannot tell of any code here: {why}"] if why else []


class Outcome(NamedTuple):
    """What running the tests came to; `case` is the number of the one that failed."""

    keep: bool | None
    kind: str = ""
    detail: str = ""
    failed: dict[str, Any] | None = None
    case: int | None = None


class CodeTests:
    """Passed is kept, failed is not, and where the tests say nothing it cannot tell.

    The code is the last block of the answer in the language, or the whole answer where it has no
    block. A case that fails is run once more; if it ends otherwise then, it is `flaky`.
    """

    def __init__(self, config: Config, context: Context) -> None:
        self._config = config

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        try:
            return self._verdict(record)
        except RecursionError:
            return cannot_tell("tests or results are nested too deeply")

    def _verdict(self, record: Record) -> Decision:
        try:
            tests = find(record.task.metadata, record.task.question, self._config.tests)
        except ValueError as error:
            return cannot_tell(f"tests not understood: {error}")
        if tests is None:
            return cannot_tell("no tests")
        code_blocks = blocks.blocks(record.answer)
        language = _language(self._config.language, record, code_blocks, tests)
        if language not in jobs.LANGUAGES:
            return cannot_tell(f"language not known: {_clip(language)}")
        code = blocks.choose(code_blocks, jobs.LANGUAGES[language].tags, self._config.block)
        code = record.answer if code is None and not code_blocks else code
        if code is None or not code.strip():
            return Decision(False, "no code found")
        if tests.kind != "stdin" and language != "python":
            return cannot_tell(f"tests in Python for code in {language}")
        if lacking := jobs.lacks(language):
            return cannot_tell(f"no {lacking} here")
        if why := sandbox.lacking(self._config.allow_without):
            return Decision(None, NO_SANDBOX, evidence={"sandbox": why})
        return self._judged(tests, code, language)

    def _judged(self, tests: Tests, code: str, language: str) -> Decision:
        evidence: dict[str, Any] = {"cases": len(tests.cases) or len(tests.pieces)}
        try:
            outcome, evidence["sandbox"] = self._run(tests, code, language)
            if outcome.keep is False:
                if outcome.case is not None:
                    tests = Tests(tests.kind, [tests.cases[outcome.case]], tests.function)
                again, _ = self._run(tests, code, language)
                if (again.keep, again.kind) != (outcome.keep, outcome.kind):
                    ends = again.kind or "passed"
                    outcome = Outcome(None, "flaky", f"{outcome.kind}, then {ends}", outcome.failed)
        except sandbox.SandboxFailed as error:
            return cannot_tell(f"the sandbox failed: {_clip(str(error))}")
        if outcome.failed is not None:
            evidence["failed"] = outcome.failed
        detail = " ".join(_clip(outcome.detail).split())
        reason = f"{outcome.kind}: {detail}" if detail else outcome.kind
        if outcome.keep is None:
            return cannot_tell(reason, evidence)
        return Decision(outcome.keep, reason, float(outcome.keep), None, evidence)

    def _run(self, tests: Tests, code: str, language: str) -> tuple[Outcome, str]:
        """Runs the tests in one sandbox; what came of it, and the sandbox's tier."""
        config = self._config
        job = jobs.make(tests, code, language, config.timeout)
        limits = sandbox.Limits(
            wall=min(config.total_timeout, job.wall),
            memory=config.memory_mb << 20,
            disk=(64 << 20) + 2 * len(job.stdin),
            output=job.output,
        )
        result = sandbox.run(job.argv, job.files, job.stdin, limits, config.allow_without)
        reports = [json.loads(line) for line in result.stdout.split(b"\n")[:-1]]
        asserts = tests.kind == "asserts"
        outcome = _of_asserts(reports, job.token) if asserts else self._of_cases(reports, tests)
        return outcome or self._unfinished(result, len(reports)), result.tier

    def _unfinished(self, result: sandbox.Result, number: int) -> Outcome:
        """The outcome where the reports end before their time."""
        if result.ended == "memory":
            return Outcome(False, "out of memory", f"over {self._config.memory_mb} MiB")
        if result.ended == "time":
            return Outcome(None, "not done in time", f"{result.wall:.0f} s for all cases")
        error = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Outcome(None, f"the test runner ended ({result.ended} {result.code})", error)

    def _of_cases(self, reports: list[dict[str, Any]], tests: Tests) -> Outcome | None:
        for report in reports:
            if report["case"] == "compile":
                return _not_compiled(report)
            number = int(report["case"])
            given, expected = tests.cases[number]
            outcome = self._of_case(report, expected, tests.kind)
            if outcome is not None:
                shown = expected[1] if isinstance(expected, Either) else expected
                failed = {"case": number, "input": _clip(given), "expected": _clip(shown)}
                failed |= {"got": outcome.failed["got"]} if outcome.failed else {}
                return outcome._replace(failed=failed, case=number)
        return Outcome(True) if len(reports) == len(tests.cases) else None

    def _of_case(self, report: dict[str, Any], expected: Any, kind: str) -> Outcome | None:
        """What is wrong with one case, None if nothing is."""
        tolerance = self._config.float_tolerance
        if report["ended"] == "returned":
            if "raised" in report:
                return _raised([report["raised"]], f"{report['raised']}: {report['text']}")
            what, got = "result", report["value"]
            same = same_value(got, expected, tolerance)
        elif kind == "calls" or report["ended"] != "exit" or report["code"]:
            return _ended(report)
        else:
            what, got = "output", report["out"]
            same = same_text(got, expected, tolerance)
        if same:
            return None
        return Outcome(False, f"wrong {what}", f"case {report['case']}", {"got": _clip(got)})


def _of_asserts(reports: list[dict[str, Any]], token: str) -> Outcome | None:
    # The report of the process that ran the tests; none has the token but that one.
    report = next((report for report in reports if report.get("token") == token), None)
    if report is None:
        return None
    if report["ended"] == "passed":
        return Outcome(True)
    failed: dict[str, Any] = {
        key: _clip(report[key]) for key in ("place", "got", "expected", "error") if key in report
    }
    if report["ended"] == "wrong":
        return Outcome(False, "failed assertion", report["place"], failed)
    if report["ended"] == "raised":
        return _raised(report.get("kinds", []), report["error"])._replace(failed=failed)
    if report["ended"] == "cannot tell":
        return Outcome(None, report["error"])
    return _ended(report)


def _raised(kinds: list[str], text: str) -> Outcome:
    if "SyntaxError" in kinds:
        return Outcome(False, "does not compile", text)
    if "ModuleNotFoundError" in kinds:
        return Outcome(None, "a module is not in the sandbox", text)
    if "MemoryError" in kinds:
        return Outcome(False, "out of memory", text)
    return Outcome(False, "raised an error", text, {"got": _clip(text)})


def _ended(report: dict[str, Any]) -> Outcome:
    """The outcome where a process of the code did not come to its end well."""
    err = str(report.get("err", ""))
    error = _error_line(err)
    if report["ended"] == "cpu":
        return Outcome(False, "timed out", f"{report['cpu']} s of processor time")
    if report["ended"] == "wall":
        return Outcome(None, "no end in time", f"{report['cpu']} s of processor time used")
    if report["ended"] == "output":
        return Outcome(False, "too much output")
    if "std::bad_alloc" in err or "heap out of memory" in err:
        return Outcome(False, "out of memory", error)
    if report["ended"] == "signal":
        return Outcome(False, "crashed", f"signal {report['code']}")
    if kind := error.partition(":")[0].strip():
        return _raised([kind], error)
    return Outcome(False, "exited", f"status {report['code']}")


def _error_line(err: str) -> str:
    """The line of stderr that names the error: the last that begins with its kind, or the last."""
    lines = err.strip().splitlines()
    last = lines[-1] if lines else ""
    return next((line for line in reversed(lines) if _ERROR.match(line)), last)


def _not_compiled(report: dict[str, Any]) -> Outcome:
    if report["ended"] in ("wall", "cpu"):
        return Outcome(None, "the compiler did not end in time")
    lines = str(report["err"]).splitlines()
    error = next((line for line in lines if "error" in line), "")
    return Outcome(False, "does not compile", error)


def _language(wanted: str, record: Record, code_blocks: list[tuple[str, str]], tests: Tests) -> str:
    """The language of a record's code."""
    if wanted != "auto":
        return wanted
    named = record.task.metadata.get("language")
    if isinstance(named, str) and named.strip():
        return jobs.language_named(named) or named
    if tests.kind == "stdin":
        for tag, _ in reversed(code_blocks):
            if known := jobs.language_named(tag):
                return known
    return "python"


def _clip(value: Any) -> str:
    """A value as short text."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    text = text[: 2 * _SHOWN].encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


build = CodeTests
