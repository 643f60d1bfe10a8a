#!/usr/bin/env python3
"""Fine-tunes examples/amnesia once a seed, restores it by every method, measures recall, task accuracy and held-out loss of each.

    python3 examples/amnesia/table.py run runs/amnesia --seeds 1-8            every arm (--arms short long for two; --jobs N trainings at once)
    python3 examples/amnesia/table.py show runs/amnesia/short                 the tables of an arm, as Markdown
    python3 examples/amnesia/table.py sweep runs/amnesia                      one line an arm

An arm is a way of fine-tuning (ARMS below). A seed of it is one `sft-train --qk-restore auto`, whose candidates are all the methods:
candidates.jsonl has each prompt's hit, restore.json each held-out loss. Recall is of the prompts of auto's first half, the same for
every method, seed and arm; the row `auto` is what it chose by them, measured on the other half. Accuracy is `niah-probe --prompts` on what
`qk-restore` made of the tuned model. What is there already is not done again.
"""
import argparse
import collections
import concurrent.futures
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
METHODS = ["none", "plain", "procrustes:0", "procrustes:0.01", "procrustes:0.1", "procrustes:1", "procrustes-head", "qk-pro", "lerp:0.5",
           "q", "k", "qkv"]
FEW = ["none", "plain", "procrustes:0.01"]
T_975 = [0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]  # Student's t by degrees


def tuned(lr, steps, tokens=2048):
    return [f"optim.lr={lr}", f"train.max_steps={steps}", f"train.tokens_per_step={tokens}", f"train.micro_batch_tokens={tokens}"]


def kept(*patterns):
    return ["train.freeze=[" + ", ".join(f'"{pattern}"' for pattern in patterns) + "]"]


# What differs from sft.yaml (1e-3, 150 steps of 2,048 tokens, all layers). Softmax attention is in layers 2 and 5 of 8; where they are
# frozen a restore has nothing to put back.
ARMS = {
    "short": [],
    "long": tuned("5e-4", 600, 4096),
    "lr-3e-4": tuned("3e-4", 150), "lr-5e-4": tuned("5e-4", 150), "lr-7e-4": tuned("7e-4", 150), "lr-2e-3": tuned("2e-3", 150),
    "train-last-half": kept("model.embed_tokens.*", "model.layers.[0-3].*"),
    "train-last-quarter": kept("model.embed_tokens.*", "model.layers.[0-5].*"),
    "train-softmax-blocks": kept("model.embed_tokens.*", "model.norm.*", "model.layers.[013467].*"),
    "train-linear-blocks": kept("model.embed_tokens.*", "model.norm.*", "model.layers.[25].*"),
    "train-all-but-embedding": kept("model.embed_tokens.*"),
    "steps-75": tuned("1e-3", 75), "steps-300": tuned("1e-3", 300), "steps-600": tuned("1e-3", 600),
}
WHOLE = ["short", "long"]  # every method, and freeze_qk
UNMOVED = ["train-last-quarter", "train-linear-blocks"]


class Runner:
    """Trainings wait in one line, what follows them on the CPU in another."""

    def __init__(self, args):
        self.args, self.out = args, pathlib.Path(args.folder)
        self.trainings = concurrent.futures.ThreadPoolExecutor(args.jobs)
        self.answers = concurrent.futures.ThreadPoolExecutor(args.cpu_jobs)
        self.later, self.failed = [], 0

    def call(self, log, threads, program, *words):
        """Runs a program with its output in `log`; True if it ended well."""
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads)) if threads else None
        with open(log, "w", encoding="utf-8") as sink:
            code = subprocess.run([str(pathlib.Path(self.args.bin) / program), *map(str, words)], stdout=sink, stderr=subprocess.STDOUT,
                                  env=environment).returncode
        if code != 0:
            self.failed += 1
            print(f"{program} failed with {code}, see {log}", file=sys.stderr, flush=True)
        return code == 0

    def train(self, folder, seed, *sets):
        if (folder / "summary.json").exists():
            return True
        return self.call(folder.with_suffix(".log"), self.args.threads, "sft-train", "--config", self.args.config, "--qk-restore", "auto", "--set",
                         f"model.path={self.args.model}", f"train.seed={seed}", f"output={folder}", "save_sft_model=true", "log.progress=off",
                         "probe.at=[end]", *sets, *self.args.set)

    def accuracy(self, model, file):
        if self.args.problems and not file.exists():
            self.call(file.with_suffix(".log"), 1, "niah-probe", "--model", model, "--prompts", HERE / "problems.jsonl", "--mode", "chat",
                      "--samples", self.args.problems, "--max-new-tokens", 96, "--output", file, "--device", "cpu", "--dtype", "float32")

    def method(self, folder, method):
        name, _, anchor = method.partition(":")
        file, model, sft = folder / f"task-{method}.jsonl", folder / f"model-{method}", folder / "auto" / "model-sft"
        if file.exists():
            return
        if method == "none":
            return self.accuracy(sft, file)
        words = [name, "--anchor", anchor] if name == "procrustes" and anchor else [method]
        if self.call(folder / f"restore-{method}.log", 1, "qk-restore", "--base", self.args.model, "--tuned", sft, "--out", model,
                     "--method", *words):
            self.accuracy(model, file)
            shutil.rmtree(model)

    def then(self, work, *words):
        if self.args.problems:
            self.later.append(self.answers.submit(work, *words))

    def seed(self, arm, seed):
        folder = self.out / arm / f"seed-{seed}"
        methods = METHODS if arm in WHOLE else FEW
        if self.train(folder / "auto", seed, *ARMS[arm], "qk_restore.candidates=[" + ", ".join(methods) + "]"):
            for method in ["none"] if arm in UNMOVED else methods:
                self.then(self.method, folder, method)

    def seed_frozen(self, arm, seed):
        folder = self.out / arm / f"seed-{seed}"
        if self.train(folder / "freeze_qk", seed, *ARMS[arm], "qk_restore.candidates=[none]", "train.freeze_qk=true"):
            self.then(self.accuracy, folder / "freeze_qk" / "model-sft", folder / "task-freeze_qk.jsonl")

    def start(self):
        """The base model on the same prompts."""
        file = self.out / "start.jsonl"
        if not file.exists():
            self.call(file.with_suffix(".log"), 0, "niah-probe", "--model", self.args.model, "--lengths", 1024, 4096, 8192, "--samples", 24,
                      "--haystack", HERE / "haystack.txt", "--reading", "teacher_forced", "--output", file)
        self.accuracy(self.args.model, self.out / "task-start.jsonl")

    def run(self):
        """Seed by seed within the arms of a kind, so that what is cut off has as many seeds in each arm."""
        self.out.mkdir(parents=True, exist_ok=True)
        work = [self.trainings.submit(self.start)] if self.args.start else []
        for arm in [arm for arm in self.args.arms if arm in WHOLE]:
            work += [self.trainings.submit(self.seed, arm, seed) for seed in self.args.seeds]
            work += [self.trainings.submit(self.seed_frozen, arm, seed) for seed in self.args.seeds if self.args.freeze_qk]
        work += [self.trainings.submit(self.seed, arm, seed) for seed in self.args.seeds for arm in self.args.arms if arm not in WHOLE]
        for done in work:
            done.result()
        for done in self.later:
            done.result()
        if self.failed:
            sys.exit(f"{self.failed} programs failed")


def rows_of(file):
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def first_half(rows, stage=None):
    return [row for row in rows if row["index"] % 2 == 0 and stage in (None, row["stage"])]


def by_length(rows):
    cells = collections.defaultdict(list)
    for row in rows:
        cells[row["length"]].append(row["hit"])
    return {length: sum(hits) / len(hits) for length, hits in sorted(cells.items())}


def rate(rows):
    return sum(row["hit"] for row in rows) / len(rows) if rows else None


class Seed:
    """One seed's numbers: of each method recall by length, over all, accuracy and held-out loss."""

    def __init__(self, folder):
        self.name = folder.name.split("-")[1]
        auto = json.loads((folder / "auto" / "restore.json").read_text("utf-8"))["auto"]
        self.chosen = auto["chosen"]
        self.loss = {one["candidate"]: one.get("held_out_loss") for one in auto["candidates"]}
        rows = rows_of(folder / "auto" / "candidates.jsonl")
        self.rows = {method: first_half(rows, method) for method in self.loss}
        other = [row for row in rows if row["index"] % 2 == 1]
        self.rows["auto"] = [row for row in other if row["stage"] == self.chosen]
        self.other_none = [row for row in other if row["stage"] == "none"]
        frozen = folder / "freeze_qk"
        if (frozen / "restore.json").exists():
            self.loss["freeze_qk"] = json.loads((frozen / "restore.json").read_text("utf-8"))["auto"]["candidates"][0]["held_out_loss"]
            self.rows["freeze_qk"] = first_half(rows_of(frozen / "probe.jsonl"), "end")
        self.task = {file.stem[5:]: rate(rows_of(file)) for file in folder.glob("task-*.jsonl")}
        for numbers in (self.loss, self.task):
            numbers["auto"] = numbers.get(self.chosen)

    def recall(self, method):
        return rate(self.rows.get(method, []))

    def difference(self, first, second, length=None):
        """In recall; auto's on the prompts that it did not choose by."""
        pair = (self.rows.get(first), self.other_none if first == "auto" else self.rows.get(second))
        if not all(pair):
            return None
        one, two = ([row for row in rows if length in (None, row["length"])] for rows in pair)
        return rate(one) - rate(two)

    def task_difference(self, first, second):
        one, two = self.task.get(first), self.task.get(second)
        return None if one is None or two is None else one - two

    def loss_difference(self, first, second):
        one, two = self.loss.get(first), self.loss.get(second)
        return one / two - 1 if one and two else None


def mean_text(values, scale=100, digits=1, sign=False, unit=""):
    """"61.2 ± 5.0": mean and the half width of Student's 95 % interval over seeds."""
    values = [scale * v for v in values if v is not None]
    if not values:
        return "–"
    mean = sum(values) / len(values)
    text = f"{mean:{'+' if sign else ''}.{digits}f}"
    if len(values) > 1:
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        text += f" ± {T_975[min(len(values) - 1, 15)] * spread / math.sqrt(len(values)):.{digits}f}"
    return text.replace("-", "−") + unit


def up_down(values):
    values = [v for v in values if v is not None]
    return f"{sum(v > 0 for v in values)}, {sum(v < 0 for v in values)}"


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "|".join(["---"] + ["--:"] * (len(head) - 1)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def load(folder):
    found = sorted(pathlib.Path(folder).glob("seed-*/auto/restore.json"), key=lambda f: int(f.parts[-3].split("-")[1]))
    return [Seed(file.parent.parent) for file in found]


def load_some(folder):
    return load(folder) or sys.exit(f"{folder}: must hold a finished seed, got none")


def show(folder):
    seeds, above = load_some(folder), pathlib.Path(folder).parent
    methods = [m for m in METHODS + ["freeze_qk", "auto"] if any(seed.rows.get(m) for seed in seeds)]
    lengths = sorted({row["length"] for row in seeds[0].rows["none"]})
    problems = max([len(rows_of(file)) for file in pathlib.Path(folder).glob("seed-*/task-*.jsonl")] or [0])
    print(f"{len(seeds)} seeds; {len(seeds[0].rows['none'])} prompts and {problems} problems a seed and method. Mean over seeds ± half of Student's "
          "95 % interval.\n`auto`: what it chose, on the other half of the prompts.\n")
    start, task = first_half(rows_of(above / "start.jsonl")), rate(rows_of(above / "task-start.jsonl"))
    before = [f"{100 * by_length(start)[n]:.1f}" if n in by_length(start) else "–" for n in lengths]
    before += [f"{100 * rate(start):.1f}" if start else "–", "–" if task is None else f"{100 * task:.1f}", "–"]
    table(["method", *(f"recall at {n:,}" for n in lengths), "all lengths", "task accuracy", "held-out loss"],
          [["before fine-tuning", *before]] +
          [[f"`{m}`", *(mean_text([by_length(s.rows[m]).get(n) for s in seeds if s.rows.get(m)]) for n in lengths),
            mean_text([s.recall(m) for s in seeds]), mean_text([s.task.get(m) for s in seeds]), mean_text([s.loss.get(m) for s in seeds], 1, 4)] for m in methods])
    print("Paired differences over seeds, in points; in how many seeds recall and accuracy were higher, lower.\n")
    pairs = [(m, "none") for m in methods if m != "none"] + [(m, "plain") for m in methods if m not in ("none", "plain", "auto", "freeze_qk")]
    table(["", "recall", "higher, lower", f"recall at {lengths[-1]:,}", "task accuracy", "higher, lower", "held-out loss"],
          [[f"`{a}` − `{b}`", mean_text([s.difference(a, b) for s in seeds], sign=True), up_down([s.difference(a, b) for s in seeds]),
            mean_text([s.difference(a, b, lengths[-1]) for s in seeds], sign=True), mean_text([s.task_difference(a, b) for s in seeds], sign=True),
            up_down([s.task_difference(a, b) for s in seeds]), mean_text([s.loss_difference(a, b) for s in seeds], sign=True, digits=2, unit=" %")]
           for a, b in pairs])
    print("Every seed: recall over all lengths (accuracy) in percent, and what `auto` chose.\n")
    cell = lambda s, m: "–" if s.recall(m) is None else f"{100 * s.recall(m):.0f}" + ("" if s.task.get(m) is None else f" ({100 * s.task[m]:.0f})")
    table(["seed", *methods, "auto chose", "and gained"],
          [[s.name, *(cell(s, m) for m in methods), f"`{s.chosen}`", mean_text([s.difference("auto", "none")], sign=True)] for s in seeds])
    print("`auto` chose " + ", ".join(f"`{m}` {n} times" for m, n in collections.Counter(s.chosen for s in seeds).most_common()) + ".")


def sweep(folder):
    names = {"short": "`short`: 1e-3, 150 steps, all layers", "long": "`long`: 5e-4, 600 steps of 4,096 tokens"}
    arms = [(arm, load(pathlib.Path(folder) / arm)) for arm in ARMS]
    rows = []
    for arm, seeds in [(arm, seeds) for arm, seeds in arms if seeds]:
        name = names.get(arm, f"`{arm}`")
        recall = [mean_text([s.recall(m) for s in seeds]) for m in FEW]
        gains = [[s.difference(m, "none") for s in seeds] for m in FEW[1:]]
        gained = [f"{mean_text(gain, sign=True)} ({up_down(gain)})" for gain in gains]
        task = [mean_text([s.task.get(m) for s in seeds]) for m in FEW]
        cost = [mean_text([s.loss_difference(m, "none") for s in seeds], sign=True, digits=2, unit=" %") for m in FEW[1:]]
        rows.append(([name, str(len(seeds)), *recall, *gained], [name, *task, mean_text([s.loss["none"] for s in seeds], 1, 4), *cost]))
    print("Recall over all lengths in percent; gain over `none` in points (seeds higher, lower).\n")
    table(["arm", "seeds", "`none`", "`plain`", "`procrustes`", "`plain` − `none`", "`procrustes` − `none`"], [row[0] for row in rows])
    print("Task accuracy in percent, held-out loss, and what a restore adds to it.\n")
    table(["arm", "`none`", "`plain`", "`procrustes`", "held-out loss", "`plain`", "`procrustes`"], [row[1] for row in rows])
    print("Every seed: recall of `none`, `plain` and `procrustes` in percent.\n")
    count = max([len(seeds) for _, seeds in arms])
    table(["arm", *map(str, range(1, count + 1))],
          [[names.get(arm, f"`{arm}`"), *(" / ".join(f"{100 * s.recall(m):.0f}" for m in FEW) for s in seeds)] for arm, seeds in arms if seeds])


def seed_list(text):
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("folder")
    run.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    run.add_argument("--seeds", type=seed_list, default=seed_list("1-8"))
    run.add_argument("--bin", default="build/bin")
    run.add_argument("--config", default="examples/amnesia/sft.yaml")
    run.add_argument("--model", default="examples/amnesia/model")
    run.add_argument("--problems", type=int, default=50, help="held-out problems that a model answers; 0: none")
    run.add_argument("--jobs", type=int, default=1, help="trainings at once")
    run.add_argument("--cpu-jobs", type=int, default=1, help="models that answer problems at once, a core each")
    run.add_argument("--threads", type=int, default=0, help="of a training; 0: what the machine has")
    run.add_argument("--no-freeze-qk", dest="freeze_qk", action="store_false")
    run.add_argument("--no-start", dest="start", action="store_false", help="do not measure the base model")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for every arm, after its own")
    commands.add_parser("show").add_argument("folder")
    commands.add_parser("sweep").add_argument("folder")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    {"run": lambda: Runner(args).run(), "show": lambda: show(args.folder), "sweep": lambda: sweep(args.folder)}[args.command]()


if __name__ == "__main__":
    main()
