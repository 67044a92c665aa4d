#!/usr/bin/env python3
"""Check tests/fixtures/tiny/*/expected.json against transformers in f32 (needs torch, transformers).

The fixtures' logits come from the numpy forward pass of make_tiny_models.py; this shows that
transformers reads the same folders and gets the same numbers.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "tiny"


def main() -> None:
    worst = 0.0
    for folder in sorted(ROOT.iterdir()):
        expected = json.loads((folder / "expected.json").read_text())
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(torch.tensor([expected["tokens"]])).logits[0]
        wanted = torch.tensor(expected["logits"])
        error = ((logits - wanted).norm() / wanted.norm()).item()
        print(f"{folder.name}: relative error {error:.2e}")
        worst = max(worst, error)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
