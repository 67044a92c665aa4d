"""Parts of offload-grid that try many plans: truth, choice, ablations, budgets."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import DOES_NOT_FIT, MIB, Grid, Report, Run, RunFailed, median_of

SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"


@dataclass
class Setting:
    """A model, a workload and a machine."""

    model: str
    # Of the weights' bytes, above the smallest --ram that plans; None: all the RAM there is.
    part: float | None
    # Of the disk, MB/s.
    throttle: int | None
    prompt: int
    generate: int

    def __str__(self) -> str:
        ram = "all RAM" if self.part is None else f"least RAM + {self.part:.0%}"
        disk = f", {self.throttle} MB/s" if self.throttle else ""
        return f"{self.model}, {self.prompt}+{self.generate} tokens, {ram}{disk}"

    def options(self, grid: Grid) -> list:
        options = ["--max-tokens", self.generate]
        if self.throttle:
            options += ["--throttle", f"disk={self.throttle}MB/s"]
        if self.part is not None:
            least = grid.least_ram(self.model, grid.words(16, self.prompt), options)
            more = int(self.part * grid.model(self.model).stat().st_size)
            options += ["--ram", least + more]
        return options


# A pass takes about the bytes on disk / the throttle: outputs are short where that is long, so that a
# job of some seconds has sequences enough to fill a batch.
TRUTH = [
    Setting(SMALL, None, None, 64, 64),
    Setting(SMALL, None, None, 512, 16),
    Setting(SMALL, 0.05, 200, 64, 12),
    Setting(SMALL, 0.05, 600, 64, 24),
    Setting(SMALL, 0.25, 200, 256, 12),
    Setting(SMALL, 0.5, 200, 32, 32),
    Setting(MIDDLE, None, None, 64, 64),
    Setting(MIDDLE, None, None, 512, 16),
    Setting(MIDDLE, 0.05, 400, 64, 6),
    Setting(MIDDLE, 0.3, None, 64, 16),
    Setting(MIDDLE, 0.4, 200, 256, 8),
    Setting(MIDDLE, 0.2, None, 512, 8),
    Setting(LARGE, None, None, 64, 32),
    Setting(LARGE, None, None, 256, 8),
    Setting(LARGE, 0.05, None, 64, 6),
    Setting(LARGE, 0.3, 400, 64, 4),
    Setting(LARGE, 0.5, None, 128, 8),
    Setting(LARGE, 0.4, 600, 32, 8),
]


def truth(grid: Grid, report: Report) -> None:
    """Predicted against measured seconds of prompts and output, as planned with one profile."""
    settings = [TRUTH[0], TRUTH[2], TRUTH[4]] if grid.quick else TRUTH
    errors = []
    for setting in settings:
        with report.case(str(setting)):
            options = setting.options(grid)
            prompts = grid.sized(setting.model, setting.prompt, options, 1 if grid.quick else 9)
            run = grid.run(setting.model, prompts, options)
            clocks = run.summary["clocks"]
            predicted, simulated, measured = (
                clocks[name]["total_seconds"] for name in ("predicted", "simulated", "measured"))
            errors.append(abs(predicted / measured - 1))
            parts = {f"{phase}_{name}": clocks[name][f"{phase}_seconds"]
                     for phase in ("prefill", "decode") for name in ("predicted", "measured")}
            report.row(str(setting), run, relative_error=predicted / measured - 1, predicted=predicted,
                       simulated=simulated, measured=measured, **parts,
                       requests=run.summary["requests"]["total"], policy=run.policy(),
                       bottleneck=run.summary["bottleneck"])
    if errors:
        count = len(errors)
        report.bar(f"median error of {count} predictions", statistics.median(errors), "<=", 0.08)
        report.bar(f"worst error of {count} predictions", max(errors), "<=", 0.20)


@dataclass(frozen=True)
class Policy:
    """What the command line can pin, weights and cache in per cent on disk."""

    batch: int
    micro_batch: int
    prefill_chunk: int
    weights: float
    kv: float

    @staticmethod
    def of(plan: dict) -> Policy:
        on_disk = [100 * plan[what]["disk"] / max(1, sum(plan[what].values())) for what in ("weights", "kv")]
        sizes = plan["batch"], plan["micro_batch"], plan["prefill_chunk"]
        return Policy(*sizes, *(round(part, 2) for part in on_disk))

    def options(self) -> list:
        def split(disk: float) -> str:
            return f"ram={100 - disk:.2f}%,disk={disk:.2f}%"
        return ["--batch", self.batch, "--micro-batch", self.micro_batch, "--prefill-chunk",
                self.prefill_chunk, "--weights", split(self.weights), "--kv", split(self.kv)]

    def changes(self) -> list[Policy]:
        """Policies that differ in one thing."""
        def times(value: int, factor: float) -> int:
            return max(1, round(value * factor))

        found = [replace(self, batch=times(self.batch, f)) for f in (0.5, 0.75, 1.25, 1.5, 2)]
        found += [replace(self, micro_batch=times(self.micro_batch, f)) for f in (0.25, 0.5, 2)]
        found += [replace(self, prefill_chunk=times(self.prefill_chunk, f)) for f in (0.25, 0.5, 2, 4)]
        found += [replace(self, weights=min(max(self.weights + d, 0.0), 100.0))
                  for d in (-20, -10, -5, 5, 10, 20)]
        found += [replace(self, kv=float(kv)) for kv in (0, 50, 100)]
        return [policy for policy in dict.fromkeys(found) if policy != self]

    def around(self, chance: random.Random) -> Iterator[Policy]:
        """Different policies without end: first those that differ in one thing, then in more."""
        seen = {self}
        near = self.changes()
        chance.shuffle(near)
        # As many of both kinds as the count wanted can hold: a dozen of the first.
        for policy in near[:12]:
            seen.add(policy)
            yield policy
        while True:
            policy = self
            for _ in range(chance.randint(2, 4)):
                policy = chance.choice(policy.changes())
            if policy not in seen:
                seen.add(policy)
                yield policy


CHOICE = [
    Setting(SMALL, 0.1, 300, 64, 12),
    Setting(SMALL, 0.4, 150, 64, 12),
    Setting(MIDDLE, 0.25, 500, 64, 5),
    Setting(MIDDLE, 0.4, 400, 128, 5),
]


def choice(grid: Grid, report: Report) -> None:
    """The planner's choice against pinned policies around it; medians of 3 decide between the best."""
    for index, setting in enumerate(CHOICE[:1] if grid.quick else CHOICE):
        with report.case(str(setting)):
            Choice(grid, report, setting, random.Random(index)).compare(3 if grid.quick else 20)


class Choice:
    """One setting of `choice`."""

    def __init__(self, grid: Grid, report: Report, setting: Setting, chance: random.Random) -> None:
        self.grid, self.report, self.setting, self.chance = grid, report, setting, chance
        self.options = setting.options(grid)
        self.prompts = grid.sized(setting.model, setting.prompt, self.options, 1 if grid.quick else 6)

    def run(self, extra: list, **how) -> Run:
        return self.grid.run(self.setting.model, self.prompts, [*self.options, *extra], **how)

    def note(self, what: str, run: Run, policy: Policy) -> None:
        self.report.row(f"{self.setting}: {what}", run, throughput=run.throughput(),
                        predicted=run.summary["clocks"]["predicted"]["total_seconds"],
                        measured=run.seconds(), **vars(policy))

    def compare(self, count: int) -> None:
        own = Policy.of(self.grid.plan(self.setting.model, self.prompts, self.options))
        chosen = [self.run([])]
        self.note("chosen", chosen[0], own)
        others = self.others(own, count, 4 * chosen[0].wall + 5)
        best = max(others, key=lambda policy: others[policy].throughput(), default=None)
        name = f"{self.setting}: chosen / best of {len(others)} others"
        if best is None:
            self.report.row(name, failure="none was measured")
            self.report.failed += 1
            return
        # The best of many is lucky as well as good: both are measured again.
        rivals = [others[best]]
        for _ in range(0 if self.grid.quick else 2):
            rivals.append(self.run(best.options()))
            self.note("best other again", rivals[-1], best)
            chosen.append(self.run([]))
            self.note("chosen again", chosen[-1], own)
        ours, theirs = (median_of(runs, Run.throughput) for runs in (chosen, rivals))
        self.report.bar(name, ours / theirs, ">=", 0.95, chosen=ours, best=theirs, **vars(best))

    def others(self, own: Policy, count: int, limit: float) -> dict[Policy, Run]:
        """Runs of policies that fit, `count` with those too slow to wait for."""
        found, slow = {}, 0
        for tried, policy in enumerate(own.around(self.chance)):
            if len(found) + slow == count or tried == 8 * count:
                break
            run = self.run(policy.options(), must=False, limit=limit)
            if run.timed_out:
                slow += 1
                self.report.row(f"{self.setting}: other, stopped after {limit:.0f} s", run, **vars(policy))
            elif run.code == 0:
                found[policy] = run
                self.note("other", run, policy)
            elif run.code != DOES_NOT_FIT:
                with self.report.case(f"{self.setting}: other"):
                    raise RunFailed(run)
        if len(found) + slow < count:
            self.report.row(str(self.setting), note=f"only {len(found) + slow} of {count} policies fit")
        return found


ABLATIONS = [Setting(SMALL, 0.3, 200, 64, 16), Setting(MIDDLE, 0.3, 400, 64, 8)]


def ablations(grid: Grid, report: Report) -> None:
    """Throughput with one thing after another left out, against all of it."""
    for setting in ABLATIONS[:1] if grid.quick else ABLATIONS:
        with report.case(str(setting)):
            without(grid, report, setting)
    with report.case("cache formats"):
        cache_formats(grid, report)
    with report.case("attention beside the device"):
        host_attention(grid, report)


def ablation_rows(grid: Grid, report: Report, setting: Setting, prompts: Path, rows: dict[str, list],
                  device: str = "cpu") -> None:
    """Runs each of `rows`; ratios are to the first."""
    full = None
    for name, options in rows.items():
        with report.case(f"{setting}: {name}"):
            run = grid.run(setting.model, prompts, options, device, limit=300)
            full = full or run.throughput()
            report.row(f"{setting}: {name}", run, throughput=run.throughput(),
                       ratio=run.throughput() / full, seconds=run.seconds(), policy=run.policy())


def without(grid: Grid, report: Report, setting: Setting) -> None:
    options = setting.options(grid)
    prompts = grid.sized(setting.model, setting.prompt, options, 1 if grid.quick else 10)
    own = Policy.of(grid.plan(setting.model, prompts, options))
    fixed = Policy(8, 64, 64, 50.0, 0.0)
    # Split evenly, or as near to it as fits.
    for on_disk in range(50, 101, 5):
        fixed = replace(fixed, weights=float(on_disk))
        if grid.plan(setting.model, prompts, [*options, *fixed.options()]):
            break
    ablation_rows(grid, report, setting, prompts, {
        "full": options,
        "no planner": [*options, *fixed.options()],
        "no overlap": [*options, *own.options(), "--overlap", "false"],
        "no planner, no overlap": [*options, *fixed.options(), "--overlap", "false"],
    })


def cache_formats(grid: Grid, report: Report) -> None:
    """Compressed caches at a budget where the cache is on disk."""
    if "--kv-format" not in grid.run_help:
        report.row("cache formats", note="not applicable: this forebay has no --kv-format")
        return
    setting = Setting(SMALL, 0.4, 400, 512, 16)
    options = [*setting.options(grid), "--kv", "disk=100%"]
    prompts = grid.words(4 if grid.quick else 24, setting.prompt)
    rows = {f"cache in {name}": [*options, "--kv-format", name] for name in ("q4", "k8v4", "f16")}
    ablation_rows(grid, report, setting, prompts, rows)


def host_attention(grid: Grid, report: Report) -> None:
    """Attention by the processor over a cache in RAM, where there is a GPU."""
    if "--attention" not in grid.run_help:
        report.row("attention beside the device", note="not applicable: this forebay has no --attention")
        return
    setting = Setting(SMALL, None, None, 256, 32)
    options = ["--max-tokens", setting.generate, "--kv", "ram=100%"]
    prompts = grid.words(4 if grid.quick else 64, setting.prompt)
    rows = {f"attention on the {where}": [*options, "--attention", where] for where in ("host", "device")}
    devices = json.loads(grid.call(["devices", "--json"]).stdout)
    if not any("GPU" in json.dumps(device) for device in devices):
        report.row("attention beside the device", note="not applicable: no GPU here")
        return
    ablation_rows(grid, report, setting, prompts, rows, device="gpu")


# Shares of the weights above the smallest --ram that plans: 20 in all.
BUDGETS = {
    SMALL: [0, 0.05, 0.15, 0.3, 0.5, 0.75, 1, 1.5],
    MIDDLE: [0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.2],
    LARGE: [0, 0.15, 0.4, 0.7, 1.1],
}
KV_HOMES = [None, "ram=100%,disk=0%", "ram=0%,disk=100%", "ram=50%,disk=50%"]


def budgets(grid: Grid, report: Report) -> None:
    """Jobs from the smallest budget that plans to all resident: exit 0, peak within --ram, same tokens."""
    right, jobs = 0, 0
    for model, parts in ({SMALL: [0, 0.1, 0.3, 1]} if grid.quick else BUDGETS).items():
        prompts = sampled_prompts(grid)
        options = ["--max-tokens", 8 if grid.quick else 20]
        jobs += len(parts)
        with report.case(f"{model}, all resident"):
            grid.run(model, prompts, options)
            tokens = answers(grid)
            for index, part in enumerate(parts):
                with report.case(f"{model}, budget {index + 1}"):
                    kv = KV_HOMES[index % len(KV_HOMES)]
                    placed = [*options, *(["--kv", kv] if kv else [])]
                    ram = grid.least_ram(model, prompts, placed)
                    ram += int(part * grid.model(model).stat().st_size)
                    right += budget(grid, report, model, prompts, [*placed, "--ram", ram], ram, tokens)
    report.bar(f"budgets that end well, of {jobs}", right, ">=", jobs)


def budget(grid: Grid, report: Report, model: str, prompts: Path, options: list, ram: int,
           tokens: dict) -> bool:
    run = grid.run(model, prompts, options)
    peak = max(run.peak, run.summary["peak_bytes"]["ram"])
    same = answers(grid) == tokens
    kv = run.summary["placement"]["achieved"]["kv"]
    report.row(f"{model}, --ram {ram / MIB:.0f} MiB", run, exit=run.code, ram=ram, peak_ram=peak,
               within="yes" if peak <= ram else "NO", same_tokens="yes" if same else "NO",
               policy=run.policy(), kv_ram=kv["ram"], kv_disk=kv["disk"])
    return peak <= ram and same


def sampled_prompts(grid: Grid) -> Path:
    """Greedy and sampled requests of several lengths that answer with their tokens' ids."""
    path = grid.folder / "sampled.jsonl"
    lines = []
    for index, length in enumerate([8, 24, 40, 90, 150, 17] if grid.quick else [8, 24, 40, 90, 150, 17] * 2):
        prompt = grid.words(index + 1, length).read_text().splitlines()[-1]
        body = {"prompt": prompt, "temperature": index % 2, "seed": index, "return_token_ids": True}
        lines.append({"custom_id": str(index), "method": "POST", "url": "/v1/completions", "body": body})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers(grid: Grid) -> dict:
    """Choices by request, as the last run wrote them."""
    lines = (grid.folder / "out.jsonl").read_text().splitlines()
    return {line["custom_id"]: line["response"]["body"]["choices"] for line in map(json.loads, lines)}
