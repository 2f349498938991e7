"""What measurements between network namespaces share: the command line, the namespaces, the programs that run in them, and warm memory.

Everything that is made here is removed again, however the script ends: namespaces and files by clean-up, processes because each is
killed by the kernel when the script dies. Processes are ended by their id alone.
"""

import argparse
import atexit
import json
import math
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import bench_results as results

PREFIX = "iotup-bench"
INTERFACE = "eth0"
GROUP = "239.77.1.1:4242"
TOOLS = {"ip": "iproute2", "tc": "iproute2", "ethtool": "ethtool", "setpriv": "util-linux", "sysctl": "procps"}
MIB = 1 << 20
GIB = 1 << 30
# Nothing that is waited for takes longer, but for transfers, which have their own limit.
PATIENCE = 60
MEMORY_INTERVAL = 0.05
# Free memory that is never touched, for everything else on the machine.
MEMORY_LEFT = 256 * MIB
# The exit codes of the scripts: those of sysexits where they exist, as those of the programs.
FAILED, USAGE, UNAVAILABLE, CANNOT_CREATE, NEEDS_ROOT = 1, 64, 69, 73, 77


class Trouble(Exception):
    """Why a measurement cannot go on, in one line: what failed, on what, why, and what to do; and the exit code."""

    def __init__(self, text, exit_code=FAILED):
        super().__init__(text)
        self.exit_code = exit_code


# What ends a row, but not a table: trouble, and what the kernel or a tool refuses.
ROW_TROUBLES = (Trouble, OSError, subprocess.CalledProcessError)


def one_line(error):
    """What an error says, in one line.

    >>> one_line(Trouble("a\\n b"))
    'a; b'
    >>> one_line(OSError(28, "No space left on device", "/full"))
    '/full: No space left on device'
    >>> one_line(subprocess.CalledProcessError(3, ["tc", pathlib.Path("/x")]))
    'tc /x: exit code 3'
    """
    if isinstance(error, subprocess.CalledProcessError):
        text = f"{' '.join(map(str, error.cmd))}: exit code {error.returncode}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def end_with(script, work):
    """Does a script's work and ends with its exit code; what keeps it from it is said in one line."""
    try:
        code = work()
    except ROW_TROUBLES as error:
        print(f"scripts/{script}: {one_line(error)}", file=sys.stderr)
        code = error.exit_code if isinstance(error, Trouble) else FAILED
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """A command line whose help is that of the script, and whose errors are one line."""

    def __init__(self):
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")

    def error(self, message):
        raise Trouble(f"{message} (see --help)", USAGE)


def number(low, high, kind=int):
    """A reader of numbers from `low` to `high`.

    >>> number(1, 9)("7"), number(0.5, 9, float)("0.5")
    (7, 0.5)
    >>> number(0.001, 9, float)("nan")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: 'nan' is not a number from 0.001 to 9
    """

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        # Not a number is not between any two.
        if not low <= value <= high:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a {whole}number from {low:g} to {high:g}")
        return value

    return read


def numbers(low, high, kind=int):
    """A reader of lists of different numbers.

    >>> numbers(1, 9)("4,1,4")
    [4, 1]
    """
    read = number(low, high, kind)
    return lambda text: list(dict.fromkeys(map(read, text.split(","))))


def check_folder(option, folder):
    """Sees to it that a folder that was asked for is there."""
    if not folder.is_dir():
        why = "is no folder" if folder.exists() else "does not exist"
        raise Trouble(f"{option} {folder}: {why}: give one that is there", USAGE)


def check_programs(bin_dir, names):
    """The folder of programs by a path that holds everywhere, if they are all there."""
    missing = [name for name in names if not (os.access(bin_dir / name, os.X_OK) and (bin_dir / name).is_file())]
    if missing:
        build_it = "build with cargo build --release --bins --example line and give target/release, or leave --bin-dir out"
        raise Trouble(f"--bin-dir {bin_dir}: no program {', '.join(missing)} there: {build_it}", USAGE)
    return bin_dir.absolute()


def check_output(path):
    """Sees to it that what is measured can be kept: better known before hours of it than after."""
    try:
        results.check_writable(path)
    except OSError as error:
        raise Trouble(f"write {path}: {error.strerror}: give another --output", CANNOT_CREATE) from None


def begin():
    """Sees to it that the script can do its work, and that whatever ends it lets it clean up."""
    if os.geteuid() != 0:
        raise Trouble("needs root (network namespaces): run it with sudo", NEEDS_ROOT)
    missing = [f"{tool} (package {package})" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise Trouble(f"missing: {', '.join(missing)}: install the packages", UNAVAILABLE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    delete_leftovers()


def delete_leftovers():
    """Deletes the namespaces of runs that were killed before they could do it themselves."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split("\n")
    for name in (line.split()[0] for line in names if line.strip()):
        if is_leftover(name):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def is_leftover(name):
    """Whether a name is one that is given here, by a script that runs no more.

    >>> is_leftover(f"{PREFIX}-{os.getpid()}-1-server"), is_leftover(f"{PREFIX}-0-1-server"), is_leftover(f"{PREFIX}mark")
    (False, True, False)
    """
    owner = name.removeprefix(f"{PREFIX}-").split("-")[0]
    return name.startswith(f"{PREFIX}-") and owner.isdigit() and not os.path.exists(f"/proc/{owner}")


def scratch_folder(parent):
    """A folder that is removed at the end, as are those of runs that were killed before they could do it themselves."""
    parent = pathlib.Path(parent or tempfile.gettempdir()).absolute()
    for other in parent.glob(f"{PREFIX}-*"):
        if is_leftover(other.name):
            shutil.rmtree(other, ignore_errors=True)
    try:
        folder = tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir=parent)
    except OSError as error:
        raise Trouble(f"make a folder in {parent}: {error.strerror}: give another", CANNOT_CREATE) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


def succeed(*command):
    """Runs a command that sets something up."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Lab:
    """One server and its receivers, each a namespace with one interface. A single receiver is at the other end of the server's veth
    pair; several are ports of a bridge."""

    _count = 0

    def __init__(self, receiver_count, mtu, gro=False):
        Lab._count += 1
        self._names = []
        self._prefix = f"{PREFIX}-{os.getpid()}-{Lab._count}"
        atexit.register(self.close)
        try:
            self._make(receiver_count, mtu, gro)
        except BaseException:
            self.close()
            raise

    def _make(self, receiver_count, mtu, gro):
        self.server = self._namespace("server")
        self.receivers = [self._namespace(f"receiver{index}") for index in range(receiver_count)]
        if receiver_count == 1:
            self._pair(self.server, INTERFACE, self.receivers[0], mtu)
        else:
            switch = self._namespace("switch")
            # Snooping would hold packets back until memberships are known.
            bridge = ["type", "bridge", "mcast_snooping", "0", "forward_delay", "0", "stp_state", "0"]
            succeed("ip", "-n", switch, "link", "add", "br0", "mtu", str(mtu), *bridge)
            succeed("ip", "-n", switch, "link", "set", "br0", "up")
            for index, host in enumerate([self.server, *self.receivers]):
                self._pair(switch, f"port{index}", host, mtu)
                succeed("ip", "-n", switch, "link", "set", f"port{index}", "master", "br0")
        for index, host in enumerate([self.server, *self.receivers], 1):
            succeed("ip", "-n", host, "address", "add", f"10.77.0.{index}/24", "dev", INTERFACE)
        if gro:
            for host in self.receivers:
                succeed("ip", "netns", "exec", host, "ethtool", "-K", INTERFACE, "gro", "on")
        for host in [self.server, *self.receivers]:
            wait_for(lambda: carrier(host), f"a carrier in {host}")

    def _namespace(self, name):
        name = f"{self._prefix}-{name}"
        self._names.append(name)
        succeed("ip", "netns", "add", name)
        # Its solicitations would be counted with what is measured.
        succeed("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        succeed("ip", "-n", name, "link", "set", "lo", "up")
        return name

    @staticmethod
    def _pair(host, name, other, mtu):
        """A cable from `name` of `host` to the interface of the other."""
        peer = ["type", "veth", "peer", "name", INTERFACE, "netns", other]
        succeed("ip", "-n", host, "link", "add", name, "mtu", str(mtu), *peer)
        succeed("ip", "-n", other, "link", "set", INTERFACE, "mtu", str(mtu))
        succeed("ip", "-n", host, "link", "set", name, "up")
        succeed("ip", "-n", other, "link", "set", INTERFACE, "up")

    def close(self):
        """Takes it all away."""
        while self._names:
            subprocess.run(["ip", "netns", "delete", self._names[-1]], check=False)
            self._names.pop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def carrier(host):
    """Whether the interface of a namespace is up at both ends."""
    return "state UP" in succeed("ip", "-n", host, "-o", "link", "show", INTERFACE)


def wait_for(is_done, what, patience=PATIENCE):
    """Waits until something outside has come about."""
    deadline = time.monotonic() + patience
    while not is_done():
        if time.monotonic() > deadline:
            raise Trouble(f"waited {patience} s in vain for {what}")
        time.sleep(0.01)


class Process:
    """A program in a namespace that prints JSON, a value a line."""

    _running = set()

    def __init__(self, host, *command):
        self.name = os.path.basename(command[0])
        self.events = []
        self.memory = {"own": 0, "resident": 0}
        self.cpu_seconds = 0.0
        self.started, self.ended, self.exit = time.monotonic(), None, None
        self._stderr = tempfile.TemporaryFile()
        # Each of the three becomes the next: the id that is known here stays that of the program.
        prefix = ["ip", "netns", "exec", host, "setpriv", "--pdeathsig", "KILL"]
        self._process = subprocess.Popen(
            [*prefix, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
        )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._changed = threading.Condition()
        self._is_done = threading.Event()
        atexit.register(self._make_end)
        Process._running.add(self)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._watch, self._reap)]
        for thread in self._threads:
            thread.start()

    def _read(self):
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                # Half a line, of a program that was killed: whoever waits for the event says that it did not come.
                continue
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._process.stdout.close()
            self._changed.notify_all()

    def _watch(self):
        while not self._is_done.wait(MEMORY_INTERVAL):
            seen = memory_of(self.pid)
            self.memory = {kind: max(most, seen.get(kind, 0)) for kind, most in self.memory.items()}

    def _reap(self):
        _, status, usage = os.wait4(self.pid, 0)
        self.ended = time.monotonic()
        self.exit = self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self._is_done.set()

    def _signal(self, number):
        if not self._is_done.is_set():
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except OSError:
                # It has ended in this moment.
                pass

    def _make_end(self):
        self._signal(signal.SIGKILL)
        self._is_done.wait(PATIENCE)

    def wait_for_event(self, name, patience=PATIENCE):
        """The first event of this name."""
        found = []

        def is_over():
            found[:] = [event for event in self.events if event.get("event") == name]
            return found or self._process.stdout.closed

        with self._changed:
            self._changed.wait_for(is_over, patience)
        if not found:
            raise Trouble(f"{self.name} says nothing of {name}: {self.stderr() or 'it has no error to show'}")
        return found[0]

    def stderr(self):
        """What it has complained of."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()

    def stop(self):
        """Asks it to end, and waits."""
        self._signal(signal.SIGTERM)
        return self.wait()

    def wait(self, patience=PATIENCE):
        """Waits for its end, and makes one if that does not come: the exit code, negative for a signal."""
        if not self._is_done.wait(patience):
            self._make_end()
        for thread in self._threads:
            thread.join()
        if self._pidfd is not None:
            atexit.unregister(self._make_end)
            Process._running.discard(self)
            os.close(self._pidfd)
            self._pidfd = None
        return self.exit

    def end(self):
        """Its last event, if it has succeeded."""
        if self.exit != 0 or not self.events:
            raise Trouble(self.how_it_ended())
        return self.events[-1]

    def how_it_ended(self):
        """Its name, how it has ended, and what it has complained of."""
        seconds = self.ended - self.started
        how = f"was killed by signal {-self.exit} after" if self.exit < 0 else f"ended with exit code {self.exit} after"
        return f"{self.name} {how} {seconds:.0f} s: {self.stderr() or 'it has no error to show'}"

    @classmethod
    def end_all(cls):
        """Makes an end of all that still run: what has failed must not disturb what comes next."""
        for process in list(cls._running):
            process.wait(0)


def memory_of(pid):
    """Bytes of a process: pages of no file, which the machine has to find for it, and all that were resident at a time."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status)
    except OSError:
        return {}
    # A process that has ended and waits to be waited for has no memory to show.
    kibibytes = {name: int(value.split()[0]) for name, value in fields.items() if value.strip().endswith("kB")}
    # A mapped file that is in memory counts as RssShmem: only what is of no file is a program's own.
    return {"own": kibibytes.get("RssAnon", 0) * 1024, "resident": kibibytes.get("VmHWM", 0) * 1024}


def process_cpu_seconds(pid):
    """Processor time of a running process and its threads, to the nanosecond: its CPU clock, as clock_getcpuclockid(3) names it."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_info():
    """Bytes by name, as /proc/meminfo has them."""
    with open("/proc/meminfo", encoding="ascii") as table:
        return {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in table)}


def touched(size):
    """So many bytes of memory, every page of them in use."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:: mmap.PAGESIZE] = bytes([1]) * len(range(0, size, mmap.PAGESIZE))
    return memory


def warm(size):
    """Touches so many bytes of free memory and frees them at once.

    A virtual machine gives free memory back to its host, and gets it back page by page when it is touched, which costs seconds a
    GiB: whoever touches it first would pay. What is in use, or keeps files, is left alone.
    """
    size = min(size, memory_info()["MemFree"] - MEMORY_LEFT) // mmap.PAGESIZE * mmap.PAGESIZE
    if size > 0:
        touched(size).close()


class Ballast:
    """Free memory that is held, so that what is left can all be touched: nobody knows which of it the kernel takes next, and whoever wants
    large pages gets those that nobody has used for long."""

    def __init__(self):
        self._memory = []

    @property
    def size(self):
        """Bytes that are held."""
        return len(self._memory) * GIB

    def make_room(self, size):
        """Holds less, until so much is free."""
        while self._memory and memory_info()["MemFree"] < size:
            self._memory.pop().close()

    def leave(self, size):
        """Holds memory until about so much is free, and touches that."""
        self.make_room(size)
        for _ in range(max(0, memory_info()["MemFree"] - size) // GIB):
            free = memory_info()["MemFree"]
            try:
                self._memory.append(touched(GIB))
            except OSError:
                break
            # Something else has given way instead: there is nothing to be gained.
            if memory_info()["MemFree"] > free - GIB // 2:
                self._memory.pop().close()
                break
        warm(size + GIB)


def file_system_of(folder):
    """The kind of file system that a folder is on."""
    return succeed("stat", "--file-system", "--format", "%T", str(folder)).strip().replace("ext2/ext3", "ext4")


def target_folder(root):
    """The folder of everything that is built."""
    return root / pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"))


def build(root):
    """Builds the programs and the blast; the folder that they are in."""
    command = ["cargo", "build", "--quiet", "--release", "--bins", "--example", "line"]
    say("== build")
    try:
        subprocess.run(command, cwd=root, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        remedy = f"build as yourself ({' '.join(command)}) and give --bin-dir target/release"
        code = UNAVAILABLE if isinstance(error, OSError) else FAILED
        raise Trouble(f"build: {one_line(error)}; {remedy}", code) from None
    return target_folder(root) / "release"


def describe(bin_dir, host):
    """Notes on the machine and the interface of a namespace."""
    lines = succeed("ip", "netns", "exec", host, str(bin_dir / "examples/line"), "describe", INTERFACE).splitlines()
    return dict(line.split(": ", 1) for line in lines)


def say(text):
    """What is going on; results go to standard output."""
    print(text, file=sys.stderr, flush=True)
