"""What the parts of offload-grid and draft-trees share: running forebay, inputs, plans, tables of results."""

from __future__ import annotations

import contextlib
import csv
import datetime
import functools
import json
import os
import platform
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from memory_group import NotHere, forget

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
DOES_NOT_FIT = 4
MIB = 1 << 20
WORDS = ("the of and to in is that for it as was with be by on not he his but at are this have from "
         "or had an they which one you were all her she there would their we him been has when who "
         "will no more if out so up said what its about than into them can only other time new some "
         "could these two may first then do any like my now over such our man me even most made").split()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Run:
    """A command that has ended."""

    command: str
    code: int
    stdout: str
    stderr: str
    wall: float
    peak: int
    timed_out: bool = False
    summary: dict = field(default_factory=dict)

    def seconds(self) -> float:
        return self.summary["seconds"]["prefill"] + self.summary["seconds"]["decode"]

    def throughput(self) -> float:
        return self.summary["generated_tokens"] / self.seconds()

    def read_rate(self) -> float:
        return self.summary["moved_bytes"]["read"] / self.seconds()

    def policy(self) -> str:
        weights = self.summary["placement"]["planned"]["weights"]
        return f"{100 * weights['disk'] / sum(weights.values()):.0f} % of weights on disk"


class RunFailed(Exception):
    """A command that should have worked did not."""

    def __init__(self, run: Run) -> None:
        why = "ran out of time" if run.timed_out else f"exit {run.code}"
        super().__init__(f"{why}: {run.command}\n{run.stderr[-2000:].strip()}")
        self.run, self.why = run, why


def execute(command: list, folder: Path, shown: str, limit: float | None = None,
            environment: dict | None = None) -> Run:
    """Runs a command of our own to its end, at most `limit` seconds; measures its largest resident set."""
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        begin = time.monotonic()
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err,
                                   env=environment, start_new_session=True)
        late = threading.Event()

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit or 86400, stop)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        wall = time.monotonic() - begin
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
    return Run(shown, process.returncode, *texts, wall, usage.ru_maxrss * 1024, late.is_set())


class Grid:
    """The settings of a measurement."""

    def __init__(self, args, folder: Path) -> None:
        self.forebay, self.threads, self.quick = args.forebay, args.threads, args.quick
        self.repeat, self.llama, self.folder = args.repeat, args.llama, folder
        self.out, self.given_profile, self.disk_dir = args.out, args.profile, args.disk_dir
        if self.disk_dir:
            self.disk_dir.mkdir(parents=True, exist_ok=True)
        self.models = Path(os.environ.get("FOREBAY_MODELS") or CACHE / "models")
        self.packed: set[str] = set()

    def model(self, name: str) -> Path:
        path = self.models / f"{name}.gguf"
        if not path.exists():
            sys.exit(f"{Path(sys.argv[0]).name}: {path} is missing; run scripts/get-model {name}")
        return path

    @functools.cached_property
    def profile(self) -> list[str]:
        """Options that name the rates to plan with: measured once, unless in a hurry."""
        path = self.given_profile or self.folder / "profile.json"
        if self.quick and not self.given_profile:
            return []
        if not path.exists():
            say("calibrating, about a minute")
            disk = ["--disk-dir", self.disk_dir] if self.disk_dir else []
            self.call(["calibrate", "--device", "cpu", "--threads", self.threads, "-o", path, "--quiet", *disk])
        return ["--profile", path]

    @functools.cached_property
    def run_help(self) -> str:
        return self.call(["run", "--help"]).stdout

    def call(self, arguments: list, must: bool = True, limit: float | None = None, wrap=None,
             environment: dict | None = None) -> Run:
        """Runs forebay. Shown without this machine's folders."""
        names = [part.name if isinstance(part, Path) else str(part) for part in arguments]
        shown = "forebay " + shlex.join(names)
        command = [str(part) for part in [self.forebay, *arguments]]
        run = execute(wrap(command) if wrap else command, self.folder, shown, limit, environment)
        if must and run.code != 0:
            raise RunFailed(run)
        return run

    def job(self, model: str, prompts: Path, options: list, device: str = "cpu") -> list:
        """What `plan` and `run` are both told."""
        profile = self.profile if device == "cpu" else []
        disk = ["--disk-dir", self.disk_dir] if self.disk_dir else []
        return ["-m", self.model(model), "-i", prompts, "--device", device, "--threads", self.threads,
                "--temperature", 0, "--ignore-eos", *disk, *profile, *options]

    def run(self, model: str, prompts: Path, options: list, device: str = "cpu", trace: bool = False,
            **how) -> Run:
        """Answers `prompts`; the summary comes along."""
        self.pack(model)
        summary, output = self.folder / "summary.json", self.folder / "out.jsonl"
        summary.unlink(missing_ok=True)
        files = ["-o", output, "--overwrite", "--summary", summary, "--quiet"]
        files += ["--trace", self.folder / "trace.json"] if trace else []
        how.setdefault("limit", 120 if self.quick else 1800)
        run = self.call(["run", *self.job(model, prompts, options, device), *files], **how)
        run.summary = json.loads(summary.read_text()) if summary.exists() else {}
        return run

    def plan(self, model: str, prompts: Path, options: list) -> dict | None:
        """The plan as JSON; None where nothing fits."""
        run = self.call(["plan", *self.job(model, prompts, options), "--json", "--quiet"], must=False)
        if run.code not in (0, DOES_NOT_FIT):
            raise RunFailed(run)
        return json.loads(run.stdout) if run.code == 0 else None

    def packed_files(self) -> list[Path]:
        """Everything where packed weights are kept."""
        folder = self.disk_dir or Path(os.environ.get("FOREBAY_DISK_DIR") or CACHE / "packed")
        return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []

    def disk_rate(self) -> float:
        """Bytes per second at which the largest packed file is read, a quarter GiB at most. Disks of
        virtual machines are fast for a while and slow then: this shows which it was."""
        path = max(self.packed_files(), key=lambda path: path.stat().st_size)
        forget([path])
        begin, read = time.monotonic(), 0
        with path.open("rb", buffering=0) as file:
            while read < 256 * MIB and (piece := file.read(4 * MIB)):
                read += len(piece)
        seconds = time.monotonic() - begin
        forget([path])
        return read / seconds

    def pack(self, model: str) -> None:
        """Lets the file of packed weights be made before anything is timed."""
        if model not in self.packed:
            self.packed.add(model)
            say(f"packing {model}, unless it is")
            self.run(model, self.words(1, 8), ["--weights", "disk=100%", "--max-tokens", 1])

    def least_ram(self, model: str, prompts: Path, options: list) -> int:
        """The smallest --ram in bytes for which there is a plan, to about a MiB."""
        command = ["plan", *self.job(model, prompts, options), "--ram", "8MiB", "--json", "--quiet"]
        run = self.call(command, must=False)
        found = re.search(r"at least ([\d.]+) (KiB|MiB|GiB)", run.stderr)
        if not found:
            raise RunFailed(run)
        unit = {"KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}[found[2]]
        ram = int(float(found[1]) * unit) + MIB
        while self.plan(model, prompts, [*options, "--ram", ram]) is None:
            ram += MIB
        return ram

    def words(self, count: int, tokens: int) -> Path:
        """A file of `count` prompts of about `tokens` tokens, always the same."""
        path = self.folder / f"words-{count}x{tokens}.txt"
        chance = random.Random(f"{count} {tokens}")
        lines = (" ".join(chance.choices(WORDS, k=tokens)) + "\n" for _ in range(count))
        path.write_text("".join(lines))
        return path

    def sized(self, model: str, prompt: int, options: list, seconds: float) -> Path:
        """As many prompts as are predicted to take about `seconds`."""
        count = 16
        for _ in range(4):
            path = self.words(count, prompt)
            plan = self.plan(model, path, options)
            if plan is None:
                break
            ratio = seconds / plan["predicted"]["total_seconds"]
            if 0.75 < ratio < 1.35 or (count == 1 and ratio < 1):
                break
            count = min(max(round(count * min(max(ratio, 0.1), 10)), 1), 4000)
        return path


def median_of(runs: list[Run], value) -> float:
    return statistics.median(value(run) for run in runs)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def commit() -> str:
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno", "--", ".", ":!benches/results"],
                             capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Report:
    """Rows of one part: a CSV file, and a table of those with a bar."""

    def __init__(self, part: str, grid: Grid, family: str = "offload") -> None:
        self.grid, self.part, self.family, self.rows, self.failed = grid, part, family, [], 0
        device = f"{cpu_name()}, {grid.threads} threads"
        quick = {"settings": "quick"} if grid.quick else {}
        date = datetime.date.today().isoformat()
        self.about = {"commit": commit(), "device": device, "date": date, **quick}

    def row(self, what: str, run: Run | None = None, **fields) -> None:
        """Notes figures, and at once, so that a part that is stopped leaves what it had."""
        if run and run.summary.get("moved_bytes", {}).get("read"):
            fields["read_rate"] = run.read_rate()
        command = {"command": run.command} if run else {}
        shown = {key: tidy(value) for key, value in fields.items() if value is not None}
        say(f"  {what}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))
        self.rows.append({"what": what, **shown, **self.about, **command})
        self.store()

    def bar(self, what: str, value: float, sign: str, bar: float, run: Run | None = None,
            **fields) -> None:
        """Notes a figure that has to be at most or at least `bar`."""
        holds = value <= bar if sign == "<=" else value >= bar
        self.row(what, run, value=value, bar=f"{sign} {bar:g}", holds="yes" if holds else "NO", **fields)

    @contextlib.contextmanager
    def case(self, what: str):
        """A run that fails in here, or cannot be made on this machine, is told, and the next case goes on."""
        try:
            yield
        except NotHere as failure:
            self.failed += 1
            say(f"  {what}: {failure}")
            self.row(what, failure=f"cannot be measured here: {failure}")
        except RunFailed as failure:
            self.failed += 1
            say(f"  {what}: {failure}")
            lines = failure.run.stderr.strip().splitlines()
            # A hint may follow the error.
            errors = [line for line in lines if "error: " in line] or lines or [""]
            self.row(what, failure.run, failure=f"{failure.why}: {errors[-1]}")

    def path(self) -> Path | None:
        return self.grid.out / f"{self.family}-{self.part}.csv" if self.grid.out else None

    def earlier(self) -> list[dict]:
        """Rows that the file has from before, without those of failures."""
        if not self.path() or not self.path().exists():
            return []
        with self.path().open(newline="") as file:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
        return [row for row in rows if "failure" not in row]

    def store(self) -> None:
        if not self.path():
            return
        order = ["what", "value", "bar", "holds"]
        keys = [key for key in dict.fromkeys(key for row in self.rows for key in row)
                if key not in self.about and key != "command" and key not in order]
        self.grid.out.mkdir(parents=True, exist_ok=True)
        with self.path().open("w", newline="") as file:
            fields = [*order, *keys, *self.about, "command"]
            writer = csv.DictWriter(file, fields, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def holds(self) -> bool:
        return not any(row.get("holds") == "NO" for row in self.rows)

    def table(self) -> str:
        def told(row: dict) -> tuple[str, str, str, str]:
            if "failure" in row:
                return row["what"], "FAILED", row["failure"], ""
            value = row.get("value", row.get("ratio", ""))
            return row["what"], value, row.get("bar", row.get("note", "")), row.get("holds", "")

        rows = [told(row) for row in self.rows if row.keys() & {"bar", "ratio", "failure", "note"}]
        width = max([len(row[0]) for row in rows], default=0)
        lines = [f"  {what:<{width}}  {value:>8}  {bar:<7}  {holds}".rstrip()
                 for what, value, bar, holds in rows]
        return "\n".join([f"{self.part}:", *lines])


def tidy(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
