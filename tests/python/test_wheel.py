"""The wheel of this build, in an environment of its own: what is in it, its programs, and the README's lines as they stand there."""

import importlib.metadata
import os
import pathlib
import re
import site
import subprocess
import sys
import sysconfig
import venv

import pytest
import torch
from conftest import BUILD, ROOT

PROGRAMS = ["sft-train", "niah-probe", "qk-restore"]


def readme_blocks():
    """Language and text of the fences of README's section In Python."""
    section = re.search(r"^## In Python\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S).group(1)
    return re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", section, re.M | re.S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment that sees the packages of this one (torch is 2.5 GB), with the wheel installed by the README's own line."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    packages = pathlib.Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    here = {path for path in sys.path if path.endswith("site-packages")} | set(site.getsitepackages())
    (packages / "outer.pth").write_text("\n".join(sorted(here)) + "\n")
    clean = {key: value for key, value in os.environ.items() if key not in ("QK_RESTORE_LIBRARY_DIR", "PYTHONPATH", "LD_LIBRARY_PATH")}
    # Nothing is downloaded: the build backend comes from this environment too.
    clean.update(VIRTUAL_ENV=str(folder), PATH=f"{folder / 'bin'}:{clean['PATH']}", PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", BUILD=str(BUILD),
                 PIP_DISABLE_PIP_VERSION_CHECK="1")
    language, text = readme_blocks()[0]
    assert language == "sh"
    install = next(line for line in text.splitlines() if line.startswith("pip install ."))
    done = subprocess.run(["bash", "-ec", install.replace("$PWD/build", str(BUILD))], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, packages, clean


def run(environment, *command, cwd=None, **more):
    done = subprocess.run([*map(str, command)], env={**environment[2], **more}, cwd=cwd or environment[0], capture_output=True, text=True)
    return done


def test_what_is_in_it(environment):
    _, packages, _ = environment
    tag = next(packages.glob("qk_restore-*.dist-info/WHEEL")).read_text()
    assert "Tag: py3-none-linux_x86_64" in tag and "Root-Is-Purelib: false" in tag
    version = re.search(r"project\(qk_restore VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    assert f"\nVersion: {version}\n" in next(packages.glob("qk_restore-*.dist-info/METADATA")).read_text()
    files = {path.name for path in (packages / "qk_restore").rglob("*") if path.is_file()}
    assert {*PROGRAMS, "libqk_restore_ops.so", "libqk_restore_binding.so", "py.typed", "hf.py"} <= files
    for library in (packages / "qk_restore" / "lib").glob("libqk_restore*.so"):
        dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        assert str(ROOT) not in dynamic and "$ORIGIN" in dynamic, dynamic


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(environment, program):
    done = run(environment, environment[0] / "bin" / program, "--version")
    assert done.returncode == 0 and done.stdout.startswith("qk-restore "), done.stdout + done.stderr
    done = run(environment, environment[0] / "bin" / program, "--nonsense")
    assert done.returncode == 2 and done.stderr.startswith(program + ": ")  # arguments and exit codes pass through


def test_it_is_the_installed_one(environment):
    code = "import qk_restore, torch; print(qk_restore.__file__); print(torch.ops.qk_restore.rms_norm(torch.ones(1, 2), torch.ones(2), 0.0))"
    done = run(environment, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(environment[1]) in done.stdout and "1., 1." in done.stdout


def test_the_readme_from_a_model_to_its_restore(environment):
    code = next(text for language, text in readme_blocks() if language == "python")
    done = run(environment, "python", "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "procrustes" in done.stdout


def test_the_readme_s_trainer(environment):
    blocks = [text for language, text in readme_blocks() if language == "python"]
    given = (f"import sys; sys.path[:0] = [{str(ROOT / 'tests/python')!r}]\n"
             "from tiny_models import make, tokenizer as words; from test_hf import Rows\n"
             "model, tokenizer, rows = make('qwen3'), words(), Rows()\n")
    done = run(environment, "python", "-c", given + blocks[1], QK_RESTORE_TEST_INSTALLED="1")
    assert done.returncode == 0, done.stderr
    assert "recall_restored/niah_single_1/256" in done.stdout


def test_an_unbuilt_tree_is_refused_in_one_line(environment, tmp_path):
    done = run(environment, "pip", "wheel", "-q", "--no-deps", ROOT, "-w", tmp_path, "-C", f"cmake.define.QKR_PREBUILT={tmp_path}")
    assert done.returncode != 0
    assert f"QKR_PREBUILT={tmp_path}: must be a tree that is built (make build)" in " ".join((done.stdout + done.stderr).split())


def test_the_torch_it_says_it_needs_is_the_one_it_checks():
    import qk_restore._load as load

    assert f'"torch=={load.BUILT_FOR}.*"' in (ROOT / "pyproject.toml").read_text()
    assert torch.__version__.startswith(load.BUILT_FOR + ".")
    assert f"find_package(Torch {load.BUILT_FOR} " in (ROOT / "cmake/FindTorchWheel.cmake").read_text()


def test_one_toolkit_in_every_place_that_names_it():
    """README's line from nothing, what CMake asks for where nvcc is missing, and what `make deps` installs."""
    texts = [(ROOT / file).read_text() for file in ("README.md", "cmake/CudaWheel.cmake", "scripts/deps.sh")]
    named = [re.findall(r"cuda-toolkit\[[^\]]*\]==[0-9.*]+", text) for text in texts]
    assert all(len(set(each)) == 1 for each in named) and named[0] == named[1] == named[2], named


def test_the_extra_brings_what_a_trainer_asks_for(environment):
    metadata = next(environment[1].glob("qk_restore-*.dist-info/METADATA")).read_text()
    extra = re.findall(r"^Requires-Dist: (\w+).*extra == [\"']hf[\"']", metadata, re.M)
    asked = [line for line in importlib.metadata.requires("transformers") if re.search("extra == [\"']torch[\"']", line)]
    assert {re.match(r"\w+", line).group() for line in asked} <= {*extra, "torch"}, (extra, asked)
