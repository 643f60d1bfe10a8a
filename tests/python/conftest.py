"""The package of this tree over the libraries of this build: QK_RESTORE_LIBRARY_DIR, by default build/lib."""

import os
import pathlib
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QKR_BUILD_DIR", ROOT / "build"))
if "QK_RESTORE_TEST_INSTALLED" not in os.environ:  # else an installed wheel is what is tested
    os.environ.setdefault("QK_RESTORE_LIBRARY_DIR", str(BUILD / "lib"))
    sys.path.insert(0, str(ROOT / "ops" / "python"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param
