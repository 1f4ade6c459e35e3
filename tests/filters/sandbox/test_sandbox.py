"""How runs in the sandbox end, what it says of itself, and that it refuses what it cannot hold."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from filters._sandbox import sandbox, seccomp
from filters._sandbox.run import run_under
from filters._sandbox.sandbox import PYTHON, Limits, SandboxFailed
from tests.helpers.sandbox import escapes
from tests.helpers.sandbox.sandboxed import needs_sandbox

ROOT = Path(__file__).resolve().parents[3]


def python(source, stdin=b"", files=None, **limits):
    argv = [PYTHON, "-I", "-S", "-B", "-c", source]
    return sandbox.run(argv, files, stdin, Limits(**limits))


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize(
    ("source", "ended", "code"),
    [
        ("print('out')", "ok", 0),
        ("raise SystemExit(3)", "exit", 3),
        ("import os; os.kill(os.getpid(), 11)", "signal", 11),
        ("import time; time.sleep(60)", "time", None),
        ("while True: print('x' * 9999)", "output", None),
        ("import os; open('x', 'w').truncate(1 << 40)", "exit", 1),
        (
            "import os, signal; signal.signal(25, signal.SIG_DFL); os.truncate(os.open('x', 66), 1 << 40)",
            "disk",
            25,
        ),
    ],
)
def test_how_a_run_ends(source, ended, code):
    result = python(source, wall=1.5 if ended == "time" else 60)
    assert (result.ended, result.code) == (ended, code)
    assert result.tier == "+".join(sandbox.require())


@needs_sandbox
def test_input_files_and_output_go_through():
    source = "import sys; print(open('a').read() + sys.stdin.read()); print('e', file=sys.stderr)"
    result = python(source, "ü".encode() * 100_000, {"a": b"file "})
    assert result.stdout.decode() == "file " + "ü" * 100_000 + "\n"
    assert result.stderr == b"e\n"


@needs_sandbox
def test_output_is_cut_while_it_streams():
    result = python("while True: print('x' * 99999)", output=5000, wall=5)
    assert result.ended == "output"
    assert len(result.stdout) == 5000
    assert result.wall < 3


@needs_sandbox
def test_both_streams_share_the_limit():
    result = python(
        "import os\nwhile True: os.write(1, b'x'); os.write(2, b'y')", output=5000, wall=60
    )
    assert result.ended == "output"
    assert len(result.stdout) + len(result.stderr) <= 5000


@needs_sandbox
def test_the_processor_time_of_a_process_is_limited():
    result = python("while True: pass", cpu=1, wall=30)
    assert result.ended == "time"
    assert result.wall < 20


@needs_sandbox
def test_memory_of_all_processes_together_is_limited():
    source = """
import os, time
for n in range(8):
    if not os.fork():
        held = bytearray(b"x" * (40 << 20)); time.sleep(120)
time.sleep(120)"""
    assert python(source, memory=128 << 20, wall=100).ended == "memory"


@needs_sandbox
def test_pages_that_a_fork_shares_count_once():
    source = """
import os, time
held = bytearray(b"x" * (60 << 20))
for n in range(8):
    if not os.fork(): time.sleep(0.5); os._exit(0)
time.sleep(0.6)"""
    assert python(source, memory=128 << 20, wall=100).ended == "ok"


@needs_sandbox
def test_runs_side_by_side_do_not_share_their_allowance():
    """Each may have all its processes: they are counted for each sandbox alone."""
    source = """
import os, time
for n in range(20):
    if not os.fork(): time.sleep(1); os._exit(0)
print("all")
time.sleep(1)"""
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(python(source, processes=32, wall=60)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.stdout for result in results] == [b"all\n"] * 4


@needs_sandbox
def test_nothing_is_left_from_one_run_to_the_next():
    python("open('/tmp/kept', 'w').write('x')")
    assert python("import os; print(os.listdir('/tmp'))").stdout == b"[]\n"


@needs_sandbox
def test_the_order_of_a_set_is_the_same_each_time():
    argv = [PYTHON, "-s", "-S", "-c", "print({'a', 'b', 'c', 'd', 'e', 'f'})"]
    assert len({sandbox.run(argv).stdout for _ in range(4)}) == 1


@needs_sandbox
def test_a_program_that_is_not_there():
    assert sandbox.run(["no-such-program"]).ended == "exit"


@needs_sandbox
def test_every_layer_holds_here():
    assert sandbox.require() == ("bwrap", "seccomp", "rlimits", "memory")


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize(
    "name",
    [
        "take memory that is not mapped, without seccomp",
        "watch files, without seccomp",
        "open many files, without rlimits",
        "fill the disk with empty files, without memory",
    ],
)
def test_an_attempt_succeeds_where_its_layer_is_missing(name):
    """The programs that try to get out do what they say: without the layer they are noticed."""
    host = escapes.Host()
    with host.stack:
        assert host.attempt(name)


@needs_sandbox
def test_a_killed_caller_takes_its_sandbox_with_it(tmp_path):
    mark = f"mark-{os.getpid()}-{time.time_ns()}"
    source = f"import time; time.sleep(300)  # {mark}"
    code = f"from filters._sandbox import sandbox; sandbox.run([sandbox.PYTHON, '-c', {source!r}], limits=sandbox.Limits(wall=300))"
    before = set(os.listdir("/tmp"))
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        # Three of them: bubblewrap, its first process, and the program. Before that there is a
        # moment in which a kill leaves bubblewrap waiting for itself, with no program in it.
        wait_for(lambda: len(marked(mark) - {caller.pid}) >= 3 and running(mark), caller)
    finally:
        caller.kill()
        caller.wait()
    wait_for(lambda: not marked(mark))
    assert not {n for n in set(os.listdir("/tmp")) - before if "sandbox" in n or "bwrap" in n}


def marked(mark):
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def running(mark):
    """Whether the program itself has begun, and not one that becomes it."""
    for pid in marked(mark):
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argv[0] == PYTHON.encode() and argv[1] == b"-c" and mark.encode() in argv[2]:
            return b"from filters" not in argv[2]
    return False


def wait_for(condition, process=None):
    """Waits for an event; not if a process that has to live until then has ended."""
    for _ in range(4000):
        if condition():
            return
        assert process is None or process.poll() is None, "it ended by itself"
        time.sleep(0.05)
    raise AssertionError("waited for 200 s")


@needs_sandbox
@pytest.mark.parametrize("after", [0.0, 0.001, 0.003, 0.006, 0.01, 0.02])
def test_a_limit_met_during_the_start_leaves_nothing(after):
    mark = f"mark-{os.getpid()}-{time.time_ns()}"
    assert python(f"import time; time.sleep(300)  # {mark}", wall=after).ended == "time"
    assert not marked(mark)


@needs_sandbox
def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/false")
    with pytest.raises(SandboxFailed):
        run_under([PYTHON, "-c", "pass"], {}, b"", Limits(), sandbox.require())


def probe_without(*lines):
    """What `require` says in a process that these lines have changed."""
    code = "\n".join(
        [
            "import os, shutil",
            "from filters._sandbox import sandbox, seccomp",
            *lines,
            "from synth.core.errors import UserError",
            "try: print('+'.join(sandbox.require()))",
            "except UserError as error: print('refused', error)",
            "try: print('+'.join(sandbox.require(['seccomp', 'rlimits', 'memory', 'bwrap'])))",
            "except UserError as error: print('refused', error)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_without_bubblewrap_nothing_runs():
    said = probe_without("os.environ['PATH'] = '/nonexistent'")
    assert len(said) == 2
    for line in said:
        assert line.startswith("refused no sandbox to run untrusted code in (bwrap: ")


@needs_sandbox
def test_a_missing_layer_is_refused_unless_it_is_named():
    refused, run = probe_without("seccomp.program = lambda: None")
    assert refused.startswith("refused")
    assert "seccomp: " in refused
    assert run == "bwrap+rlimits+memory"


@needs_sandbox
def test_a_layer_that_does_not_work_is_found_out():
    """A filter that allows everything installs well; the probe tries what it is there for."""
    allow = b"\\x06\\x00\\x00\\x00\\x00\\x00\\xff\\x7f".decode()
    refused, _ = probe_without(f"seccomp.program = lambda: b'{allow}'")
    assert "seccomp: socket is not refused" in refused


def test_the_filter_is_whole():
    program = seccomp.program()
    if program is None:
        pytest.skip("not for this kind of machine")
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096  # BPF_MAXINSNS


def test_numbers_of_system_calls_are_those_of_the_kernel():
    """Against the headers of the C library, where they are installed."""
    headers = list(Path("/usr/include").glob("*/asm/unistd_64.h"))
    if os.uname().machine != "x86_64" or not headers:
        pytest.skip("no headers for this kind of machine")
    words = [line.split() for line in headers[0].read_text().splitlines()]
    known = {w[1].removeprefix("__NR_"): int(w[2]) for w in words if len(w) == 3 and w[2].isdigit()}
    for name, (number, _) in seccomp.DENIED.items():
        if name in known:
            assert known[name] == number, name


def test_signals_have_the_numbers_that_the_limits_use():
    assert (signal.SIGXCPU, signal.SIGXFSZ) == (24, 25)
