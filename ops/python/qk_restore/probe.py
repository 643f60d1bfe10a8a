"""Recall of a Hugging Face causal LM in memory: RULER's prompts, scores and statistics from the C++ probe, the model's own forward."""

import inspect
import json
import tempfile
import time
from typing import Any, Iterator, Optional, Sequence

import torch
from torch import Tensor


def _eos_ids(model: torch.nn.Module) -> list[int]:
    for config in (model.config, getattr(model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return [int(i) for i in ids] if isinstance(ids, (list, tuple)) else [int(ids)]
    return []


class RecallProbe:
    """Needle prompts for one model and tokenizer: drawn once, the same ones at every measurement, so that measurements are paired.

    lengths: prompt lengths in tokens, the new ones included. tasks: RULER's niah_single_1..3, niah_multikey_1..3, niah_multivalue,
    niah_multiquery, vt. samples: prompts a cell (task x length). reading: generate (greedy decoding, string match: RULER's score) or
    teacher_forced (one prefill with the answer, found if every token of it is the most likely one). mode: base, default or chat (in the
    model's chat template). haystack: a text file for the tasks that hide needles in a text; without one, generated text. prefill_chunk:
    tokens of one forward call. output: a file that gets a JSON row a prompt, as niah-probe --output writes it (niah-probe --compare reads it).
    ValueError in one line for options that are wrong, a tokenizer that is not a fast one, or prompts that do not fit.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, *, lengths: Sequence[int],
                 tasks: Sequence[str] = ("niah_single_1", "niah_single_2", "niah_single_3"), samples: int = 20, reading: str = "generate",
                 mode: str = "base", haystack: Optional[str] = None, max_new_tokens: int = 128, seed: int = 42, prefill_chunk: int = 32768,
                 output: Optional[str] = None):
        if reading not in ("generate", "teacher_forced"):
            raise ValueError(f"reading: must be generate or teacher_forced, got {reading!r}")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer: must be a fast one (tokenizer.json), got {type(tokenizer).__name__}")
        self.model, self.reading, self.prefill_chunk, self.output = model, reading, prefill_chunk, output
        self.rows: list[dict] = []
        options = {"lengths": list(lengths), "tasks": list(tasks), "samples": samples, "mode": mode, "max_new_tokens": max_new_tokens,
                   "seed": seed, "prefill_chunk": prefill_chunk}
        if haystack is not None:
            options["haystack"] = str(haystack)
        labels = {"dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)  # truncation that a collator has switched on goes along and is not obeyed
            self._probe = torch.classes.qk_restore.NeedleProbe(folder, json.dumps(options), _eos_ids(model), json.dumps(labels))
        parameters = inspect.signature(model.forward).parameters
        self._keeps_last = "logits_to_keep" in parameters
        newer = "cache" in parameters and "past_key_values" not in parameters  # its name in transformers 5.24
        self._cache = "cache" if newer else "past_key_values"

    def __len__(self) -> int:
        return self._probe.size()

    def prompt(self, index: int) -> str:
        """The text of a prompt, with the prefix that begins the answer."""
        return self._probe.text(index)

    def prompt_ids(self, index: int) -> Tensor:
        """The model's input [T] int64, on the CPU."""
        return self._probe.ids(index)

    def measure(self, stage: str, step: int = 0) -> dict[str, float]:
        """Runs every prompt through the model as it is now. Returns {"<task>/<length>": share of prompts with every answer found}.

        The model computes in eval mode without gradients; its mode, its random numbers and its gradients stay what they were.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                rows = [self._measure_one(index, stage, step) for index in range(len(self))]
        finally:
            for module, training in modes:
                module.training = training
        return self._take(rows)

    def repeat(self, stage: str, step: int = 0) -> dict[str, float]:
        """The last measurement under another stage's name: for a model that has not changed since."""
        return self._take([{**row, "stage": stage, "step": step} for row in self.rows[-len(self):]])

    def summary(self) -> dict:
        """{"cells": rates with Wilson's 95 % interval, "changes": paired differences between stages with Newcombe's interval and
        McNemar's exact p, "table": all of it as text}, over everything measured so far."""
        return json.loads(torch.ops.qk_restore._probe_summary([json.dumps(row) for row in self.rows]))

    def _take(self, rows: list[dict]) -> dict[str, float]:
        self.rows += rows
        if self.output:
            with open(self.output, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        cells = json.loads(torch.ops.qk_restore._probe_summary([json.dumps(row) for row in rows]))["cells"]
        return {f"{cell['task'].split()[0]}/{cell['length']}": cell["rate"] for cell in cells}

    def _measure_one(self, index: int, stage: str, step: int) -> dict:
        begin = time.perf_counter()
        if self.reading == "generate":
            made: list[int] = []
            for token in self._greedy(self._probe.ids(index)):
                made.append(token)
                if self._probe.is_finished(index, made):
                    break
            return json.loads(self._probe.result(index, made, time.perf_counter() - begin, stage, step))
        ids, first = self._probe.forced(index)
        logprobs, ranks = self._answer_scores(ids, first)
        return json.loads(self._probe.forced_result(index, logprobs, ranks, time.perf_counter() - begin, stage, step))

    def _forward(self, ids: Tensor, cache: Any, keep: int) -> tuple[Tensor, Any]:
        """Logits [keep, V] of the last tokens of ids [T], and the cache behind them (None: the model keeps none)."""
        extra = {"logits_to_keep": keep} if self._keeps_last else {}
        out = self.model(input_ids=ids[None], use_cache=True, **{self._cache: cache}, **extra)
        return out.logits[0, -keep:], getattr(out, self._cache, None)

    def _prefill(self, ids: Tensor, keep: int) -> tuple[Tensor, Any]:
        ids = ids.to(next(self.model.parameters()).device)
        begin, cache = 0, None
        while len(ids) - begin > max(self.prefill_chunk, keep):
            end = min(begin + self.prefill_chunk, len(ids) - keep)  # what is asked about comes out of the last call
            _, cache = self._forward(ids[begin:end], cache, 1)
            if cache is None:
                break
            begin = end
        return self._forward(ids[begin:], cache, keep)

    def _greedy(self, ids: Tensor) -> Iterator[int]:
        logits, cache = self._prefill(ids, 1)
        while True:
            token = int(logits[-1].argmax())
            yield token
            ids = torch.cat([ids, torch.tensor([token])])
            if cache is None:
                logits, cache = self._prefill(ids, 1)
            else:
                logits, cache = self._forward(ids[-1:].to(logits.device), cache, 1)

    def _answer_scores(self, ids: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Of ids[first:]: log-probabilities, and how many tokens greedy decoding would take before each."""
        count = len(ids) - first
        z = self._prefill(ids, count + 1)[0][:-1].float()  # [A, V]
        target = ids[first:].to(z.device)[:, None]  # [A, 1]
        of_target = z.gather(1, target)
        before = (z > of_target) | ((z == of_target) & (torch.arange(z.shape[1], device=z.device) < target))
        return (of_target - z.logsumexp(1, keepdim=True))[:, 0], before.sum(1)
