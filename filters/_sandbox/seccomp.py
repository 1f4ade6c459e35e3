"""The system calls that a sandboxed program may not make, as a BPF program for seccomp.

What is named here fails with EPERM; calls newer than this list fail with ENOSYS, so that a new
kernel opens nothing. Numbers are those of the kernel's own tables (arch/x86/entry/syscalls/
syscall_64.tbl, include/uapi/asm-generic/unistd.h); the program's form is that of
Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
import platform
import struct

# AUDIT_ARCH_* of linux/audit.h, and the column of the tables below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# The newest call of both tables that this list was checked against (mseal, Linux 6.10).
_NEWEST = 462

# Name: number on x86_64 and on aarch64, None where a machine does not have it.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # Network: none is there, and none can be asked for. socketpair stays, event loops need it.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    # Other processes' memory, files and state.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    # Namespaces and mounts; clone and clone3 are below.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # Parts of the kernel with a long record of holes that no such program needs.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0), "io_submit": (209, 2), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "seccomp": (317, 277), "vmsplice": (278, 75),
    "remap_file_pages": (216, 234), "modify_ldt": (154, None), "uselib": (134, None),
    "lookup_dcookie": (212, 18), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "sysfs": (139, None), "ustat": (136, None),
    # The machine itself.
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "syslog": (103, 116),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "nfsservctl": (180, 42),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58),
    # Memory that stays without being mapped, which a watcher of processes does not see.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "mq_open": (240, 180),
    # Watching files.
    "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
}  # fmt: skip

_CLONE, _CLONE3, _IOCTL, _PERSONALITY, _SOCKETPAIR = (
    (56, 220),
    (435, 435),
    (16, 29),
    (135, 92),
    (53, 199),
)
# CLONE_NEWTIME shares its bit with the exit signal's and cannot be asked of clone.
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_ASK_PERSONALITY, _AF_UNIX = 0xFFFFFFFF, 1

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def program() -> bytes | None:
    """The filter as the kernel takes it (`struct sock_filter`s), None for an unknown machine."""
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
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            code += [(_EQUAL, 0, 1, number), _denied()]
    # Its flags lie in memory, where no filter can look; the C library then falls back to clone.
    code += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _where(_CLONE[column], 0, (_ANY_BIT, 0, 1, _NEW_NAMESPACES))
    code += _where(_IOCTL[column], 1, (_EQUAL, 0, 1, _TIOCSTI))
    code += _where(_IOCTL[column], 1, (_EQUAL, 0, 1, _TIOCLINUX))
    code += _where(_PERSONALITY[column], 0, (_EQUAL, 1, 0, _ASK_PERSONALITY))
    code += _where(_SOCKETPAIR[column], 0, (_EQUAL, 1, 0, _AF_UNIX))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def _denied() -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | errno.EPERM)


def _where(
    number: int, argument: int, denied_if: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    """Denies one call by the low half of one of its arguments."""
    return [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
        denied_if,
        _denied(),
    ]
