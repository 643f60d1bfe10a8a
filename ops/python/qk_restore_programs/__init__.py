"""The programs of the wheel: each is replaced by the bundled binary, with the libraries of the torch that is installed here. A package of
its own, because importing qk_restore imports torch, which takes longer than many a restore."""

import importlib.util
import os
import pathlib
import sys


def _folder(package: str) -> pathlib.Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"qk-restore: {package} must be installed in this Python ({sys.executable}), found none")
    return pathlib.Path(spec.submodule_search_locations[0])


def _exec(program: str) -> None:
    package, torch = _folder("qk_restore"), _folder("torch")
    binary = package / "bin" / program
    if not binary.is_file():
        raise SystemExit(f"qk-restore: {binary}: no such file; the wheel was built without its programs")
    folders = [package / "lib", torch / "lib", *sorted((torch.parent / "nvidia").glob("*/lib"))]
    earlier = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = ":".join([*map(str, folders), *([earlier] if earlier else [])])
    os.execv(binary, [program, *sys.argv[1:]])


def sft_train() -> None:
    _exec("sft-train")


def niah_probe() -> None:
    _exec("niah-probe")


def qk_restore() -> None:
    _exec("qk-restore")
