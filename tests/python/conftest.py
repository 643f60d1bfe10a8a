"""The package of this tree over the libraries of this build: QK_RESTORE_LIBRARY_DIR, by default build/lib."""

import os
import pathlib
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QKR_BUILD_DIR", ROOT / "build"))
os.environ.setdefault("QK_RESTORE_LIBRARY_DIR", str(BUILD / "lib"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(ROOT / "ops" / "python"))

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param
