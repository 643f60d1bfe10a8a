#!/usr/bin/env python3
"""Fine-tunes examples/amnesia once a seed, restores it by every method, measures recall, task accuracy and held-out loss of each.

    python3 examples/amnesia/table.py run runs/amnesia --seeds 1-10                 (--jobs N at once; --set optim.lr=5e-4 for another arm)
    python3 examples/amnesia/table.py show runs/amnesia                             the tables, as Markdown
    python3 examples/amnesia/table.py sweep runs/amnesia runs/amnesia-lr5e-4 ...    one line a folder

A seed is one `sft-train --qk-restore auto`, whose candidates are all the methods: candidates.jsonl has each prompt's hit, restore.json each
held-out loss. Recall is of the prompts of auto's first half, the same for every method and seed; the row `auto` is what it chose by
them, measured on the other half. Accuracy is `niah-probe --prompts` on what `qk-restore` made of the tuned model. What is there
already is not done again.
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
import threading

HERE = pathlib.Path(__file__).resolve().parent
CANDIDATES = ["none", "plain", "procrustes:0.01", "procrustes:0.1", "procrustes:0", "procrustes:1", "procrustes-head", "qk-pro", "lerp:0.5",
              "q", "k", "qkv"]
T_975 = [0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]  # Student's t by degrees


class Runner:
    def __init__(self, args):
        self.args, self.out = args, pathlib.Path(args.folder)
        self.gate = threading.Semaphore(args.jobs)

    def call(self, log, program, *words):
        """Runs a program with its output in `log`; True if it ended well."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with self.gate, open(log, "w", encoding="utf-8") as sink:
            code = subprocess.run([str(pathlib.Path(self.args.bin) / program), *map(str, words)], stdout=sink, stderr=subprocess.STDOUT).returncode
        if code != 0:
            print(f"{program} failed with {code}, see {log}", file=sys.stderr, flush=True)
        return code == 0

    def train(self, folder, seed, *sets):
        if (folder / "summary.json").exists():
            return True
        return self.call(folder.with_suffix(".log"), "sft-train", "--config", self.args.config, "--qk-restore", "auto", "--set",
                         f"model.path={self.args.model}", f"train.seed={seed}", f"output={folder}", "save_sft_model=true", "log.progress=off", *sets, *self.args.set)

    def accuracy(self, model, file):
        if self.args.problems and not file.exists():
            self.call(file.with_suffix(".log"), "niah-probe", "--model", model, "--prompts", HERE / "problems.jsonl", "--mode", "chat",
                      "--samples", self.args.problems, "--max-new-tokens", 96, "--output", file, "--device", "cpu", "--dtype", "float32")

    def method(self, seed_folder, base, method):
        name, _, anchor = method.partition(":")
        file, model = seed_folder / f"task-{method}.jsonl", seed_folder / f"model-{method}"
        if file.exists():
            return
        words = [name, "--anchor", anchor] if name == "procrustes" and anchor else [method]
        if self.call(seed_folder / f"restore-{method}.log", "qk-restore", "--base", base, "--tuned", seed_folder / "auto" / "model-sft", "--out", model,
                     "--method", *words):
            self.accuracy(model, file)
            shutil.rmtree(model)

    def seed(self, seed, pool):
        folder = self.out / f"seed-{seed}"
        every = "qk_restore.candidates=[" + ", ".join(self.args.candidates) + "]"
        if not self.train(folder / "auto", seed, every):
            return
        later = []
        if self.args.freeze and self.train(folder / "freeze", seed, "qk_restore.candidates=[none]", "train.freeze_qk=true"):
            later.append(pool.submit(self.accuracy, folder / "freeze" / "model-sft", folder / "task-freeze_qk.jsonl"))
        for method in self.args.answer if self.args.problems else []:
            later.append(pool.submit(self.method, folder, self.args.model, method))
        concurrent.futures.wait(later)

    def run(self):
        self.out.mkdir(parents=True, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(64) as seeds, concurrent.futures.ThreadPoolExecutor(64) as pool:
            for done in [seeds.submit(self.seed, seed, pool) for seed in self.args.seeds]:
                done.result()
        if self.args.problems and not (self.out / "task-start.jsonl").exists():
            self.accuracy(self.args.model, self.out / "task-start.jsonl")


def rows_of(file):
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


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
        self.chosen, self.other = auto["chosen"], auto["other_half"]
        self.loss = {one["candidate"]: one.get("held_out_loss") for one in auto["candidates"]}
        rows = rows_of(folder / "auto" / "candidates.jsonl")
        self.rows = collections.defaultdict(list)
        for row in rows:
            if row["index"] % 2 == 0:
                self.rows[row["stage"]].append(row)
        for row in rows_of(folder / "auto" / "probe.jsonl"):
            if row["stage"] == "start" and row["index"] % 2 == 0:
                self.rows["start"].append(row)
        if (folder / "freeze" / "restore.json").exists():
            frozen = json.loads((folder / "freeze" / "restore.json").read_text("utf-8"))["auto"]
            self.loss["freeze_qk"] = frozen["candidates"][0]["held_out_loss"]
            self.rows["freeze_qk"] = [r for r in rows_of(folder / "freeze" / "probe.jsonl") if r["stage"] == "end" and r["index"] % 2 == 0]
        self.task = {file.stem[5:]: rate(rows_of(file)) for file in folder.glob("task-*.jsonl")}
        other_chosen = self.other.get("chosen", self.other["none"])
        self.auto_gain = other_chosen["recall"] - self.other["none"]["recall"]

    def recall(self, method):
        return rate(self.rows.get(method, []))


def mean_text(values, scale=100, digits=1, sign=False):
    """"61.2 ± 5.0": mean and the half width of Student's 95 % interval over seeds."""
    values = [scale * v for v in values if v is not None]
    if not values:
        return "–"
    mean = sum(values) / len(values)
    text = f"{mean:{'+' if sign else ''}.{digits}f}"
    if len(values) < 2:
        return text
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{text} ± {T_975[min(len(values) - 1, 15)] * spread / math.sqrt(len(values)):.{digits}f}"


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "|".join(["---"] + ["--:"] * (len(head) - 1)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def load(folder):
    found = sorted(pathlib.Path(folder).glob("seed-*/auto/restore.json"), key=lambda f: int(f.parts[-3].split("-")[1]))
    return [Seed(file.parent.parent) for file in found]


def show(folder):
    seeds = load(folder)
    methods = ["start"] + [m for m in CANDIDATES if any(seed.rows.get(m) for seed in seeds)] + ["freeze_qk"]
    methods = [m for m in methods if any(seed.rows.get(m) for seed in seeds)]
    lengths = sorted({row["length"] for row in seeds[0].rows["none"]})
    start_task = rate(rows_of(pathlib.Path(folder) / "task-start.jsonl"))
    print(f"{len(seeds)} seeds, {len(seeds[0].rows['none'])} prompts a seed and method. Mean over seeds ± half of Student's 95 % interval.\n")
    table(["method", *(f"recall at {n:,}" for n in lengths), "all lengths", "task accuracy", "held-out loss"],
          [[f"`{m}`" if m != "start" else "before fine-tuning",
            *(mean_text([by_length(s.rows[m]).get(n) for s in seeds if s.rows.get(m)]) for n in lengths), mean_text([s.recall(m) for s in seeds]),
            mean_text([s.task.get(m) for s in seeds]) if m != "start" else mean_text([start_task]),
            mean_text([s.loss.get(m) for s in seeds], 1, 4)] for m in methods])
    print("Paired differences over seeds, in points; in how many seeds the recall was higher, lower.\n")

    def differences(name, first, second):
        both = [s for s in seeds if s.recall(first) is not None and s.recall(second) is not None]
        recall = [s.recall(first) - s.recall(second) for s in both]
        tasks = [s.task[first] - s.task[second] for s in both if s.task.get(first) is not None and s.task.get(second) is not None]
        loss = [s.loss[first] / s.loss[second] - 1 for s in both if s.loss.get(first) and s.loss.get(second)]
        longest = [by_length(s.rows[first])[lengths[-1]] - by_length(s.rows[second])[lengths[-1]] for s in both]
        return [name, mean_text(recall, sign=True), mean_text(longest, sign=True), f"{sum(r > 0 for r in recall)}, {sum(r < 0 for r in recall)}",
                mean_text(tasks, sign=True), mean_text(loss, sign=True, digits=2) + (" %" if loss else "")]

    pairs = [(f"`{m}` − `none`", m, "none") for m in methods if m not in ("start", "none")]
    pairs += [(f"`{m}` − `plain`", m, "plain") for m in methods if m.startswith("procrustes") or m == "qk-pro"]
    table(["", "recall", f"recall at {lengths[-1]:,}", "higher, lower", "task accuracy", "held-out loss"], [differences(*p) for p in pairs])
    print("Every seed: recall over all lengths (accuracy) in percent, and what `auto` chose and gained on the half that it did not choose by.\n")
    cell = lambda s, m: "–" if s.recall(m) is None else f"{100 * s.recall(m):.0f}" + ("" if s.task.get(m) is None else f" ({100 * s.task[m]:.0f})")
    table(["seed", *methods, "auto chose", "and gained"],
          [[s.name, *(cell(s, m) for m in methods), f"`{s.chosen}`", f"{100 * s.auto_gain:+.1f}"] for s in seeds])
    chose = collections.Counter(s.chosen for s in seeds)
    print("`auto` chose " + ", ".join(f"`{m}` {n} times" for m, n in chose.most_common()) +
          f"; gained on the other half: {mean_text([s.auto_gain for s in seeds], sign=True)} points.")


def sweep(folders):
    methods = ["start", "none", "plain", "procrustes:0.01", "procrustes:0.1", "qkv", "freeze_qk"]
    rows = []
    for folder in folders:
        seeds = load(folder)
        rows.append([pathlib.Path(folder).name, str(len(seeds)), *(mean_text([s.recall(m) for s in seeds]) for m in methods),
                     mean_text([s.recall("plain") - s.recall("none") for s in seeds], sign=True), mean_text([s.loss["none"] for s in seeds], 1, 4),
                     mean_text([s.loss["plain"] / s.loss["none"] - 1 for s in seeds], sign=True, digits=2) + " %"])
    table(["arm", "seeds", *methods, "plain − none", "held-out loss", "plain's cost"], rows)


def seed_list(text):
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("folder")
    run.add_argument("--seeds", type=seed_list, default=seed_list("1-10"))
    run.add_argument("--bin", default="build/bin")
    run.add_argument("--config", default="examples/amnesia/sft.yaml")
    run.add_argument("--model", default="examples/amnesia/model")
    run.add_argument("--problems", type=int, default=200, help="held-out problems a model answers; 0: none")
    run.add_argument("--answer", nargs="+", default=CANDIDATES, metavar="METHOD", help="methods whose accuracy is measured")
    run.add_argument("--candidates", nargs="+", default=CANDIDATES, metavar="METHOD")
    run.add_argument("--jobs", type=int, default=1, help="processes at once")
    run.add_argument("--no-freeze", dest="freeze", action="store_false")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    commands.add_parser("show").add_argument("folder")
    commands.add_parser("sweep").add_argument("folders", nargs="+")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if args.command == "run":
        Runner(args).run()
    elif args.command == "show":
        show(args.folder)
    else:
        sweep(args.folders)


if __name__ == "__main__":
    main()
