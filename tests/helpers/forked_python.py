"""Python processes that are forked from one which has torch and other big packages loaded.

What a process of the command line does in a test takes less time than its imports. These here have
the packages from the start, and nothing of the project. All else is as with `subprocess`: a process
of its own, with its own output, which can be killed. Where a test needs other environment variables
or measures memory or imports, it takes `subprocess` itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import socket
import subprocess
import sys
import threading
import traceback

# In the order of a training's imports. What is not installed is passed over.
PACKAGES = [
    "aiohttp", "openai", "scipy.stats", "sympy", "math_verify", "jsonschema", "rich.console", "typer",
    "torch", "transformers", "transformers.models.llama.modeling_llama", "datasets", "accelerate",
    "peft", "trl.trainer.sft_trainer", "gguf",
]  # fmt: skip
_server: "tuple[socket.socket, subprocess.Popen[bytes]] | None" = None


class Popen(subprocess.Popen):
    """A `subprocess.Popen` of `python *arguments`, forked from the server; `cwd` and pipes hold."""

    def __init__(self, arguments, **how):
        self._status = -1
        super().__init__(list(map(str, arguments)), **how)

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
    ):  # fmt: skip
        assert env is None, "the packages are loaded already; take subprocess"
        self._status, status_write = os.pipe()
        stdout = 1 if c2pwrite == -1 else c2pwrite
        streams = [stdout, 2 if errwrite == -1 else errwrite, status_write]
        request = {"arguments": args, "cwd": str(cwd or os.getcwd()), "environment": {**os.environ}}
        connection = _connection()
        socket.send_fds(connection, [json.dumps(request).encode()], streams)
        self.pid = int(connection.recv(64))
        self._child_created = True
        os.close(status_write)
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, *_, **__):
        self._read_status(0)
        return self.returncode

    def _wait(self, timeout):
        if not self._read_status(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _read_status(self, timeout):
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            status = os.read(self._status, 64)
            assert status, "the server of processes has ended"
            os.close(self._status)
            self.returncode = int(status)
        return self.returncode is not None


def run(arguments, timeout=None, **how):
    """Runs `python *arguments` to its end, as `subprocess.run` does; text comes back."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    with Popen(arguments, **how) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _connection():
    """Returns the socket of the server, which begins with the first process."""
    global _server
    if _server is None or _server[1].poll() is not None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        _server = ours, process
    return _server[0]


def _serve(connection):
    """Forks a process for each request, and tells when one has ended; ends with its client."""
    for package in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    gc.collect()
    gc.freeze()  # what the children never touch stays shared
    ends = {}
    while True:
        ready, _, _ = select.select([connection], [], [], 0.02 if ends else None)
        if ready:
            message, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
            if not message:
                return None
            pid = os.fork()
            if pid == 0:
                connection.close()
                for end in ends.values():
                    os.close(end)
                return json.loads(message), files
            connection.send(str(pid).encode())
            ends[pid] = files.pop()
            for file in files:
                os.close(file)
        with contextlib.suppress(ChildProcessError):
            while ends and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                end = ends.pop(ended[0])
                with contextlib.suppress(BrokenPipeError):
                    os.write(end, str(os.waitstatus_to_exitcode(ended[1])).encode())
                os.close(end)


def _become(request, files):
    """Makes of a forked process what `python *arguments` would be."""
    stdout, stderr, _ = files
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for file in files:
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    importlib.import_module("numpy").random.seed()
    flag, what, *arguments = request["arguments"]
    sys.path[0] = "" if flag == "-c" else request["cwd"]
    return flag, what, arguments


def _run(kind, code, options):
    """Runs a module or a text as Python does; returns the exit status."""
    sys.argv = [kind, *options]
    try:
        if kind == "-m":
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        else:
            names = {"__name__": "__main__", "__builtins__": __builtins__}
            exec(compile(code, "<string>", "exec"), names)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status):
    """Ends as Python does, but for taking apart all that is loaded: that takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as server_socket:
        child = _serve(server_socket)
    if child:
        _end(_run(*_become(*child)))
