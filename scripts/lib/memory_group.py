"""A memory control group for one command: cgroup v1, v2, or systemd-run where v2 is not delegated."""

import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
ENTER = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
# A scope is gone when its command is, so its peak is written down from inside.
SCOPE = ('out=$1; shift; "$@"; code=$?; group=$(sed -n "s/^0:://p" /proc/self/cgroup); '
         'cat "/sys/fs/cgroup$group/memory.peak" > "$out" 2>/dev/null; exit $code')


def own_groups() -> dict[str, str]:
    """Path of this process's group by controller; '' is v2."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        groups |= {name: path for name in names.split(",")}
    return groups


class NotHere(Exception):
    """What this machine cannot do."""


class MemoryGroup:
    """`with MemoryGroup(bytes) as group:` run `group.wrap(command)`, then read `group.peak()`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.folder, self.peak_file, self.kind = limit, None, None, ""

    def __enter__(self) -> "MemoryGroup":
        groups = own_groups()
        name = f"forebay-{os.getpid()}"
        if "memory" in groups:
            self.kind, parent = "v1", ROOT / "memory" / groups["memory"].lstrip("/")
            limits = {"memory.limit_in_bytes": self.limit}
            swap = {"memory.memsw.limit_in_bytes": self.limit}
        else:
            self.kind, parent = "v2", ROOT / groups.get("", "/").lstrip("/")
            limits, swap = {"memory.max": self.limit}, {"memory.swap.max": 0}
        try:
            self.folder = parent / name
            self.folder.mkdir()
            for file, value in limits.items():
                (self.folder / file).write_text(str(value))
        except OSError as error:
            self.__exit__()
            if self.kind == "v1" or not shutil.which("systemd-run"):
                raise NotHere(f"no memory group of our own under {parent}: {error}") from error
            self.kind, self.peak_file = "systemd-run", tempfile.mkstemp()[1]
        for file, value in swap.items():
            # There is no such file where the kernel does not account for swap.
            if self.folder and (self.folder / file).exists():
                (self.folder / file).write_text(str(value))
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder and self.folder.exists():
            self.folder.rmdir()
        if self.peak_file:
            os.unlink(self.peak_file)
        self.folder = self.peak_file = None

    def wrap(self, command: list[str]) -> list[str]:
        if self.folder:
            return ["sh", "-c", ENTER, "sh", str(self.folder), *command]
        user = [] if os.geteuid() == 0 else ["--user"]
        limits = ["-p", f"MemoryMax={self.limit}", "-p", "MemorySwapMax=0"]
        return ["systemd-run", "--scope", "--quiet", *user, *limits, "sh", "-c", SCOPE, "sh",
                self.peak_file, *command]

    def peak(self) -> int | None:
        """Most bytes charged to the group, page cache included; None where the kernel does not tell."""
        names = ["memory.max_usage_in_bytes", "memory.peak"]
        files = [self.folder / name for name in names] if self.folder else [Path(self.peak_file)]
        texts = [file.read_text().strip() for file in files if file.exists()]
        return next((int(text) for text in texts if text), None)


def forget(paths: list[Path]) -> None:
    """Drops files from the page cache. Pages that are cached already are charged to whoever read them
    first, so a group would not be held to its limit."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
