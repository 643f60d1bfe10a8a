"""A load that cannot work is an error in one line, never a crash. Each case is a process of its own."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import BUILD, ROOT

LIBRARY = BUILD / "lib" / "libqk_restore_ops.so"
IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import qk_restore"


def run(code, *args, **environment):
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True,
                          env={**os.environ, **{k: str(v) for k, v in environment.items()}})


def last_line(result):
    return result.stderr.strip().splitlines()[-1]


def shared_object(path, source):
    source_file = path.with_suffix(".c")
    source_file.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source_file], check=True)
    return path


@pytest.fixture
def torch_2_12(tmp_path):
    """Preloaded, it says what the next torch would say."""
    return shared_object(tmp_path / "libnext.so", "unsigned long aoti_torch_abi_version(void) { return 2ul << 56 | 12ul << 48; }\n")


def test_loading_twice_is_loading_once():
    code = "import sys, torch\nfor _ in range(2): torch.ops.load_library(sys.argv[1])\nprint(torch.ops.qk_restore.swiglu(torch.ones(1), torch.ones(1)))"
    result = run(code, LIBRARY)
    assert result.returncode == 0 and "0.73" in result.stdout, result.stderr


def test_a_second_copy_is_refused_and_the_first_goes_on(tmp_path):
    copy = shutil.copy(LIBRARY, tmp_path / "other.so")
    code = """import sys, torch
torch.ops.load_library(sys.argv[1])
try: torch.ops.load_library(sys.argv[2])
except OSError as error: print(error.__cause__.__cause__)
print(torch.ops.qk_restore.swiglu(torch.ones(1), torch.ones(1)))"""
    result = run(code, LIBRARY, copy)
    assert result.returncode == 0, result.stderr
    assert "libqk_restore_ops.so: must be loaded once, got a second copy" in result.stdout and "0.73" in result.stdout


def test_import_after_a_load_of_one_s_own(tmp_path):
    copy = shutil.copy(LIBRARY, tmp_path / "other.so")
    code = "import sys, torch; torch.ops.load_library(sys.argv[2])\n" + IMPORT + "; print(qk_restore.rms_norm.__name__)"
    result = run(code, ROOT / "ops/python", copy)
    assert result.returncode == 0 and "rms_norm" in result.stdout, result.stderr


def test_another_torch_is_refused_by_the_library_itself(torch_2_12):
    code = "import sys, torch\ntry: torch.ops.load_library(sys.argv[1])\nexcept OSError as error: print(error.__cause__.__cause__)\nprint(hasattr(torch.ops.qk_restore, 'rms_norm'))"
    result = run(code, LIBRARY, LD_PRELOAD=torch_2_12)
    assert result.returncode == 0, result.stderr
    assert "must run with the torch that it was built for, 2.11.0, got 2.12.0; nothing was registered" in result.stdout
    assert result.stdout.strip().endswith("False")


def test_another_torch_in_one_line_of_python(torch_2_12):
    result = run(IMPORT, ROOT / "ops/python", LD_PRELOAD=torch_2_12)
    assert result.returncode == 1
    assert last_line(result).startswith("ImportError: qk_restore: libqk_restore_ops.so cannot be loaded: libqk_restore_ops.so: must run with the torch")


def test_torch_s_own_version_is_asked_first():
    code = "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.__version__ = '2.13.1+cpu'; import qk_restore"
    result = run(code, ROOT / "ops/python")
    assert last_line(result) == "ImportError: qk_restore: libqk_restore_ops.so must run with torch 2.11, got torch 2.13.1+cpu: pip install 'torch==2.11.*'"


def test_missing_symbols_in_one_line(tmp_path):
    """What the loader says where the C++ ABI is another one."""
    shared_object(tmp_path / "libqk_restore_ops.so", "void _ZN5torch7goneAwayEv(void); void f(void) { _ZN5torch7goneAwayEv(); }\n")
    result = run(IMPORT, ROOT / "ops/python", QK_RESTORE_LIBRARY_DIR=tmp_path)
    line = last_line(result)
    assert line.startswith("ImportError: qk_restore: libqk_restore_ops.so cannot be loaded: ") and "undefined symbol: _ZN5torch7goneAwayEv" in line
    assert "built for another build of torch than 2.11" in line


def test_no_library_at_all(tmp_path):
    result = run(IMPORT, ROOT / "ops/python", QK_RESTORE_LIBRARY_DIR=tmp_path)
    assert last_line(result) == (f"ImportError: qk_restore: {pathlib.Path(tmp_path) / 'libqk_restore_ops.so'}: no such file; install the wheel, "
                                 "or set QK_RESTORE_LIBRARY_DIR to a build's lib/")


def test_every_registration_asks_first():
    """Torch's own macros would register in a process that the library refuses."""
    bare = [str(path) for path in (ROOT / "ops").glob("*.cpp") if "TORCH_LIBRARY" in path.read_text()]
    assert bare == [], "use QKR_LIBRARY and QKR_LIBRARY_IMPL of ops/registration.h"
