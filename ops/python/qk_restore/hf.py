"""qk-restore inside transformers.Trainer, and so inside TRL's trainers: a callback that keeps W_Q and W_K, measures recall, puts them back.

    trainer = Trainer(..., processing_class=tokenizer, callbacks=[RecallCallback(lengths=[4096])])
    trainer.train()          # the model is restored when it returns
    trainer.save_model()     # and so is what is saved now; checkpoints of the run itself hold the tuned weights
"""

import pathlib
import sys
from typing import Any, Optional, Sequence

import transformers

from .probe import RecallProbe
from .snapshot import Layers, Snapshot

__all__ = ["RecallCallback"]

_SNAPSHOT_FILE = "qk_restore_snapshot.pt"


def _trainer_of_this_call() -> Optional[transformers.Trainer]:
    """The trainer that is calling: transformers hands callbacks everything but it, and its log is the one to write in."""
    frame = sys._getframe(1)
    while frame is not None:
        trainer = frame.f_locals.get("self")
        if isinstance(trainer, transformers.Trainer):
            return trainer
        frame = frame.f_back
    return None


class RecallCallback(transformers.TrainerCallback):
    """Snapshot at the start, recall at the start, at each evaluation and at the end, restore, recall again.

    lengths, tasks, samples, reading, mode, haystack, max_new_tokens, seed, prefill_chunk, output: as of RecallProbe; no lengths, no probe.
    restore: a method of Snapshot.restore, or none; anchor, ridge, layers, parts, biases, qk_norm go with it.
    at: which of start, evaluate, end, restored are measured. tokenizer: the trainer's processing_class unless given.

    In the trainer's own log (log_history, and whatever it reports to): recall/<task>/<length> at start, evaluations and end,
    recall_restored/<task>/<length> after the restore, as shares; restore/residual_before and restore/residual_after, the distance of
    W_Q and W_K from the tuned ones, if put back as they were and as restored, mean over layers. An evaluation's metrics also get
    eval_recall/<task>/<length>, so that metric_for_best_model can name one.
    Afterwards: .snapshot, .probe (rows, summary()), .report (what restore.json holds).

    A resumed run needs the first run's snapshot: it is kept in the output folder. ValueError at the start, before a step is trained, if
    the model or the options cannot be served; sharded weights (FSDP, ZeRO-3) are refused. Under data parallelism each rank does the same.
    """

    def __init__(self, *, lengths: Sequence[int] = (), restore: str = "procrustes", anchor: Optional[float] = None, ridge: Optional[float] = None,
                 layers: Layers = "softmax", parts: str = "qk", biases: bool = True, qk_norm: bool = False,
                 at: Sequence[str] = ("start", "evaluate", "end", "restored"), tokenizer: Any = None, **probe_options: Any):
        unknown = set(at) - {"start", "evaluate", "end", "restored"}
        if unknown:
            raise ValueError(f"at: must hold start, evaluate, end or restored, got {sorted(unknown)}")
        self.method, self.at, self.tokenizer = restore, set(at), tokenizer
        options = {"anchor": anchor, "ridge": ridge, "layers": layers, "parts": parts, "biases": biases, "qk_norm": qk_norm}
        self.restore_options = {key: value for key, value in options.items() if value is not None}
        self.probe_options = {"lengths": list(lengths), **probe_options}
        self.snapshot: Optional[Snapshot] = None
        self.probe: Optional[RecallProbe] = None
        self.report: Optional[dict] = None
        self._measured_at: Optional[int] = None  # the step of the last measurement, while the weights are still those

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        if getattr(args, "fsdp", None) or (getattr(args, "hf_deepspeed_config", None) is not None and args.hf_deepspeed_config.is_zero3()):
            raise ValueError("RecallCallback: the weights must be whole on each rank, got FSDP or ZeRO-3; restore the saved folders with the "
                             "program qk-restore instead")
        self.report = self._measured_at = None
        self.snapshot = self._take_snapshot(args, state, model)
        reason = self.snapshot.refusal(self.method, **self.restore_options)
        if reason:
            raise ValueError("RecallCallback: " + reason)
        self._make_probe(state, model, processing_class)
        if "start" in self.at and state.global_step == 0:
            self._measure("start", state)

    def on_step_end(self, args, state, control, **kwargs):
        self._measured_at = None

    def on_evaluate(self, args, state, control, metrics=None, model=None, processing_class=None, **kwargs):
        if "evaluate" not in self.at:
            return
        self._make_probe(state, model, processing_class)
        rates = self._measure(f"step-{state.global_step}" if self.report is None else "restored", state)
        if metrics is not None:
            metrics.update({f"eval_recall/{cell}": rate for cell, rate in rates.items()})

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if "end" in self.at:
            self._measure("end", state)
        self.report = self.snapshot.restore(self.method, **self.restore_options)
        if self.method != "none":
            self._measured_at = None
        layers = self.report["layers"]
        if layers:
            mean = {key: sum(layer[key] for layer in layers) / len(layers) for key in ("residual_before", "residual_after")}
            self._log(state, {f"restore/{key}": value for key, value in mean.items()})
        if "restored" in self.at:
            self._measure("restored", state)

    def _take_snapshot(self, args, state, model) -> Snapshot:
        path = pathlib.Path(args.output_dir) / _SNAPSHOT_FILE
        keep = {key: self.restore_options[key] for key in ("layers", "parts")}
        if state.global_step > 0:
            if not path.is_file():
                raise ValueError(f"{path}: must hold the weights from before step 1 of a run that is resumed at step {state.global_step}, got no file")
            return Snapshot.load(path, model)
        snapshot = Snapshot(model, method=self.method, **keep)
        if state.is_world_process_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            snapshot.save(path)
        return snapshot

    def _make_probe(self, state, model, processing_class) -> None:
        if self.probe is not None or not self.probe_options["lengths"]:
            return
        tokenizer = self.tokenizer or processing_class
        if tokenizer is None:
            raise ValueError("RecallCallback: a tokenizer must be given, here or as the trainer's processing_class, got none")
        alone = {} if state.is_world_process_zero else {"output": None}  # one rank writes the file
        self.probe = RecallProbe(model, tokenizer, **{**self.probe_options, **alone})

    def _measure(self, stage: str, state) -> dict[str, float]:
        if self.probe is None:
            return {}
        step = state.global_step
        rates = self.probe.repeat(stage, step) if self._measured_at == step else self.probe.measure(stage, step)
        self._measured_at = step
        name = "recall_restored" if stage == "restored" else "recall"
        self._log(state, {f"{name}/{cell}": rate for cell, rate in rates.items()})
        return rates

    @staticmethod
    def _log(state, logs: dict[str, float]) -> None:
        trainer = _trainer_of_this_call()
        if trainer is None:
            state.log_history.append({**logs, "step": state.global_step})
        else:
            trainer.log(logs)
