"""RecallCallback inside transformers.Trainer and TRL's SFTTrainer, and RecallProbe against the niah-probe program."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from conftest import BUILD, ROOT
from tiny_models import make, tokenizer

import qk_restore
from qk_restore.hf import RecallCallback

PROBE = dict(lengths=[256], tasks=["niah_single_1", "niah_multivalue"], samples=2, max_new_tokens=24)
CELLS = ["niah_single_1/256", "niah_multivalue/256"]


class Rows(torch.utils.data.Dataset):
    """Ten rows of sixteen tokens."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        ids = torch.arange(16) * 7 % 2000 + index
        return {"input_ids": ids, "labels": ids}


def trainer(tmp_path, callback, model=None, **arguments):
    options = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-2, "report_to": "none", "disable_tqdm": True,
               "logging_steps": 1, "save_strategy": "no", "use_cpu": not torch.cuda.is_available(), **arguments}
    return transformers.Trainer(model=model or make("llama"), args=transformers.TrainingArguments(tmp_path / "run", **options),
                                train_dataset=Rows(), eval_dataset=Rows(), processing_class=tokenizer(),
                                callbacks=[callback] if callback else [])


def logged(trained, key):
    return [(row["step"], row[key]) for row in trained.state.log_history if key in row]


def q_weights(model):
    return [layer.self_attn.q_proj.weight.detach().cpu().clone() for layer in model.model.layers]


class Reported(transformers.TrainerCallback):
    """What a reporting integration (TensorBoard, wandb) gets to see."""

    def __init__(self):
        self.keys = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.keys += list(logs)


def test_a_trainer_from_start_to_restored(tmp_path, monkeypatch):
    measured, measure = [], qk_restore.RecallProbe.measure
    monkeypatch.setattr(qk_restore.RecallProbe, "measure", lambda self, stage, *rest: measured.append(stage) or measure(self, stage, *rest))
    callback, reported = RecallCallback(restore="plain", output=str(tmp_path / "probe.jsonl"), **PROBE), Reported()
    run = trainer(tmp_path, callback, eval_strategy="steps", eval_steps=2)
    run.add_callback(reported)
    before, value = q_weights(run.model), run.model.model.layers[0].self_attn.v_proj.weight.detach().cpu().clone()
    run.train()
    assert all(torch.equal(a, b) for a, b in zip(before, q_weights(run.model)))
    assert not torch.equal(value, run.model.model.layers[0].self_attn.v_proj.weight.cpu())
    for cell in CELLS:
        assert [step for step, _ in logged(run, f"recall/{cell}")] == [0, 2, 4, 4]  # start, two evaluations, end
        assert [step for step, _ in logged(run, f"recall_restored/{cell}")] == [4]
    assert logged(run, "restore/residual_before")[0][1] > 0.01
    assert logged(run, "restore/residual_after") == logged(run, "restore/residual_before")  # plain is a plain copy
    assert callback.report["method"] == "plain" and len(callback.report["layers"]) == 3
    rows = [json.loads(line) for line in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows[::4]] == ["start", "step-2", "step-4", "end", "restored"] and len(rows) == 20
    assert len({row["id"] for row in rows}) == 4  # the same prompts each time
    assert measured == ["start", "step-2", "step-4", "restored"]  # the end is what step 4 was: not measured twice
    times = {stage: [row["seconds"] for row in rows if row["stage"] == stage] for stage in ("step-4", "end")}
    assert times["end"] == times["step-4"]
    assert {f"recall/{CELLS[0]}", f"recall_restored/{CELLS[0]}", "restore/residual_after"} <= set(reported.keys)
    changes = callback.probe.summary()["changes"]
    assert {(c["before"], c["after"]) for c in changes} >= {("start", "restored"), ("end", "restored")}
    saved = tmp_path / "saved"
    run.save_model(str(saved))
    assert all(torch.equal(a, b) for a, b in zip(before, q_weights(transformers.AutoModelForCausalLM.from_pretrained(saved))))


def test_watching_does_not_change_the_training(tmp_path):
    """Dropout and shuffling draw the same numbers, gradients and modes are left alone: the losses agree to the bit."""
    runs = []
    for name, callback in (("plain", None), ("watched", RecallCallback(restore="none", **PROBE))):
        torch.manual_seed(3)
        run = trainer(tmp_path / name, callback, make("llama", attention_dropout=0.3), eval_strategy="steps", eval_steps=2)
        run.train()
        runs.append((logged(run, "loss"), q_weights(run.model)))
    assert runs[0][0] == runs[1][0] and len(runs[0][0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1]))


def test_the_best_model_by_recall_is_what_goes_on(tmp_path):
    callback = RecallCallback(restore="lerp:0.5", **PROBE)
    run = trainer(tmp_path, callback, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, load_best_model_at_end=True,
                  metric_for_best_model="eval_recall/" + CELLS[0], greater_is_better=True)
    run.train()
    assert run.state.best_metric == 0.0 and run.state.best_model_checkpoint.endswith("checkpoint-2")
    assert callback.report["blend"] == 0.5


def test_a_resumed_run_restores_what_was_before_its_first_step(tmp_path):
    first = trainer(tmp_path, RecallCallback(restore="none"), save_strategy="steps", save_steps=2, max_steps=2)
    before = q_weights(first.model)
    first.train()
    second = trainer(tmp_path, RecallCallback(restore="plain"), save_strategy="no", max_steps=4)
    second.train(resume_from_checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(before, q_weights(second.model)))
    (tmp_path / "run" / "qk_restore_snapshot.pt").unlink()
    with pytest.raises(ValueError, match="qk_restore_snapshot.pt: must hold the weights from before step 1 of a run that is resumed at step 2"):
        trainer(tmp_path, RecallCallback(restore="plain"), max_steps=4).train(resume_from_checkpoint=True)


REFUSED = [
    (dict(restore="procrustes-heads"), "method: must be one of none, plain"),
    (dict(lengths=[256], tasks=["niah_single_9"]), "tasks: must be"),
    (dict(lengths=[70], max_new_tokens=64), "70"),
    (dict(restore="plain", layers=[9]), "layers: must name layers of"),
]


@pytest.mark.parametrize("options,text", REFUSED, ids=[r[1] for r in REFUSED])
def test_what_cannot_work_is_said_before_the_first_step(tmp_path, options, text):
    run = trainer(tmp_path, RecallCallback(**options))
    with pytest.raises(ValueError, match=text):
        run.train()
    assert run.state.global_step == 0


def test_options_of_the_callback_itself():
    with pytest.raises(ValueError, match="at: must hold start, evaluate, end or restored, got .*'middle'"):
        RecallCallback(at=["middle"])


def test_trl_sft_trainer(tmp_path):
    import datasets
    import trl

    text = [{"text": f"Question {i}: how much is {i} and {i}? Answer: {2 * i}."} for i in range(8)]
    arguments = trl.SFTConfig(tmp_path / "run", max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none",
                              logging_steps=2, save_strategy="no", eval_strategy="steps", eval_steps=1, max_length=32, bf16=False,
                              gradient_checkpointing=True, disable_tqdm=True, use_cpu=not torch.cuda.is_available())
    callback = RecallCallback(restore="procrustes", reading="teacher_forced", **PROBE)
    data = datasets.Dataset.from_list(text)
    words = tokenizer()
    words.pad_token = words.pad_token or words.eos_token
    run = trl.SFTTrainer(make("qwen3"), args=arguments, train_dataset=data, eval_dataset=data, processing_class=words, callbacks=[callback])
    run.train()
    assert [step for step, _ in logged(run, "recall/" + CELLS[0])] == [0, 1, 2, 2]
    assert [step for step, _ in logged(run, "loss")] == [2]
    assert [step for step, _ in logged(run, "mean_token_accuracy")] == [2]  # TRL's averages wait for their own row
    assert callback.report["method"] == "procrustes" and all(layer["rotation"] > 0 for layer in callback.report["layers"])
    assert callback.probe.rows[0]["reading"] == "teacher_forced" and callback.probe.rows[0]["answer_tokens"] > 0


def test_two_ranks_restore_alike_and_one_writes(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", ROOT / "tests/python/two_ranks.py", tmp_path]
    path = os.pathsep.join([str(ROOT / "ops/python"), str(ROOT / "tests/python")])
    done = subprocess.run(list(map(str, command)), env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    stages = [json.loads(line)["stage"] for line in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert stages == ["start", "start", "end", "end", "restored", "restored"]


def program_rows(tmp_path, model, *flags):
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    output = tmp_path / "rows.jsonl"
    command = [BUILD / "bin" / "niah-probe", "--model", tmp_path / "model", "--output", output, "--dtype", "float32", "--device", "cpu",
               "--tasks", *PROBE["tasks"], "--lengths", 256, "--samples", 2, "--max-new-tokens", 24, *flags]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("reading", ["generate", "teacher_forced"])
def test_the_probe_measures_what_the_program_measures(tmp_path, reading):
    model = make("llama")
    want = program_rows(tmp_path, model, "--reading", reading)
    probe = qk_restore.RecallProbe(model, tokenizer(), reading=reading, prefill_chunk=50, **PROBE)
    probe.measure("end")
    assert len(probe.rows) == len(want) == len(probe)
    same = ["id", "task", "depth", "prompt_tokens", "outputs", "prediction", "score", "hit", "null", "generated_tokens", "stopped", "dtype",
            "haystack_sha256", "max_new_tokens"]
    if reading == "teacher_forced":
        same += ["answer_tokens", "answer_rank"]
    for row, other in zip(probe.rows, want):
        assert {k: row[k] for k in same} == {k: other[k] for k in same}
        if reading == "teacher_forced":
            assert row["answer_logprob"] == pytest.approx(other["answer_logprob"], abs=1e-4)


def test_decoding_goes_on_from_the_model_s_cache():
    model, lengths = make("llama"), []
    model.register_forward_pre_hook(lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    probe = qk_restore.RecallProbe(model, tokenizer(), prefill_chunk=100, **PROBE)
    probe._measure_one(0, "end", 0)
    assert sum(lengths[:3]) == len(probe.prompt_ids(0)) and lengths[:2] == [100, 100]
    assert len(lengths) > 4 and set(lengths[3:]) == {1}


def test_a_model_that_finds_the_needle_is_seen_to(tmp_path):
    """The hit path: a model of which the next token is always the answer's."""
    words = tokenizer()
    probe = qk_restore.RecallProbe(make("llama"), words, **PROBE)
    row = json.loads(probe._probe.result(0, [], 0.0, "end", 0))
    answer = words(" " + row["outputs"][0], add_special_tokens=False)["input_ids"]
    assert not probe._probe.is_finished(0, answer[:1]) and probe._probe.is_finished(0, answer)
    found = json.loads(probe._probe.result(0, answer, 0.5, "end", 3))
    assert found["hit"] and found["score"] == 100 and found["stopped"] == "value" and found["step"] == 3 and found["seconds"] == 0.5


def test_the_tokenizer_s_truncation_does_not_cut_prompts():
    cut = tokenizer()
    cut(["a b c"], truncation=True, max_length=8)  # as a collator does: it stays switched on
    probes = [qk_restore.RecallProbe(make("llama"), words, **PROBE) for words in (tokenizer(), cut)]
    assert [p.prompt_ids(0).tolist() for p in probes][0] == probes[1].prompt_ids(0).tolist()
    assert len(probes[1].prompt_ids(0)) > 100


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="tokenizer: must be a fast one"):
        qk_restore.RecallProbe(make("llama"), Slow(), **PROBE)
