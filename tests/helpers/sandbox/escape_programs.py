"""Programs that try to get out of the sandbox: each prints ESCAPED where it got what it wanted."""

PRELUDE = r"""
import ctypes, errno, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
CANARY, SECRET_FOLDER, PORT, ADDRESS, UDP, PATH, ABSTRACT, VICTIM = {values!r}
CALLS = {calls!r}
def escaped(*what): print("ESCAPED", *what, flush=True)
def call(name, *arguments):
    libc.syscall.restype = ctypes.c_long
    done = libc.syscall(CALLS[name] if isinstance(name, str) else name, *arguments)
    if done >= 0: escaped(name, done)
    return done, errno.errorcode.get(ctypes.get_errno())
def refused(action, *kinds):
    try: escaped(action())
    except (kinds or OSError): pass
"""

PYTHON = {
    # Files of the host.
    "read a file by its path": "refused(lambda: open(CANARY).read())",
    "write a file by its path": "refused(lambda: open(CANARY, 'w').write('x'))",
    "find a file by walking": """
for folder, folders, files in os.walk("/"):
    if os.path.basename(CANARY) in files: escaped(folder)""",
    "read the password files": """
for name in ("shadow", "passwd", "hostname", "machine-id", "ssh"):
    if os.path.exists("/etc/" + name): escaped(name)""",
    "list the folders of users": """
for name in ("/home", "/root", "/var", "/run", "/srv", "/mnt", "/work", "/boot", "/sys", "/proc"):
    try: found = os.listdir(name)
    except OSError: continue
    if not any(os.path.realpath(sys.prefix).startswith(os.path.join(name, f)) for f in found): escaped(name, found)
    if len(found) > 1: escaped(name, found)""",
    "read the environment of the first process": """
for pid in (1, os.getpid(), os.getppid(), "self", VICTIM):
    for name in ("environ", "cmdline", "mem", "root", "fd", "maps"):
        if os.path.exists(f"/proc/{pid}/{name}"): escaped(pid, name)""",
    "read its environment": "[escaped(k) for k in os.environ if 'SECRET' in k]",
    "use open files of its parent": """
for number in range(3, 1024):
    try: os.fstat(number)
    except OSError: continue
    escaped(number)""",
    "write to its own stdin": "refused(lambda: os.write(0, b'x')); refused(lambda: os.ftruncate(0, 1 << 40))",
    "write to the system": """
for folder in ("/", "/usr", "/usr/bin", "/usr/lib", "/lib", "/dev", "/etc", "/etc/alternatives", os.path.dirname(os.path.realpath(sys.executable)), os.__file__.rsplit("/", 1)[0]):
    refused(lambda: open(folder + "/" + os.path.basename(CANARY), "w"))
refused(lambda: open(os.__file__, "a"))
refused(lambda: os.chmod("/usr/bin/env", 0o4777))
refused(lambda: os.rename("/usr/bin/env", "/usr/bin/env2"))""",
    "follow links": """
os.symlink(CANARY, "/tmp/link"); refused(lambda: open("/tmp/link").read())
refused(lambda: os.link("/usr/bin/env", "/tmp/hard"))
os.symlink("/tmp/link", "/tmp/out"); refused(lambda: open("/tmp/out", "a").write("x"))""",
    "climb out of its root": """
os.chdir("/tmp")
for n in range(50): os.chdir("..")
refused(lambda: open("." + CANARY).read()); refused(lambda: open("../../.." + CANARY).read())""",
    "make devices": """
import stat
for kind, major, minor in ((stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0), (stat.S_IFCHR, 1, 1)):
    refused(lambda: os.mknod("/tmp/device%d" % major, kind | 0o666, os.makedev(major, minor)))""",
    "open devices": """
for name in ("mem", "kmem", "kmsg", "port", "sda", "vda", "nvme0n1", "kvm", "fuse", "tty", "ptmx", "console", "net/tun", "loop-control", "mapper/control"):
    refused(lambda: os.open("/dev/" + name, os.O_RDWR))""",
    "become another user": """
for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0), lambda: os.seteuid(0)):
    refused(change)
if os.getuid() == 0 or os.geteuid() == 0 or 0 in os.getgroups(): escaped(os.getuid())""",
    "use a setuid program": """
import shutil, subprocess
shutil.copy("/usr/bin/env", "/tmp/env"); os.chmod("/tmp/env", 0o6755)
for argv in (["/tmp/env", "id", "-u"], ["su", "-c", "id -u"], ["mount", "-t", "tmpfs", "none", "/tmp"], ["newgrp"], ["sudo", "-n", "id", "-u"]):
    try: done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError: continue
    if done.stdout.strip() == b"0" or (argv[0] == "mount" and not done.returncode): escaped(argv)""",
    "have capabilities": """
class Header(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(ctypes.byref(header), data) == 0
if data[0] or data[1] or data[3] or data[4]: escaped(list(data))
if libc.prctl(39, 0, 0, 0, 0) != 1: escaped("new privileges")""",
    "open by handle": """
call("open_by_handle_at", -100, (ctypes.c_char * 128)(), 0); call("name_to_handle_at", -100, b"/usr", (ctypes.c_char * 128)(), ctypes.byref(ctypes.c_int()), 0)""",
    # Network.
    "connect by TCP": "refused(lambda: socket.create_connection(('127.0.0.1', PORT), 1))",
    "connect by TCP to another address": "refused(lambda: socket.create_connection((ADDRESS, PORT), 1))",
    "connect by IPv6": "refused(lambda: socket.create_connection(('::1', PORT), 1))",
    "send by UDP": """
for address in ("127.0.0.1", ADDRESS):
    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"escaped", (address, UDP))
    except OSError: pass""",
    "resolve a name": "refused(lambda: socket.getaddrinfo('example.com', 80))",
    "connect to a unix socket": """
def connect(address): s = socket.socket(socket.AF_UNIX); s.connect(address)
refused(lambda: connect(PATH))""",
    "connect to an abstract socket": """
def connect(address): s = socket.socket(socket.AF_UNIX); s.connect(address)
refused(lambda: connect("\\0" + ABSTRACT))""",
    "be connected to": """
def listen(): s = socket.create_server(("0.0.0.0", 0)); os.listdir("/sys/class/net")
refused(listen)""",
    # Processes.
    "kill a process of the host": "refused(lambda: os.kill(VICTIM, signal.SIGKILL))",
    "kill all processes": "os.kill(-1, signal.SIGKILL)",
    "kill its group": "os.killpg(0, signal.SIGKILL)",
    "kill its parents": """
for pid in range(1, os.getpid()): refused(lambda: os.kill(pid, signal.SIGKILL)) if pid > 2 else None
os.kill(1, signal.SIGKILL); os.kill(os.getppid(), signal.SIGSTOP); time.sleep(0.1)""",
    "trace a process": """
call("ptrace", 16, VICTIM, 0, 0); call("ptrace", 0x4206, os.getppid(), 0, 0); call("ptrace", 0, 0, 0, 0)""",
    "read memory of a process": """
call("process_vm_readv", VICTIM, None, 0, None, 0, 0); call("process_vm_writev", os.getppid(), None, 0, None, 0, 0)
call("kcmp", os.getpid(), VICTIM, 0, 0, 0)""",
    "take files of a process": "call('pidfd_open', os.getppid(), 0); call('pidfd_getfd', 0, 0, 0); call('pidfd_send_signal', 0, 9, None, 0)",
    "bomb with forks": """
n = 0
while n < 100_000:
    try: os.fork()
    except OSError: break
    n += 1
if n > 40: escaped(n)
time.sleep(60)""",
    "bomb with threads": """
import threading
n = 0
try:
    while n < 5_000: threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1
except RuntimeError: pass
if n > 40: escaped(n)
os._exit(0)""",
    "leave a daemon behind": """
for n in range(3):
    if not os.fork():
        os.setsid()
        if not os.fork():
            for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(99)", os.path.basename(CANARY)])
        os._exit(0)
time.sleep(0.2)""",
    "run on after closing its output": "os.closerange(0, 64); time.sleep(60)",
    "take precedence": """
refused(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
refused(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))""",
    "raise its limits": """
import resource
for name in ("NPROC", "DATA", "NOFILE", "FSIZE", "CORE", "CPU"):
    which = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY: refused(lambda: resource.setrlimit(which, (hard + 1, hard + 1)), ValueError, OSError)""",
    # Namespaces and mounts.
    "unshare namespaces": """
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x04000000, 0x02000000): call("unshare", flag)""",
    "clone into namespaces": """
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000): call("clone", flag | 17, 0, 0, 0, 0)
if call("clone3", (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88)[1] != "ENOSYS": escaped()""",
    "enter namespaces": "call('setns', 0, 0); call('setns', 1, 0x10000000)",
    "mount": """
call("mount", b"none", b"/tmp", b"tmpfs", 0, None); call("mount", b"proc", b"/tmp", b"proc", 0, None)
call("mount", None, b"/usr", None, 32, None); call("umount2", b"/usr", 2)""",
    "mount in the new way": "call('fsopen', b'tmpfs', 0); call('open_tree', -100, b'/', 1); call('move_mount', 0, b'', 0, b'/', 4); call('mount_setattr', -100, b'/', 0, None, 0)",
    "change its root": "call('chroot', b'/tmp'); call('pivot_root', b'/tmp', b'/tmp')",
    # The kernel.
    "reach the key rings": "call('keyctl', 0, -3, 1); call('add_key', b'user', b'x', b'y', 1, -3); call('request_key', b'user', b'x', None, -3)",
    "load a BPF program": "call('bpf', 0, (ctypes.c_char * 128)(), 128)",
    "open a performance event": "call('perf_event_open', (ctypes.c_char * 128)(), 0, -1, -1, 0)",
    "handle page faults": "call('userfaultfd', 1)",
    "set up a ring": "call('io_uring_setup', 8, (ctypes.c_char * 256)()); call('io_setup', 8, ctypes.byref(ctypes.c_ulong()))",
    "load another kernel": "call('kexec_load', 0, 0, None, 0); call('kexec_file_load', 0, 0, 0, None, 0)",
    "load modules": "call('init_module', None, 0, b''); call('finit_module', 0, b'', 0); call('delete_module', b'loop', 0)",
    "end the machine": "call('reboot', 0xfee1dead, 672274793, 0x4321fedc, 0)",
    "set clock and name": "call('settimeofday', None, None); call('clock_settime', 0, (ctypes.c_long * 2)(0, 0)); call('adjtimex', (ctypes.c_char * 512)()); call('sethostname', b'x', 1)",
    "swap, account, log": "call('swapon', b'/tmp', 0); call('swapoff', b'/tmp'); call('acct', None); call('syslog', 3, (ctypes.c_char * 64)(), 64); call('quotactl', 0, None, 0, None)",
    "type into a terminal": """
import fcntl
for request in (0x5412, 0x541C):
    refused(lambda: fcntl.ioctl(0, request, b"x")); refused(lambda: fcntl.ioctl(1, request, b"x"))
    if libc.ioctl(0, ctypes.c_ulong(request | 1 << 32), b"x") == 0 or ctypes.get_errno() != errno.EPERM: escaped("by a long number")""",
    "change its personality": """
if libc.personality(0x0040000) != -1: escaped("personality")""",
    "use a call of the future": """
for number in (463, 467, 500, 1000): 
    if call(number)[1] != "ENOSYS": escaped(number)""",
    "put a filter of its own before": "call('seccomp', 1, 0, None); call('seccomp', 0, 0, None)",
    # Means.
    "take memory in one process": """
try:
    held = [bytearray(b"x" * (16 << 20)) for n in range(200)]; escaped()
except MemoryError: pass""",
    "take memory in many processes": """
for n in range(10):
    if not os.fork():
        held = bytearray(b"x" * (60 << 20)); time.sleep(60); os._exit(0)
time.sleep(60)""",
    "take shared memory": """
import mmap
held = []
for n in range(100):
    held.append(mmap.mmap(-1, 16 << 20)); held[-1].write(b"x" * (16 << 20))
escaped(len(held))""",
    "take memory that is not mapped": "call('memfd_create', b'x', 0); call('shmget', 0, 1 << 20, 0o1600); call('msgget', 0, 0o1600); call('mq_open', b'/x', 0o102, 0o600, None); call('semget', 0, 1, 0o1600)",
    "fill the disk": """
def fill():
    for name in "abcdefgh":
        with open("/tmp/" + name, "wb", 0) as file:
            while file.write(b"x" * 65536) == 65536: pass
for part in range(20):
    try: fill()
    except OSError: pass
total = sum(os.stat("/tmp/" + name).st_blocks * 512 for name in os.listdir("/tmp"))
if total > 20 << 20: escaped(total)""",
    "fill the disk with empty files": """
for n in range(1_000_000): os.mkdir(f"/tmp/{n}")
escaped()""",
    "make a huge file of nothing": """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
refused(lambda: os.truncate(os.open("/tmp/x", os.O_CREAT | os.O_RDWR), 1 << 40))""",
    "write without end": "while True: os.write(1, b'x' * 65536)",
    "write errors without end": "while True: os.write(2, b'x' * 65536)",
    "write a little without end": "while True: os.write(1, b'x' * 256); os.write(2, b'y' * 256)",
    "spin": "while True: pass",
    "spin in many processes": "[os.fork() for n in range(3)]\nwhile True: pass",
    "sleep": "time.sleep(600)",
    "ignore the signal of its limit": "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "open many files": """
n = 0
try:
    while n < 100_000: os.open("/dev/null", os.O_RDONLY); n += 1
except OSError: pass
if n > 100: escaped(n)""",
    "recurse": """
sys.setrecursionlimit(10**9)
def f(n): return f(n + 1) + 1
f(0)""",
    "recurse in C": """
sys.setrecursionlimit(10**9)
x = []
for n in range(10**6): x = [x]
repr(x)""",
    "watch files": "call('inotify_init1', 0); call('fanotify_init', 0, 0)",
    "set a timer and go": """
signal.signal(signal.SIGALRM, signal.SIG_IGN)
if not os.fork():
    os.setsid(); signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    os.execv(sys.executable, [sys.executable, "-c", "while True: pass", os.path.basename(CANARY)])""",
    "dump its core": "os.kill(os.getpid(), signal.SIGSEGV)",
    "fill pipes": """
held = []
try:
    while True: held.append(os.pipe()); os.set_blocking(held[-1][1], False); os.write(held[-1][1], b"x" * (1 << 20))
except OSError: pass
if len(held) > 50: escaped(len(held))""",
    "stop itself": "os.kill(os.getpid(), signal.SIGSTOP)",
}

C = {
    "enter the kernel by the old door": r"""
#include <stdio.h>
int main(void) { long r = 20; __asm__ volatile("int $0x80" : "+a"(r) : "b"(0), "c"(0), "d"(0) : "memory"); printf("ESCAPED %ld\n", r); }""",
    "use the calls of x32": r"""
#include <stdio.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(void) { long r = syscall(0x40000000 | 41, 2, 1, 0); if (r >= 0) puts("ESCAPED socket"); r = syscall(0x40000000 | 39); if (r >= 0) puts("ESCAPED getpid"); return 0; }""",
    "bomb with forks in C": r"""
#include <unistd.h>
int main(void) { for (;;) fork(); }""",
    "overflow the stack": r"""
int f(int n) { volatile char a[4096]; a[n % 4096] = 1; return f(n + 1) + a[n % 4096]; }
int main(void) { return f(0); }""",
    "call mmap and never ask": r"""
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
int main(void) { for (int i = 0; i < 4096; i++) { char *p = malloc(1 << 20); if (!p) return 3; memset(p, 1, 1 << 20); } puts("ESCAPED"); }""",
    "use a raw socket call": r"""
#include <stdio.h>
#include <sys/socket.h>
int main(void) { int f[] = {1, 2, 10, 16, 17, 38, 40}; for (int i = 0; i < 7; i++) for (int t = 1; t < 6; t++) { if (socket(f[i], t, 0) >= 0) printf("ESCAPED %d\n", f[i]); int p[2]; if (f[i] != 1 && socketpair(f[i], t, 0, p) == 0) puts("ESCAPED pair"); } }""",
}
