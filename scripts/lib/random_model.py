"""A model of random weights with another model's vocabulary: what forebay synth writes, with the
tokenizer's keys of that model in its header."""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
from pathlib import Path

SHAPE = {"architecture": "qwen2", "layers": 2, "hidden": 64, "heads": 2, "kv_heads": 1,
         "feed_forward": 128, "tied_head": True}
TEXT, LIST = 8, 9
# Of what follows the header, where no key says otherwise, as in files of `forebay synth`.
ALIGNMENT = 32
BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class Header:
    """The keys of a GGUF file as bytes, and what follows them."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4
        self.version, self.tensor_count, count = self.take("IQQ")
        self.keys: dict[str, bytes] = {}
        self.lengths: dict[str, int] = {}
        for _ in range(count):
            begin, name = self.at, self.text()
            self.value(name, self.take("I")[0])
            self.keys[name] = self.data[begin:self.at]
        begin = self.at
        for _ in range(self.tensor_count):
            self.text()
            dimensions, = self.take("I")
            self.take(f"{dimensions}QIQ")
        self.tensors = self.data[begin:self.at]

    def take(self, form: str) -> tuple:
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def text(self) -> str:
        length, = self.take("Q")
        self.at += length
        return self.data[self.at - length:self.at].decode("utf-8", "replace")

    def value(self, name: str, kind: int) -> None:
        if kind == TEXT:
            self.text()
        elif kind == LIST:
            kind, self.lengths[name] = self.take("IQ")
            for _ in range(self.lengths[name]):
                self.value(name, kind)
        else:
            self.at += BYTES[kind]


    def content(self) -> bytes:
        return self.data[-(-self.at // ALIGNMENT) * ALIGNMENT:]


@contextlib.contextmanager
def opened(path: Path):
    """Mapped: what this process holds would count as the memory of those that it starts."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield Header(data)


def write(grid, donor: Path, output: Path) -> None:
    """Writes to `output` a small model with the tokens of `donor`."""
    with opened(donor) as given:
        vocabulary = [text for name, text in given.keys.items() if name.startswith("tokenizer.")]
        tokens = given.lengths["tokenizer.ggml.tokens"]
    shape, plain = output.with_suffix(".json"), output.with_suffix(".synth")
    shape.write_text(json.dumps(SHAPE | {"vocab": tokens}))
    grid.call(["synth", "--shape", shape, "--quant", "q8_0", "-o", plain, "--overwrite", "--quiet"])
    with opened(plain) as own:
        keys = [text for name, text in own.keys.items() if not name.startswith("tokenizer.")] + vocabulary
        head = b"GGUF" + struct.pack("<IQQ", own.version, own.tensor_count, len(keys))
        head += b"".join(keys) + own.tensors
        output.write_bytes(head + bytes(-len(head) % ALIGNMENT) + own.content())
    plain.unlink()
