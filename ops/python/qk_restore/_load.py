"""Loads the libraries that carry the operators and the restore, and says in one line why it cannot."""

import os
import pathlib

import torch

BUILT_FOR = "2.11"  # torch's C++ ABI changes with every minor version; pyproject.toml and CMakeLists.txt say the same


def library_folder() -> pathlib.Path:
    """The folder of the bundled libraries; QK_RESTORE_LIBRARY_DIR names another one, such as a build tree's lib/."""
    return pathlib.Path(os.environ.get("QK_RESTORE_LIBRARY_DIR") or pathlib.Path(__file__).with_name("lib"))


def _reason(error: BaseException) -> str:
    """The innermost message of a chain: what the loader or the library itself said."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    return " ".join(str(error).split())


def load(path: pathlib.Path) -> None:
    """Loads one library with torch.ops.load_library. ImportError in one line if that fails."""
    running = torch.__version__
    if not path.is_file():
        raise ImportError(f"qk_restore: {path}: no such file; install the wheel, or set QK_RESTORE_LIBRARY_DIR to a build's lib/")
    if running.split(".")[:2] != BUILT_FOR.split("."):
        raise ImportError(f"qk_restore: {path.name} must run with torch {BUILT_FOR}, got torch {running}: pip install 'torch=={BUILT_FOR}.*'")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        reason = _reason(error)
        if "undefined symbol" in reason or "cannot open shared object" in reason:
            reason += f"; the library was built for another build of torch than {running} (CUDA or CPU, or another minor version)"
        raise ImportError(f"qk_restore: {path.name} cannot be loaded: {reason}") from None


def load_all() -> None:
    """Both libraries, once. Operators that the process already has are kept: they may come from the caller's own load_library."""
    folder = library_folder()
    if not hasattr(torch.ops.qk_restore, "rms_norm"):
        load(folder / "libqk_restore_ops.so")
    try:
        torch.classes.qk_restore.Snapshot  # noqa: B018 - raises where no library has registered it
    except RuntimeError:
        load(folder / "libqk_restore_binding.so")
