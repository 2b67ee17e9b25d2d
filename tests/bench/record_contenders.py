"""One recorder of activations in a process of its own, driven by lines; runs in the peers' environments too.

Each takes the same padded batches of token numbers through the same network, caches the same hook points and writes
their rows (padding left out) to disk as float16: what a user's loop with that library does.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import numpy as np
import torch


class TransformerLens:
    """`run_with_cache` of its TransformerBridge, with a filter of names and stopped after the last layer asked for."""

    def __init__(self, spec):
        import importlib.metadata

        from transformer_lens.model_bridge import TransformerBridge
        from transformers import AutoModelForCausalLM

        self.version, self.spec = importlib.metadata.version("transformer-lens"), spec
        network = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
        self.model = TransformerBridge.boot_transformers(spec["model"], hf_model=network, device=spec["device"])
        self.names = {layer: f"blocks.{layer}.hook_out" for layer in spec["layers"]}

    def rows(self, ids, mask):
        _, cache = self.model.run_with_cache(
            ids, attention_mask=mask.long(), names_filter=list(self.names.values()),
            stop_at_layer=max(self.names) + 1, return_type=None,
        )
        return {layer: cache[name] for layer, name in self.names.items()}


class NNsight:
    """`trace` with what is saved, stopped after the last module asked for where `stop` says so."""

    def __init__(self, spec):
        import nnsight
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.version, self.spec, self.save = nnsight.__version__, spec, nnsight.save
        network = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32).to(spec["device"])
        self.model = nnsight.LanguageModel(network, tokenizer=AutoTokenizer.from_pretrained(spec["model"]))

    def rows(self, ids, mask):
        layers, stop = self.spec["layers"], self.spec["stop"]
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        with torch.no_grad(), self.model.trace(inputs) as tracer:
            found = self.save([self.model.model.layers[layer].output for layer in layers])
            if stop:
                tracer.stop()
        return {n: value[0] if isinstance(value, tuple) else value for n, value in zip(layers, found, strict=True)}


class Auditor:
    """`auditor.store.record` as the verb calls it; it tokenizes, schedules and writes its store itself."""

    def __init__(self, spec):
        from auditor.models import open_model

        self.version, self.spec = "working tree", spec
        self.hooks = tuple(f"blocks.{layer}.resid_post" for layer in spec["layers"])
        self.model = open_model(Path(spec["model"]), device=spec["device"], until=self.hooks)
        assert self.model.digest  # read once, as the peers have read their weights

    def round(self, folder):
        self._record(self.spec["texts"], folder / "a.store", "float16")

    def _record(self, texts, path, dtype):
        from auditor.data import Sample
        from auditor.store.record import RecordConfig, record

        spec = self.spec
        samples = [Sample(str(n), text=text) for n, text in enumerate(texts)]
        config = RecordConfig(
            model=spec["model"], samples="generated", hooks=self.hooks, batch_size=spec["batch"], context=1024,
            device=spec["device"], store_dtype=dtype,
        )
        return record(config, self.model, samples, path)

    def sample(self):
        """Rows of the first texts by layer, in the texts' order, recorded as float32."""
        texts = self.spec["texts"][: self.spec["batch"]]
        store = self._record(texts, Path(self.spec["out"]) / "sample.store", "float32")
        found = {layer: [] for layer in self.spec["layers"]}
        at = {store.sample(n).id: store.sample(n) for n in range(store.n_samples)}
        for number in range(len(texts)):
            held = at[str(number)]
            for layer, rows in found.items():
                index = slice(held.first_row, held.first_row + held.n_rows)
                rows.append(store.rows(index, f"blocks.{layer}.resid_post"))
        return {layer: np.concatenate(rows) for layer, rows in found.items()}


class Loop:
    """What the peers share: batches in the order given, rows written as they come."""

    def __init__(self, peer, spec):
        self.peer, self.spec, self.version = peer, spec, peer.version

    def round(self, folder):
        size, ids = self.spec["batch"], self.spec["ids"]
        for number, start in enumerate(range(0, len(ids), size)):
            for layer, rows in self._batch(ids[start : start + size]).items():
                np.save(folder / f"{layer}-{number}.npy", rows.astype(np.float16))

    def sample(self):
        return self._batch(self.spec["ids"][: self.spec["batch"]])

    def _batch(self, texts):
        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=self.spec["device"])
        lengths = torch.tensor([len(text) for text in texts], device=self.spec["device"])
        mask = torch.arange(longest, device=self.spec["device"])[None] < lengths[:, None]
        with torch.no_grad():
            found = self.peer.rows(ids, mask)
        return {layer: rows[mask].float().cpu().numpy() for layer, rows in found.items()}


PEERS = {"transformer-lens": TransformerLens, "nnsight": NNsight, "nnsight, stopped": NNsight}


def peak():
    """MB that this process held at most."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not what getrusage says, which a process takes over from the one that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def serve(name, spec):
    """Answer each line: `round` (seconds of one pass), `sample` (writes rows of the first batch), `peak` (MB)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    torch.set_num_threads(spec["threads"])
    spec |= {"stop": name.endswith("stopped")}
    contender = Loop(PEERS[name](spec), spec) if name in PEERS else Auditor(spec)
    print(json.dumps({"version": contender.version}), file=answers, flush=True)
    folder = Path(spec["out"]) / "round"
    for line in sys.stdin:
        if line.strip() == "round":
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            begun = time.perf_counter()
            contender.round(folder)
            found = {"seconds": time.perf_counter() - begun}
        elif line.strip() == "sample":
            path = Path(spec["out"]) / "sample.npz"
            np.savez(path, **{str(layer): rows for layer, rows in contender.sample().items()})
            found = {"path": str(path)}
        elif spec["device"] == "cuda":
            found = {"mb": torch.cuda.max_memory_allocated() / 2**20}
        else:
            found = {"mb": peak()}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    serve(sys.argv[1], given | json.loads(Path(given["file"]).read_text("utf-8")))
