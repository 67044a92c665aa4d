"""Parts of draft-trees: what trees bring, and that they change no answer: acceptance, identity, cgroup."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import os
import tempfile
import zlib
from pathlib import Path

import human_eval_prompts
import random_model
from bench import CACHE, MIB, ROOT, Grid, Report, Run, RunFailed
from grid_speed import grouped
from memory_group import forget

TARGET, SMALL, TINY = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m"
DRAFTS = ["small", "target", "random", "lookup", "self"]
PLACES = ["resident", "streamed"]
RESIDENT = ["--weights", "ram=100%"]
OFF = ["--speculate", "off"]


class DraftGrid(Grid):
    """The settings of a measurement with a model, a draft, and a place for what runs learn of both."""

    def __init__(self, args, folder: Path) -> None:
        super().__init__(args, folder)
        # In a hurry, or on another device, a tiny model drafts for itself.
        tiny = args.quick or args.device != "cpu"
        self.target, self.small = (TINY, TINY) if tiny else (TARGET, SMALL)
        # The head stays where it is computed with, and is more of a tiny model.
        self.streamed = ["--weights", "ram=45%" if tiny else "ram=22%"]
        self.args = args
        self.forget_acceptance()

    def forget_acceptance(self) -> None:
        """From here on nothing is known of how often a draft is right but what runs learn."""
        cache = Path(tempfile.mkdtemp(prefix="cache-", dir=self.folder))
        (cache / "forebay").mkdir()
        (CACHE / "profiles").mkdir(parents=True, exist_ok=True)
        (cache / "forebay/profiles").symlink_to(CACHE / "profiles")
        packed = os.environ.get("FOREBAY_DISK_DIR") or str(CACHE / "packed")
        self.environment = os.environ | {"XDG_CACHE_HOME": str(cache), "FOREBAY_DISK_DIR": packed}

    def call(self, arguments: list, must: bool = True, limit: float | None = None, wrap=None,
             environment: dict | None = None) -> Run:
        return super().call(arguments, must, limit, wrap, environment or self.environment)

    @functools.cached_property
    def random_draft(self) -> Path:
        path = self.folder / "random.gguf"
        random_model.write(self, self.model(self.target), path)
        return path

    def draft(self, budget: int | str, draft: str = "small") -> list:
        """Options for trees of one of DRAFTS; off for a budget of 0."""
        if draft in ("lookup", "self"):
            source = draft
        else:
            source = self.random_draft if draft == "random" else self.model(
                self.target if draft == "target" else self.small)
        return ["--draft", source, "--speculate", budget] if budget else OFF

    def human_eval(self, count: int, **body) -> Path:
        """The first prompts of HumanEval; answers come with their tokens' ids."""
        prompts = [(problem["task_id"], problem["prompt"]) for problem in human_eval_prompts.problems()]
        return self.requests([(name, {"prompt": prompt, **body}) for name, prompt in prompts[:count]])

    def requests(self, bodies: list[tuple[str, dict]]) -> Path:
        lines = [{"custom_id": name, "method": "POST", "url": "/v1/completions",
                  "body": {"return_token_ids": True, **body}} for name, body in bodies]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path = self.folder / f"requests-{len(bodies)}-{zlib.crc32(text.encode()):08x}.jsonl"
        path.write_text(text)
        return path

    def answers(self) -> dict:
        """Choices by request, or the error, as the last run wrote them."""
        lines = map(json.loads, (self.folder / "out.jsonl").read_text().splitlines())
        return {line["custom_id"]: (line["response"] or {}).get("body", {}).get("choices", line["error"])
                for line in lines}


def differing(answers: dict, plain: dict) -> list[str]:
    return sorted(name for name in answers.keys() | plain.keys() if answers.get(name) != plain.get(name))


def figures(run: Run) -> dict:
    """What a run says of its trees."""
    found = run.summary.get("speculation") or {}
    names = {"tokens_per_pass": "tokens_per_pass", "expected": "tokens_per_pass_expected",
             "nodes": "nodes_per_tree", "height": "height", "draft_seconds": "draft_seconds",
             "target_seconds": "target_seconds"}
    figures = {name: float(found[key]) for name, key in names.items() if key in found}
    if found.get("failure"):
        figures["note"] = f"trees ended: {found['failure']}"
    return figures


# Tokens per pass at temperature 0, by the tree's nodes.
AT_LEAST = {16: 6, 64: 9, 512: 12}
BUDGETS = [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
SAMPLED_BUDGETS = [16, 64, 256]
SAMPLINGS = [(0.6, 1.0), (1.0, 1.0), (1.0, 0.9)]
OTHER_SHAPES = {"static": [16, 64, 512], "chain": [4, 8, 16, 64]}
# Of HumanEval: all of greedy trees that grow, half of others, and fewer of large ones, which take long.
PROMPTS, OTHER_PROMPTS = 20, 10
FEWER_PROMPTS = {256: 8, 1024: 4, 2048: 2}


def acceptance(grid: DraftGrid, report: Report) -> None:
    """Tokens that a pass brings by the size of the tree, the weights resident, one sequence at a time."""
    grid.forget_acceptance()
    budgets = grid.args.budgets or ([4, 16] if grid.quick else BUDGETS)
    cases = [(budget, 0.0, 1.0, "dynamic") for budget in budgets]
    cases += [(budget, *sampling, "dynamic") for sampling in (SAMPLINGS[-1:] if grid.quick else SAMPLINGS)
              for budget in budgets if budget in SAMPLED_BUDGETS]
    if "--tree-shape" in grid.run_help:
        cases += [(budget, 0.0, 1.0, shape) for shape, sizes in OTHER_SHAPES.items()
                  for budget in budgets if budget in sizes]
    names = [accepted_name(*case) for case in cases]
    report.rows += [row for row in report.earlier() if row["what"] not in names and
                    ("shape" in row or "ratio" in row and int(row["budget"]) not in budgets)]
    found = {}
    for case, name in zip(cases, names):
        with report.case(name):
            found[case] = accepted(grid, report, *case)
    for (budget, *_, shape), tokens in found.items():
        dynamic = found.get((budget, 0.0, 1.0, "dynamic"))
        if shape != "dynamic" and dynamic:
            report.row(f"{budget} nodes: dynamic / {shape}", ratio=dynamic / tokens, budget=budget)


def accepted_name(budget: int, temperature: float, top_p: float, shape: str) -> str:
    top = f", top-p {top_p:g}" if top_p < 1 else ""
    return f"{budget} nodes, temperature {temperature:g}{top}{'' if shape == 'dynamic' else ', ' + shape}"


def accepted(grid: DraftGrid, report: Report, budget: int, temperature: float, top_p: float,
             shape: str) -> float:
    """Answers end where the model ends them: what it would say then is easy to guess, or hard."""
    usual = PROMPTS if (temperature, shape) == (0.0, "dynamic") else OTHER_PROMPTS
    count = 2 if grid.quick else min(usual, FEWER_PROMPTS.get(budget, usual))
    prompts = grid.human_eval(count, temperature=temperature, top_p=top_p, seed=budget, ignore_eos=False)
    options = ["--max-tokens", 8 if grid.quick else 64, "--batch", 1, *RESIDENT, *grid.draft(budget)]
    options += [] if shape == "dynamic" else ["--tree-shape", shape]
    run = grid.run(grid.target, prompts, options)
    found = run.summary["speculation"]
    by_depth = " ".join(f"{part:.2f}" for part in found["accepted_by_depth"][:16])
    fields = {"budget": budget, "temperature": temperature, "top_p": top_p, "shape": shape, **figures(run),
              "prompts": count, "trees": found["trees"], "generated": run.summary["generated_tokens"],
              "accepted_by_depth": by_depth}
    tokens = fields["tokens_per_pass"]
    name = accepted_name(budget, temperature, top_p, shape)
    if shape == "dynamic" and temperature == 0 and budget in AT_LEAST:
        report.bar(name, tokens, ">=", AT_LEAST[budget], run, **fields)
    else:
        report.row(name, run, **fields)
    return tokens


# Seconds that a run of `identity` may take: the target as its own draft, 1024 nodes in each pass.
IDENTITY_SECONDS_MAX = 4 * 3600


def identity(grid: DraftGrid, report: Report) -> None:
    """Answers with trees against plain decoding's, over budgets, batches, drafts and places.

    Goes on where an earlier one stopped: what the CSV has is not run again."""
    args = grid.args
    on = "" if args.device == "cpu" else f", {grid.target} on {args.device}"
    prompts = identity_prompts(grid)
    report.rows += [row for row in report.earlier() if "differing" in row]
    done = {row["what"] for row in report.rows}
    plain: dict[int, dict] = {}
    for place, batch, budget, draft in identity_cases(args, grid.quick):
        name = f"{draft + ', ' if budget else ''}{budget} nodes, batch {batch}, {place}{on}"
        if name in done:
            continue
        tokens = 4 if grid.quick else identity_tokens(budget // batch, draft)
        options = ["--max-tokens", tokens]
        if tokens not in plain:
            run = grid.run(grid.target, prompts, [*options, "--batch", 1, *RESIDENT, *OFF], args.device,
                           limit=IDENTITY_SECONDS_MAX)
            plain[tokens] = grid.answers()
            report.row(f"plain decoding, {tokens} tokens{on}", run)
        with report.case(name):
            weights = RESIDENT if place == "resident" else grid.streamed
            trees = ["--batch", batch, *weights, *grid.draft(budget, draft)]
            run = grid.run(grid.target, prompts, [*options, *trees], args.device,
                           limit=IDENTITY_SECONDS_MAX)
            different = differing(grid.answers(), plain[tokens])
            told = {"note": "differ: " + " ".join(different[:8])} if different else {}
            report.row(name, run, differing=len(different), requests=len(plain[tokens]), tokens=tokens,
                       draft=draft if budget else None, budget=budget, batch=batch, place=place,
                       **(figures(run) | told))
    counts = [int(row["differing"]) for row in report.rows if "differing" in row]
    report.bar(f"requests that differ in {len(counts)} combinations", sum(counts), "<=", 0)


def identity_cases(args, quick: bool) -> list[tuple[str, int, int, str]]:
    """Place, batch, budget and draft; those with the fewest nodes for a sequence first."""
    few = args.device != "cpu"
    drafts = args.drafts or (DRAFTS[1:] if quick or few else DRAFTS)
    budgets = args.budgets or ([0, 4] if quick else [0, 1, 16] if few else [0, 1, 16, 128, 1024])
    cases = itertools.product(args.places or PLACES, args.batches or [1, 8], budgets, drafts)
    # Without nodes there is no draft.
    cases = [case for case in cases if case[2] or case[3] == drafts[0]]
    return sorted(cases, key=lambda case: case[2] // case[1])


def identity_tokens(nodes: int, draft: str) -> int:
    """Of an answer: few where each pass is long and brings little."""
    if nodes < 64:
        return 16
    if nodes > 256:
        return 3 if draft == "random" else 4
    return 4 if draft == "random" else 8


def identity_prompts(grid: DraftGrid) -> Path:
    """Each prompt at three temperatures; the shorter ones of HumanEval, since all is about what follows."""
    texts = sorted((problem["prompt"] for problem in human_eval_prompts.problems()), key=len)
    lines = map(json.loads, (ROOT / "examples/prompts.jsonl").read_text().splitlines())
    others = [prompt for line in lines if isinstance(prompt := line.get("body", line).get("prompt"), str)]
    code, other = (2, 1) if grid.quick else (20, 12) if grid.args.device == "cpu" else (6, 4)
    return grid.requests([
        (f"{index}-{temperature:g}", {"prompt": text, "temperature": temperature, "seed": index,
                                      "top_p": 0.9 if temperature else 1.0, "ignore_eos": False})
        for index, text in enumerate(texts[:code] + others[:other]) for temperature in (0.0, 0.6, 1.0)])


def cgroup(grid: DraftGrid, report: Report) -> None:
    """Jobs with trees in a memory cgroup, from the real disk."""
    grid = copy.copy(grid)
    grid.disk_dir, grid.packed = None, set()
    grid.forget_acceptance()
    for draft in ("small", "lookup"):
        with report.case(f"draft {draft}"):
            in_group(grid, report, draft)


def in_group(grid: DraftGrid, report: Report, draft: str) -> None:
    count, ram, limit = 16, 1100 * MIB, 1228 * MIB
    options = ["--max-tokens", 4 if grid.quick else 64, *grid.draft(8 if grid.quick else 64, draft)]
    prompts = grid.human_eval(2 if grid.quick else count)
    if grid.quick:
        count, ram = 2, grid.least_ram(grid.target, prompts, options) + 8 * MIB
        limit = ram + 96 * MIB
    # The group has the draft's file in the page cache only if it reads it.
    forget([grid.model(grid.small)])
    run, peak, kind = grouped(grid, grid.target, prompts, [*options, "--ram", ram], limit)
    if run.code != 0 or not run.summary:
        raise RunFailed(run)
    name = f"draft {draft}, --ram {ram // MIB} MiB, group of {limit // MIB} MiB"
    fields = {"group": kind, "group_limit": limit, "group_peak": peak, **figures(run)}
    report.bar(f"{name}: prompts answered", run.summary["requests"]["ok"], ">=", count, run, **fields,
               throughput=run.throughput(), wall=run.wall, policy=run.policy())
    peak_ram = max(run.peak, run.summary["peak_bytes"]["ram"])
    report.bar(f"{name}: peak of the process / --ram", peak_ram / ram, "<=", 1, run, peak_ram=peak_ram)
    if peak is not None:
        report.bar(f"{name}: peak of the group / its limit", peak / limit, "<=", 1, run)
