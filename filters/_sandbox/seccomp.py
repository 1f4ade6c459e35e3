"""Seccomp filter: a BPF program that denies system calls to a sandboxed program.

What `denied_syscalls.txt` names fails with EPERM. Calls newer than this list fail with ENOSYS, so
that a new kernel opens nothing. Numbers are those of the kernel's own tables (arch/x86/entry/
syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h); the program's form is that of
Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
import platform
import struct
from pathlib import Path

# AUDIT_ARCH_* of linux/audit.h, and the column of the tables.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# The newest call of both tables that this list was checked against (mseal, Linux 6.10).
_NEWEST = 462


def _denied_calls() -> dict[str, tuple[int | None, int | None]]:
    """Read the numbers of the denied calls by name: on x86_64 and on aarch64, None for none."""
    text = Path(__file__).with_name("denied_syscalls.txt").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {
        name: (None if x86_64 == "-" else int(x86_64), None if aarch64 == "-" else int(aarch64))
        for name, x86_64, aarch64 in rows
    }


DENIED = _denied_calls()
CLONE, CLONE3 = (56, 220), (435, 435)
_IOCTL, _PERSONALITY, _SOCKETPAIR = (16, 29), (135, 92), (53, 199)
# CLONE_NEWTIME shares its bit with the exit signal's and cannot be asked of clone.
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_ASK_PERSONALITY, _AF_UNIX = 0xFFFFFFFF, 1

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_DENY = (_RETURN, 0, 0, _ERRNO | errno.EPERM)


def program() -> bytes | None:
    """Return the filter as `struct sock_filter`s for the kernel, None for an unknown machine."""
    if platform.machine() not in _MACHINES:
        return None
    arch, column = _MACHINES[platform.machine()]
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # On x86_64 this takes in the x32 calls too, whose numbers have bit 30.
        (_GREATER, 0, 1, _NEWEST),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            code += [(_EQUAL, 0, 1, number), _DENY]
    # Its flags lie in memory, where no filter can look; the C library then falls back to clone.
    code += [(_EQUAL, 0, 1, CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _where(CLONE[column], 0, (_ANY_BIT, 0, 1, _NEW_NAMESPACES))
    code += _where(_IOCTL[column], 1, (_EQUAL, 0, 1, _TIOCSTI))
    code += _where(_IOCTL[column], 1, (_EQUAL, 0, 1, _TIOCLINUX))
    code += _where(_PERSONALITY[column], 0, (_EQUAL, 1, 0, _ASK_PERSONALITY))
    code += _where(_SOCKETPAIR[column], 0, (_EQUAL, 1, 0, _AF_UNIX))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def _where(
    number: int, argument: int, denied_if: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    """Return code that denies one call by the low half of one of its arguments."""
    return [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
        denied_if,
        _DENY,
    ]
