"""Parts of offload-grid that compare times: overlap, cost, cgroup."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path

import human_eval_prompts
import llama_cpp
from bench import MIB, Grid, Report, Run, RunFailed, execute, median_of
from memory_group import MemoryGroup, forget

# Passes at both ends that are not counted: the prompts', the first that read ahead, the last.
WARM_PASSES = 3


def pass_seconds(trace: Path) -> tuple[float, int]:
    """Seconds of a pass in steady state, and how many were counted."""
    starts: dict[int, float] = {}
    for event in json.loads(trace.read_text()):
        if event["tid"] == "schedule":
            index = event["args"]["pass"]
            starts[index] = min(event["ts"], starts.get(index, event["ts"]))
    begins = [starts[index] for index in sorted(starts)]
    counted = len(begins) - 1 - WARM_PASSES
    return (begins[-1] - begins[WARM_PASSES]) / 1e6 / counted, counted


class Passes:
    """One model, batch and lengths; only where weights are and how fast the disk is differ."""

    PROMPT = 16

    def __init__(self, grid: Grid, model: str, batch: int, passes: int) -> None:
        self.grid, self.model, self.batch = grid, model, batch
        self.prompts = grid.words(batch, self.PROMPT)
        # Prompts are computed in one pass, so that all others have one row for each sequence.
        self.options = ["--batch", batch, "--micro-batch", batch, "--prefill-chunk",
                        batch * self.PROMPT * 2, "--kv", "ram=100%", "--max-tokens", passes + WARM_PASSES + 1]

    def seconds(self, extra: list, repeat: int) -> tuple[float, list[float], Run]:
        """Median seconds of a pass, those of each run, and the last run."""
        found = []
        for _ in range(repeat):
            run = self.grid.run(self.model, self.prompts, [*self.options, *extra], trace=True)
            found.append(pass_seconds(self.grid.folder / "trace.json")[0])
        return statistics.median(found), found, run

    def bytes(self, run: Run) -> int:
        """Read from disk by a pass."""
        return run.summary["moved_bytes"]["read"] // run.summary["passes"]


def on_disk(rate: float) -> list:
    return ["--weights", "disk=100%", "--throttle", f"disk={int(rate)}B/s"]


def spread(values: list[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}"


# Above this a copy from the page cache costs processor time that counts, and disks differ.
RATE_MAX = 700e6


def overlap(grid: Grid, report: Report) -> None:
    """Seconds of a pass whose weights all come from a throttled disk, against load and compute."""
    models = [("smollm2-135m", 24), ("qwen2.5-coder-0.5b", 10)]
    for model, passes in models[:1] if grid.quick else models:
        with report.case(model):
            overlap_of(grid, report, model, 6 if grid.quick else passes)
        with report.case(f"{model}, disk-bound"):
            disk_bound(grid, report, model)


def overlap_of(grid: Grid, report: Report, model: str, passes: int) -> None:
    repeat = 1 if grid.quick else grid.repeat
    weights = grid.plan(model, grid.words(1, 8), ["--weights", "disk=100%"])["weights"]["disk"]
    # A larger batch computes longer, so a slower disk keeps up.
    for batch in [32, 64] if grid.quick else [64, 128, 192, 256, 384]:
        job = Passes(grid, model, batch, passes)
        compute, found, run = job.seconds(["--weights", "ram=100%"], repeat)
        if weights / compute <= RATE_MAX:
            break
    report.row(f"{model}, all resident", run, seconds=compute, spread=spread(found), batch=batch)
    for name, factor, bar in [("load = compute", 1, 1.15), ("load = 4 x compute", 4, 1.08)]:
        rate = weights / compute / factor
        seconds, found, run = job.seconds(on_disk(rate), repeat)
        load = job.bytes(run) / rate
        report.bar(f"{model}, {name}: pass / longer of both", seconds / max(load, compute), "<=", bar,
                   run, seconds=seconds, spread=spread(found), load=load, compute=compute,
                   bytes=job.bytes(run), rate=rate, batch=batch)
    rate = weights / compute
    seconds, found, run = job.seconds([*on_disk(rate), "--overlap", "false"], 1)
    report.row(f"{model}, load = compute, no overlap", run, seconds=seconds,
               compute=compute, load=job.bytes(run) / rate)


def disk_bound(grid: Grid, report: Report, model: str) -> None:
    """Part of the disk's rate that a job is read at, start-up passes included."""
    rate = 100e6 if model == "smollm2-135m" else 300e6
    prompts = grid.words(8, 16)
    options = ["--batch", 8, "--max-tokens", 4 if grid.quick else 16]
    run = grid.run(model, prompts, [*options, *on_disk(rate)])
    report.bar(f"{model}, disk-bound: part of the throttle's rate", run.read_rate() / rate, ">=", 0.92, run,
               rate=rate, bottleneck=run.summary["bottleneck"],
               bottleneck_fraction=run.summary["bottleneck_fraction"])
    run = grid.run(model, prompts, [*options, "--weights", "disk=100%"])
    report.row(f"{model}, disk as it is: part of the profile's rate", run, bottleneck=run.summary["bottleneck"],
               bottleneck_fraction=run.summary["bottleneck_fraction"])


def cost(grid: Grid, report: Report) -> None:
    """Throughput with RAM for 40 % of the model's bytes against that of the resident model."""
    model, count, tokens = ("smollm2-135m", 16, 8) if grid.quick else ("qwen2.5-coder-1.5b", 128, 64)
    bytes_all = grid.model(model).stat().st_size
    prompts = grid.words(count, tokens)
    # A small model's least RAM is more than 40 % of it.
    ram = int(bytes_all * (1.1 if grid.quick else 0.4))
    runs: dict[str, list[Run]] = {"resident": [], "offloaded": []}
    for _ in range(1 if grid.quick else grid.repeat):
        for name, options in [("resident", []), ("offloaded", ["--ram", ram])]:
            with report.case(f"{model}, {name}"):
                run = grid.run(model, prompts, ["--max-tokens", tokens, *options])
                runs[name].append(run)
                report.row(f"{model}, {name}", run, throughput=run.throughput(), seconds=run.seconds(),
                           predicted=run.summary["clocks"]["predicted"]["total_seconds"],
                           peak_ram=run.summary["peak_bytes"]["ram"], policy=run.policy())
    if all(runs.values()):
        resident, offloaded = (median_of(of, Run.throughput) for of in runs.values())
        report.bar(f"{model}, --ram {ram / bytes_all:.0%} of its bytes: part of resident throughput",
                   offloaded / resident, ">=", 0.85, resident=resident, offloaded=offloaded)


def cgroup(grid: Grid, report: Report) -> None:
    """A job in a memory cgroup, and beside llama.cpp in one of the same size.

    llama.cpp maps the model's own file, so both read the real disk."""
    grid = copy.copy(grid)
    grid.disk_dir, grid.packed = None, set()
    with report.case("in a cgroup"):
        human_eval(grid, report)
    with report.case("beside llama.cpp"):
        beside_llama(grid, report)


def grouped(grid: Grid, model: str, prompts: Path, options: list, bytes_max: int):
    """A run of forebay in a group of its own, with nothing of the model in the page cache before."""
    grid.pack(model)
    forget([grid.model(model), *grid.packed_files()])
    with MemoryGroup(bytes_max) as group:
        run = grid.run(model, prompts, options, must=False, wrap=group.wrap)
        return run, group.peak(), group.kind


def human_eval(grid: Grid, report: Report) -> None:
    if grid.quick:
        model, count, tokens, prompts = "smollm2-135m", 8, 8, grid.words(8, 32)
        ram = grid.least_ram(model, prompts, ["--max-tokens", tokens]) + 8 * MIB
    else:
        model, count, tokens, ram = "qwen2.5-coder-1.5b", 64, 128, 400 * MIB
        prompts = grid.folder / "human-eval.jsonl"
        lines = [{"prompt": problem["prompt"]} for problem in human_eval_prompts.problems()[:count]]
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    limit = ram + 96 * MIB
    options = ["--max-tokens", tokens, "--ram", ram]
    run, peak, kind = grouped(grid, model, prompts, options, limit)
    if run.code != 0 or not run.summary:
        raise RunFailed(run)
    name = f"{model}, --ram {ram // MIB} MiB"
    fields = {"group": kind, "group_limit": limit, "group_peak": peak}
    report.bar(f"{name}: prompts answered", run.summary["requests"]["ok"], ">=", count, run, **fields,
               throughput=run.throughput(), wall=run.wall, policy=run.policy())
    report.bar(f"{name}: peak of the process / --ram", run.summary["peak_bytes"]["ram"] / ram, "<=", 1,
               run, peak_ram=run.summary["peak_bytes"]["ram"])
    if peak is not None:
        report.bar(f"{name}: peak of the group / its limit", peak / limit, "<=", 1, run)


def beside_llama(grid: Grid, report: Report) -> None:
    model, batch, tokens, limit = "qwen2.5-coder-1.5b", 32, 64, 600 * MIB
    if grid.quick:
        model, batch, tokens, limit = "smollm2-135m", 8, 8, 200 * MIB
    options = ["--max-tokens", tokens, "--ram", limit - 96 * MIB]
    run, peak, kind = grouped(grid, model, grid.words(batch, tokens), options, limit)
    if run.code != 0 or not run.summary:
        raise RunFailed(run)
    name = f"{model}, group of {limit // MIB} MiB"
    report.row(f"{name}: forebay", run, throughput=run.throughput(), seconds=run.seconds(),
               wall=run.wall, group=kind, group_limit=limit, group_peak=peak, policy=run.policy())
    peer = llama_in_group(grid, report, name, model, batch, tokens, limit)
    if peer is not None:
        at_least, throughput, wall = peer
        report.bar(f"{name}: forebay / llama.cpp{', at least' if at_least else ''}",
                   run.throughput() / throughput, ">=", 2, wall_ratio=wall / run.wall)


# Seconds after which llama.cpp is taken to be no faster than its tokens in this time.
PEER_SECONDS_MAX = 1200


def llama_in_group(grid: Grid, report: Report, name: str, model: str, batch: int, tokens: int,
                   limit: int) -> tuple[bool, float, float] | None:
    """Whether it was stopped, generated tokens per second of the whole job, and seconds of the process.

    Repacking copies the weights, which the group has no room for: only without it are they mapped."""
    bin_dir = llama_cpp.tools(grid.llama)
    if bin_dir is None:
        report.row(f"{name}: llama.cpp", note="not measured: scripts/compare-peers --install builds it")
        return None
    command, environment = llama_cpp.batched_bench(bin_dir, grid.model(model), batch, tokens, tokens,
                                                   grid.threads, ["--no-repack"])
    shown = " ".join(Path(part).name if part.startswith("/") else part for part in command)
    forget([grid.model(model), *grid.packed_files()])
    with MemoryGroup(limit) as group:
        run = execute(group.wrap(command), grid.folder, shown, PEER_SECONDS_MAX, environment)
        peak, kind = group.peak(), group.kind
    seconds = PEER_SECONDS_MAX if run.timed_out else llama_cpp.job_seconds(run.stdout)
    if seconds is None:
        raise RunFailed(run)
    throughput = batch * tokens / seconds
    report.row(f"{name}: llama.cpp{', stopped' if run.timed_out else ''}", run, throughput=throughput,
               seconds=seconds, wall=run.wall, group=kind, group_limit=limit, group_peak=peak,
               peak_ram=run.peak)
    return run.timed_out, throughput, run.wall
