"""Parts of draft-trees that compare times: speed, batch, full, itself, choice."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import NamedTuple

from bench import DOES_NOT_FIT, Report, Run, RunFailed, median_of
from draft_parts import OFF, RESIDENT, DraftGrid, differing, figures

# Seconds in which a pass's weights are loaded, by those in which it computes one position.
LOAD = 20


def throttle(grid: DraftGrid, report: Report) -> float:
    """Bytes per second of a disk that loads in LOAD times what a position computes; measured once."""
    if grid.args.rate:
        return grid.args.rate
    prompts = grid.human_eval(2 if grid.quick else 3, ignore_eos=False)
    options = ["--batch", 1, "--max-tokens", 8 if grid.quick else 64]
    run = grid.run(grid.target, prompts, [*options, *RESIDENT, *OFF])
    # A request's first token comes out of its prompt's pass.
    positions = run.summary["generated_tokens"] - run.summary["requests"]["ok"]
    compute = run.summary["seconds"]["decode"] / positions
    on_disk = grid.plan(grid.target, prompts, [*options, *grid.streamed, *OFF])["weights"]["disk"]
    grid.args.rate = on_disk / (LOAD * compute)
    report.row("all resident", run, compute=compute, bytes=on_disk, load=LOAD * compute, rate=grid.args.rate)
    return grid.args.rate


def streamed(grid: DraftGrid, rate: float) -> list:
    return [*grid.streamed, "--throttle", f"disk={int(rate)}B/s"]


def decode_rate(run: Run) -> float:
    """Tokens for each second of decoding. With trees more of them come out of the prompts' passes, so that jobs
    are compared as a whole."""
    return run.summary["generated_tokens"] / run.summary["seconds"]["decode"]


class Rivals:
    """Runs of one job with and without trees, which alternate; all must answer alike."""

    def __init__(self, grid: DraftGrid, report: Report, prompts: Path, options: list, where: str = "") -> None:
        self.grid, self.report, self.prompts, self.options, self.where = grid, report, prompts, options, where
        self.runs: dict[str, list[Run]] = {}
        self.plain: dict | None = None

    def run(self, budgets: list[int | str], drafts: list[str] = ["small"]) -> None:
        """Rounds of runs with each of `budgets` and `drafts`; the first, 0, is plain decoding."""
        ways = dict.fromkeys((budget, draft if budget else "") for budget in budgets for draft in drafts)
        for _ in range(1 if self.grid.quick else self.grid.repeat):
            for budget, draft in ways:
                with self.report.case(self.name(budget, draft)):
                    self.once(budget, draft)

    def name(self, budget: int | str, draft: str = "small") -> str:
        name = {0: "off", "auto": "auto"}.get(budget, f"{budget} nodes")
        return self.where + (f"{draft}, {name}" if budget and draft != "small" else name)

    def once(self, budget: int | str, draft: str) -> None:
        name = self.name(budget, draft)
        run = self.grid.run(self.grid.target, self.prompts, [*self.options, *self.grid.draft(budget, draft)])
        self.runs.setdefault(name, []).append(run)
        answers = self.grid.answers()
        self.plain = self.plain or answers
        self.report.row(name, run, **timed(run))
        different = differing(answers, self.plain)
        if different:
            self.report.failed += 1
            self.report.row(name, failure=f"other answers than the first run's: {' '.join(different[:8])}")

    def ratio(self, name: str, value) -> float | None:
        """Of medians, to plain decoding's; None where a run failed."""
        off = self.name(0)
        if name not in self.runs or off not in self.runs:
            return None
        return median_of(self.runs[name], value) / median_of(self.runs[off], value)


def timed(run: Run) -> dict:
    summary = run.summary
    fields = {"tree_budget": summary["settings"]["tree_budget"], "batch": summary["settings"]["batch"],
              "decode_rate": decode_rate(run), "throughput": run.throughput(), "measured": run.seconds(),
              "predicted": summary["clocks"]["predicted"]["total_seconds"], "passes": summary["passes"]}
    return fields | figures(run)


def speed(grid: DraftGrid, report: Report) -> None:
    """Tokens per second of one sequence whose weights load in 20 times what a position computes."""
    grid.forget_acceptance()
    rate = throttle(grid, report)
    prompts = grid.human_eval(2 if grid.quick else 3, ignore_eos=False)
    options = ["--batch", 1, "--max-tokens", 8 if grid.quick else 64, *streamed(grid, rate)]
    rivals = Rivals(grid, report, prompts, options)
    pinned = [8] if grid.quick else [16, 32, 64]
    rivals.run([0, *pinned, "auto"])
    ratios = {budget: rivals.ratio(rivals.name(budget), Run.throughput) for budget in [*pinned, "auto"]}
    for budget, ratio in ratios.items():
        if ratio and budget != "auto":
            report.row(f"{budget} nodes / off", ratio=ratio)
    found = {budget: ratio for budget, ratio in ratios.items() if ratio}
    if found:
        best = max(found, key=found.get)
        report.bar(f"best ({rivals.name(best)}) / off", found[best], ">=", 6, rate=rate)
    if "auto" in found:
        report.bar("auto / off", found["auto"], ">=", 6, rate=rate)


def batch(grid: DraftGrid, report: Report) -> None:
    """16 sequences on the same disk, the planner in charge of trees, against none."""
    grid.forget_acceptance()
    rate = throttle(grid, report)
    size, count = (2, 4) if grid.quick else (16, 32)
    options = ["--batch", size, "--max-tokens", 8 if grid.quick else 64, *streamed(grid, rate)]
    rivals = Rivals(grid, report, grid.human_eval(count, ignore_eos=False), options)
    rivals.run([0, "auto"])
    if ratio := rivals.ratio("auto", Run.throughput):
        report.bar(f"{size} sequences: auto / off", ratio, ">=", 2, rate=rate)


def full(grid: DraftGrid, report: Report) -> None:
    """A batch that fills the pass by itself: the plan has no trees, and loses nothing by looking."""
    grid.forget_acceptance()
    rate = throttle(grid, report)
    count, tokens = (8, 8) if grid.quick else (128, 64)
    prompts = grid.words(count, tokens)
    options = ["--max-tokens", tokens, *streamed(grid, rate)]
    plan = grid.plan(grid.target, prompts, [*options, *grid.draft("auto")])
    rivals = Rivals(grid, report, prompts, options)
    rivals.run([0, "auto"])
    used = [run.summary["settings"]["tree_budget"] for run in rivals.runs.get("auto", [])]
    report.bar(f"{count} requests: nodes that the plan has", max([plan["tree_budget"], *used]), "<=", 0,
               batch=plan["batch"], free_rows=plan["free_rows"])
    if ratio := rivals.ratio("auto", Run.throughput):
        report.bar(f"{count} requests: auto / off", ratio, ">=", 0.98, rate=rate)


def itself(grid: DraftGrid, report: Report) -> None:
    """The model's own layers as a draft, by how many are resident, beside lookup and the small model."""
    rate = throttle(grid, report)
    prompts = grid.human_eval(2 if grid.quick else 3, ignore_eos=False)
    for share in [75] if grid.quick else [50, 75, 86]:
        grid.forget_acceptance()
        weights = ["--weights", f"ram={share}%", "--throttle", f"disk={int(rate)}B/s"]
        options = ["--batch", 1, "--max-tokens", 8 if grid.quick else 64, *weights]
        rivals = Rivals(grid, report, prompts, options, f"{share} % resident: ")
        drafts = ["self", "lookup", "small"]
        rivals.run([0, 16], drafts)
        for draft in drafts:
            if ratio := rivals.ratio(rivals.name(16, draft), Run.throughput):
                report.row(f"{share} % resident: {draft} / off", ratio=ratio)


class Setting(NamedTuple):
    requests: int
    # Of the rate that `throttle` finds; 0: resident weights.
    rate: float

    def __str__(self) -> str:
        disk = f"{self.rate:g} of the rate" if self.rate else "resident"
        return f"{self.requests} request{'s' if self.requests > 1 else ''}, {disk}"


CHOICE = [Setting(1, 1), Setting(8, 1), Setting(32, 0.5), Setting(16, 0)]


def choice(grid: DraftGrid, report: Report) -> None:
    """The planner's choice of batch and trees against a grid of both; and predicted against measured."""
    errors: list[float] = []
    settings = [Setting(2, 1), Setting(2, 0)] if grid.quick else CHOICE
    for setting in settings:
        with report.case(str(setting)):
            Choice(grid, report, setting, errors).compare()
    if errors:
        report.bar(f"median error of {len(errors)} predictions", statistics.median(errors), "<=", 0.12)


class Choice:
    """One setting of `choice`."""

    def __init__(self, grid: DraftGrid, report: Report, setting: Setting, errors: list[float]) -> None:
        self.grid, self.report, self.setting, self.errors = grid, report, setting, errors
        weights = streamed(grid, setting.rate * throttle(grid, report)) if setting.rate else RESIDENT
        self.options = ["--max-tokens", 8 if grid.quick else 48, *weights]
        self.prompts = grid.human_eval(setting.requests, ignore_eos=False)

    def run(self, what: str, extra: list, counts: bool = True, **how) -> Run:
        run = self.grid.run(self.grid.target, self.prompts, [*self.options, *extra], **how)
        if run.code == 0:
            fields = timed(run)
            error = fields["predicted"] / fields["measured"] - 1
            if counts:
                self.errors.append(abs(error))
            self.report.row(f"{self.setting}: {what}", run, relative_error=error, **fields)
        return run

    def compare(self) -> None:
        self.grid.forget_acceptance()
        own = self.grid.draft("auto")
        self.run("learns", own, counts=False)
        chosen = [self.run("chosen", own)]
        others = self.others()
        if not others:
            raise RunFailed(chosen[0])
        best = max(others, key=lambda options: others[options].throughput())
        # The best of many is lucky as well as good: both are measured again.
        rivals = [others[best]]
        for _ in range(0 if self.grid.quick else self.grid.repeat - 1):
            rivals.append(self.run("best other again", self.pinned(*best)))
            chosen.append(self.run("chosen again", own))
        ours, theirs = (median_of(runs, Run.throughput) for runs in (chosen, rivals))
        self.report.bar(f"{self.setting}: chosen / best of {len(others)} pinned", ours / theirs, ">=", 0.95,
                        chosen=ours, best=theirs, best_batch=best[0], best_budget=best[1])

    def pinned(self, size: int, budget: int) -> list:
        return ["--batch", size, *self.grid.draft(budget)]

    def others(self) -> dict[tuple[int, int], Run]:
        """Runs of the pairs of batch and budget that fit."""
        found = {}
        count = self.setting.requests
        for size in dict.fromkeys([count, max(1, count // 2)]):
            for budget in (0, 8) if self.grid.quick else (0, 16, 64, 256):
                what = f"batch {size}, {budget} nodes"
                with self.report.case(f"{self.setting}: {what}"):
                    run = self.run(what, self.pinned(size, budget), must=False)
                    if run.code == 0:
                        found[size, budget] = run
                    elif run.code != DOES_NOT_FIT:
                        raise RunFailed(run)
                    else:
                        self.report.row(f"{self.setting}: {what}", note="does not fit")
        return found
