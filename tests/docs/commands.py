"""Every command that the documentation shows is run, or, where it needs what a test cannot have, at least read.

    commands.py SOURCE_DIR BUILD_DIR [--list] [FILE.md ...]

A fence of language `sh` is a list of commands, run in order in one scratch folder per page; the scratch folder looks like the
root of the project (build/, configs/, examples/). Words after `sh` say what the test cannot have:

    ```sh            run
    ```sh gpu        needs a GPU          \\
    ```sh model      needs a real model    | not run: the program must exist and its --help must know every flag
    ```sh cluster    needs a scheduler    /
    ```sh make       a target of the Makefile: `make -n`
    ```sh other      belongs to another test, which the page's author names in the line above

A fence of language `yaml` is a configuration or a part of one: it must be accepted by `sft-train --dump-config`.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

LIMIT_SECONDS = 240
PROGRAMS = {"build/bin/sft-train", "build/bin/niah-probe", "build/bin/qk-restore"}
UNRUN = {"gpu", "model", "cluster"}
# What a part of a configuration is completed with.
BASE_SECTIONS = {"model": "model: {path: a-model}", "probe": "probe: {lengths: [4096, 32768]}", "data": "data: {train: [none.jsonl]}", "output": "output: none"}


def fences(page):
    """(language, words, text, line) of each fenced block."""
    found, inside = [], None
    for number, line in enumerate(page.read_text().split("\n"), 1):
        mark = re.match(r"^```(.*)$", line)
        if mark and inside is None:
            words = mark.group(1).split()
            inside = (words[0] if words else "", words[1:], [], number)
        elif mark:
            found.append((inside[0], inside[1], "\n".join(inside[2]) + "\n", inside[3]))
            inside = None
        elif inside is not None:
            inside[2].append(line)
    if inside is not None:
        sys.exit(f"{page}:{inside[3]}: a fence must be closed, got the end of the file")
    return found


def commands_of(text):
    """Lines of a block, those that end in a backslash joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in joined.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def known_flags(program, scratch):
    text = subprocess.run([scratch / program, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def read_only(command, scratch, where):
    """The program that a command calls exists and knows its flags."""
    words = [part for word in shlex.split(command) for part in word.split()]  # a scheduler's --wrap "..." holds a command
    called = [word for word in words if word in PROGRAMS]
    if not called:
        return f"{where}: a command must call one of {', '.join(sorted(PROGRAMS))}, got {command}"
    after = words[words.index(called[0]) + 1:]
    unknown = {word.split("=")[0] for word in after if word.startswith("--")} - known_flags(called[0], scratch)
    return f"{where}: {called[0]} must know its flags, got {', '.join(sorted(unknown))}" if unknown else ""


def run(command, folder, where):
    try:
        done = subprocess.run(["bash", "-ec", command], cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{where}: a command must end within {LIMIT_SECONDS} s, got: {command}"
    if done.returncode == 0:
        return ""
    tail = "\n    ".join((done.stdout + done.stderr).strip().split("\n")[-6:])
    return f"{where}: a command must exit with 0, got {done.returncode}: {command}\n    {tail}"


def check_yaml(text, scratch, where):
    tops = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    whole = text + "\n".join(line for key, line in BASE_SECTIONS.items() if key not in tops) + "\n"
    file = scratch / "documented.yaml"
    file.write_text(whole)
    return run("build/bin/sft-train --config documented.yaml --dump-config", scratch, where)


def check_fence(page, fence, source, scratch):
    language, words, text, line = fence
    where = f"{page.relative_to(source)}:{line}"
    if language == "yaml":
        return [check_yaml(text, scratch, where)]
    if language != "sh" or "other" in words:
        return []
    if "make" in words:
        return [run(command.replace("make ", "make -n ", 1), source, where) for command in commands_of(text)]
    if UNRUN & set(words):
        return [read_only(command, scratch, where) for command in commands_of(text)]
    return [run("\n".join(commands_of(text)), scratch, where)]


def scratch_root(source, build, folder):
    (folder / "build").symlink_to(build)
    for name in ("configs", "examples", "docs"):
        if (source / name).exists():
            shutil.copytree(source / name, folder / name)
    return folder


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--list"]
    source, build = (pathlib.Path(argument).resolve() for argument in arguments[:2])
    pages = [pathlib.Path(argument).resolve() for argument in arguments[2:]]
    pages = pages or [source / "README.md", *sorted(source.glob("docs/*.md")), *sorted(source.glob("examples/*/README.md"))]
    problems, count = [], 0
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            scratch = scratch_root(source, build, pathlib.Path(folder))
            for fence in fences(page):
                if "--list" in sys.argv:
                    print(page.name, fence[3], fence[0], *fence[1])
                    continue
                count += fence[0] in ("sh", "yaml")
                problems += [problem for problem in check_fence(page, fence, source, scratch) if problem]
    for problem in problems:
        print(problem)
    print(f"{len(pages)} pages, {count} blocks, {len(problems)} problems")
    if not count and "--list" not in sys.argv:
        sys.exit("no block was found: the test would pass whatever the pages say")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
