#!/usr/bin/env python3
"""Writes the tiny models of tests/fixtures/tiny: random weights, a tokenizer and expected logits.

Each model is written twice from the same weights, as a Hugging Face folder and as a GGUF file (which for
`llama` has q and k permuted, as convert_hf_to_gguf.py does). `expected.json` holds token ids and the
logits of every position, computed here in float64 by the Hugging Face conventions. llama.cpp agrees to
1e-5 in log-probability on all but gemma3 (3e-3: its gelu goes through a table of 16-bit floats).

    pip install numpy gguf
    scripts/make_tiny_models.py                        # regenerate the fixtures
    scripts/make_tiny_models.py --out /tmp/t --f32 --check .../llama-server   # compare with llama.cpp
"""

import argparse
import json
import math
import subprocess
import time
import urllib.request
from pathlib import Path

import gguf
import numpy as np

VOCAB, TOKENS = 300, 24
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
COMMON = {"hidden_size": 64, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": VOCAB,
          "max_position_embeddings": 512, "bos_token_id": 298, "eos_token_id": 299,
          "hidden_act": "silu", "torch_dtype": "float32"}
MODELS = {
    "llama": COMMON | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "rope_theta": 10000.0,
        "rope_scaling": LLAMA3, "tie_word_embeddings": False},
    "qwen2": COMMON | {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 96, "rope_theta": 1000000.0,
        "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 2,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
    "qwen3": COMMON | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_hidden_layers": 2,
        "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "tie_word_embeddings": True},
    "gemma3": COMMON | {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": 7,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 64,
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32, "sliding_window": 8,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "torch_dtype": "float16",
        "layer_types": [("full" if i == 5 else "sliding") + "_attention" for i in range(7)]},
}
SHARDED = "qwen3"
MERGES = ("Ġ t|h e|i n|Ġ a|r e|o n|Ġt he|e r|Ġ s|a t|Ġ w|Ġ o|e n|Ġ c|i t|i s|a n|o r|e s|Ġ b|e d|"
          "Ġ f|in g|Ġ p|o u|Ġa n|a l|a r|Ġt o|Ġ m|Ġo f|Ġ in|Ġ d|Ġ h|Ġan d|l e|a s|s t|on e|w o|"
          "h o|Ġ n").split("|")


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def vocabulary():
    """Token texts: bytes, merges, two special tokens."""
    tokens = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    tokens += ["<|bos|>", "<|eos|>"]
    assert len(tokens) == len(set(tokens)) == VOCAB
    return tokens


def tokenizer_json(tokens):
    special = [{"id": tokens.index(t), "content": t, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True} for t in tokens[-2:]]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "vocab": {t: i for i, t in enumerate(tokens[:-2])}, "merges": MERGES}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": model}


def round_to(x, dtype):
    """float32 values that `dtype` holds exactly."""
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return x.astype(np.float32)


def weights(c, rng):
    """Random weights by Hugging Face names."""
    gemma, hidden, ff = c["model_type"] == "gemma3_text", c["hidden_size"], c["intermediate_size"]
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    head_dim = c.get("head_dim", hidden // heads)
    w = {}

    def matrix(name, rows, cols, gain=1.0):
        w[name + ".weight"] = rng.standard_normal((rows, cols)) * gain / math.sqrt(cols)

    def norm(name, n):
        w[name + ".weight"] = rng.standard_normal(n) * 0.2 + (0.0 if gemma else 1.0)

    matrix("model.embed_tokens", VOCAB, hidden, 2.0)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, rows in [("q", heads * head_dim), ("k", kv * head_dim), ("v", kv * head_dim)]:
            matrix(f"{p}self_attn.{name}_proj", rows, hidden, 1.5)
            if c["model_type"] == "qwen2":
                w[f"{p}self_attn.{name}_proj.bias"] = rng.standard_normal(rows) * 0.5
        matrix(p + "self_attn.o_proj", hidden, heads * head_dim)
        for name, rows, cols in [("gate", ff, hidden), ("up", ff, hidden), ("down", hidden, ff)]:
            matrix(f"{p}mlp.{name}_proj", rows, cols)
        norm(p + "input_layernorm", hidden)
        norm(p + "post_attention_layernorm", hidden)
        if gemma:
            norm(p + "pre_feedforward_layernorm", hidden)
            norm(p + "post_feedforward_layernorm", hidden)
        if gemma or c["model_type"] == "qwen3":
            norm(p + "self_attn.q_norm", head_dim)
            norm(p + "self_attn.k_norm", head_dim)
    norm("model.norm", hidden)
    if not c.get("tie_word_embeddings", gemma):
        matrix("lm_head", VOCAB, hidden, 2.0)
    return {name: round_to(x, c["torch_dtype"]) for name, x in w.items()}


def llama3_factors(head_dim, base, s):
    """What each rotary frequency is divided by (transformers' _compute_llama3_parameters)."""
    wavelen = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, old = s["low_freq_factor"], s["high_freq_factor"], s["original_max_position_embeddings"]
    smooth = (old / wavelen - low) / (high - low)
    ramp = 1 / ((1 - smooth) / s["factor"] + smooth)
    return np.where(wavelen < old / high, 1.0, np.where(wavelen > old / low, s["factor"], ramp))


def rotate(x, inv_freq):
    """Rotates halves of each head; x is [position, head, element]."""
    angle = np.arange(len(x))[:, None, None] * inv_freq
    a, b = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def forward(c, w, tokens):
    """Logits of every position, in float64."""
    w = {name: x.astype(np.float64) for name, x in w.items()}
    gemma = c["model_type"] == "gemma3_text"
    heads, kv, n = c["num_attention_heads"], c["num_key_value_heads"], len(tokens)
    head_dim = c.get("head_dim", c["hidden_size"] // heads)

    def norm(x, name):
        x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + c["rms_norm_eps"])
        return x * (w[name + ".weight"] + (1.0 if gemma else 0.0))

    def linear(x, name):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def activation(x):
        if gemma:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x / (1 + np.exp(-x))

    x = w["model.embed_tokens.weight"][tokens] * (math.sqrt(c["hidden_size"]) if gemma else 1.0)
    behind = np.arange(n)[:, None] - np.arange(n)[None, :]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        local = gemma and c["layer_types"][i] == "sliding_attention"
        base = c["rope_local_base_freq"] if local else c.get("rope_theta", 1e6)
        inv_freq = base ** (-np.arange(0, head_dim, 2) / head_dim)
        if "rope_scaling" in c:
            inv_freq = inv_freq / llama3_factors(head_dim, base, c["rope_scaling"])
        h = norm(x, p + "input_layernorm")
        q, k, v = (linear(h, f"{p}self_attn.{name}_proj").reshape(n, -1, head_dim) for name in "qkv")
        if p + "self_attn.q_norm.weight" in w:
            q, k = norm(q, p + "self_attn.q_norm"), norm(k, p + "self_attn.k_norm")
        q, k = rotate(q, inv_freq), rotate(k, inv_freq)
        k, v = (np.repeat(t, heads // kv, axis=1) for t in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(c.get("query_pre_attn_scalar", head_dim))
        seen = (behind >= 0) & (behind < c["sliding_window"]) if local else behind >= 0
        scores = np.exp(np.where(seen, scores - scores.max(-1, keepdims=True), -np.inf))
        h = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v).reshape(n, -1)
        h = linear(h, p + "self_attn.o_proj")
        x = x + (norm(h, p + "post_attention_layernorm") if gemma else h)
        h = norm(x, p + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
        h = activation(linear(h, p + "mlp.gate_proj")) * linear(h, p + "mlp.up_proj")
        h = linear(h, p + "mlp.down_proj")
        x = x + (norm(h, p + "post_feedforward_layernorm") if gemma else h)
    x = norm(x, "model.norm")
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def write_safetensors(path, tensors, dtype):
    """One file; the header is padded to 8 bytes, as the reference implementation does."""
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    header, data = {}, b""
    for name, x in tensors.items():
        if dtype == "bfloat16":
            raw = (x.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            raw = x.astype(dtype).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": names[dtype], "shape": x.shape, "data_offsets": offsets}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}} | header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_folder(folder, c, w, tokens):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [299]}) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokens), ensure_ascii=False) + "\n")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    if c["model_type"] != SHARDED:
        write_safetensors(folder / "model.safetensors", w, c["torch_dtype"])
        return
    names, parts = list(w), {}
    for part in (0, 1):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        mine = names[: len(names) // 2] if part == 0 else names[len(names) // 2:]
        write_safetensors(folder / file, {name: w[name] for name in mine}, c["torch_dtype"])
        parts |= {name: file for name in mine}
    index = {"metadata": {"total_size": sum(x.nbytes for x in w.values())}, "weight_map": parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def gguf_name(name, gemma):
    stems = {"embed_tokens": "token_embd", "lm_head": "output", "input_layernorm": "attn_norm",
             "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "post_attention_layernorm": "post_attention_norm" if gemma else "ffn_norm",
             "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
             "norm": "output_norm"}
    stem, kind = name.removeprefix("model.").rsplit(".", 1)
    if stem.startswith("layers."):
        _, layer, stem = stem.split(".", 2)
        return f"blk.{layer}.{stems[stem]}.{kind}"
    return f"{stems[stem]}.{kind}"


def write_gguf(path, c, w, tokens):
    arch = {"gemma3_text": "gemma3"}.get(c["model_type"], c["model_type"])
    gemma, heads, kv = arch == "gemma3", c["num_attention_heads"], c["num_key_value_heads"]
    head_dim = c.get("head_dim", c["hidden_size"] // heads)
    out = gguf.GGUFWriter(path, arch)
    out.add_name(f"tiny-{arch}")
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv)
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    out.add_rope_freq_base(c.get("rope_theta", 1e6))
    out.add_rope_dimension_count(head_dim)
    out.add_vocab_size(VOCAB)
    if "head_dim" in c:
        out.add_key_length(head_dim)
        out.add_value_length(head_dim)
    if gemma:
        out.add_sliding_window(c["sliding_window"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types([1] * (VOCAB - 2) + [3] * 2)
    out.add_token_merges(MERGES)
    out.add_bos_token_id(298)
    out.add_eos_token_id(299)
    out.add_add_bos_token(False)
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    kind = gguf.GGMLQuantizationType[kinds[c["torch_dtype"]]]
    if "rope_scaling" in c:
        factors = llama3_factors(head_dim, c["rope_theta"], c["rope_scaling"])
        out.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    for name, x in w.items():
        if gemma and name.endswith("norm.weight"):
            x = x + np.float32(1)
        for part, n in [("q_proj", heads), ("k_proj", kv)]:
            if arch == "llama" and part in name:
                x = x.reshape(n, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(x.shape)
        if x.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            out.add_tensor(gguf_name(name, gemma), np.ascontiguousarray(x))
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(x), kind)
            out.add_tensor(gguf_name(name, gemma), data, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def check(server, path, tokens, logits):
    """Largest difference of log-probabilities from llama.cpp's, over prefixes of the prompt."""
    port = "18431"
    args = [server, "-m", path, "--port", port, "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-c", "64"]
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        worst = 0.0
        for n in (1, 5, 12, TOKENS):
            # Nothing is reported for an end token or half a character: the bias picks a letter instead
            # (reported log-probabilities are taken before it).
            body = {"prompt": tokens[:n], "n_predict": 1, "logit_bias": [[65, 1000]],
                    "n_probs": VOCAB, "temperature": 0, "cache_prompt": False}
            url, kind = f"http://127.0.0.1:{port}/completion", {"Content-Type": "application/json"}
            request = urllib.request.Request(url, json.dumps(body).encode(), kind)
            for _ in range(100):
                try:
                    reply = json.load(urllib.request.urlopen(request))
                    break
                except OSError:
                    time.sleep(0.2)
            mine = logits[n - 1] - np.log(np.sum(np.exp(logits[n - 1])))
            for entry in reply["completion_probabilities"][0]["top_logprobs"]:
                worst = max(worst, abs(entry["logprob"] - mine[entry["id"]]))
        return worst
    finally:
        process.terminate()
        process.wait()


def main():
    root = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "tiny"
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--out", type=Path, default=root)
    parser.add_argument("--f32", action="store_true", help="store every model as F32")
    parser.add_argument("--check", metavar="LLAMA_SERVER", help="compare with llama.cpp's server")
    args = parser.parse_args()
    tokens = vocabulary()
    for seed, (name, config) in enumerate(MODELS.items()):
        rng = np.random.default_rng(seed)
        w = weights(config, rng)
        if args.f32:
            config = config | {"torch_dtype": "float32"}
        prompt = [298] + rng.integers(0, VOCAB - 2, TOKENS - 1).tolist()
        logits = forward(config, w, prompt)
        folder = args.out / name
        write_folder(folder, config, w, tokens)
        write_gguf(folder / "model.gguf", config, w, tokens)
        rows = ",\n".join(json.dumps([float(f"{x:.7g}") for x in row]) for row in logits)
        text = f'{{"tokens": {json.dumps(prompt)},\n"logits": [\n{rows}\n]}}\n'
        (folder / "expected.json").write_text(text)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: {size} bytes, logits within {np.abs(logits).max():.3f}", end="")
        print(f", llama.cpp differs by {check(args.check, folder / 'model.gguf', prompt, logits):.2e}"
              if args.check else "")


if __name__ == "__main__":
    main()
