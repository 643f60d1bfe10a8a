#!/usr/bin/env bash
# Installs what the build needs: distribution packages (as root or through sudo; else they are named), and a Python environment
# in $1 with torch 2.11 and the CUDA 13.0 toolkit's wheels, which give headers, nvcc and libraries without a system CUDA.
set -euo pipefail
venv=$1

packages=(g++ ccache mold pkg-config libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libssl-dev libgtest-dev libgmock-dev libbenchmark-dev python3-venv)
missing=()
if command -v dpkg-query >/dev/null; then
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
fi
if ((${#missing[@]})); then
  echo "== installing packages: ${missing[*]}"
  if [[ $(id -u) == 0 ]]; then as_root=(); elif sudo -n true 2>/dev/null; then as_root=(sudo); else
    echo "deps: run as root:  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# As CMake looks for it: distributions name a newer one cargo-1.85, beside an older cargo or none.
new_enough() { [[ $("$1" --version 2>/dev/null) =~ ^cargo\ 1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 85)); }
cargo=
for candidate in cargo "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" /usr/bin/cargo-1.*; do
  if new_enough "$candidate"; then cargo=$candidate; break; fi
done
if [[ -z $cargo ]]; then
  echo "deps: cargo 1.85 or newer is missing: rustup.rs, or on Ubuntu 24.04 apt-get install cargo-1.85, on Debian 12 cargo-web rustc-web" >&2
  exit 1
fi

if [[ ! -x $venv/bin/python ]]; then
  echo "== making a Python environment in $venv"
  python3 -m venv "$venv"
fi
echo "== installing torch 2.11, the CUDA 13.0 toolkit, cmake and ninja into $venv (2.5 GB to download, once)"
"$venv/bin/python" -m pip install -q --disable-pip-version-check "torch==2.11.*" "cmake>=3.28" ninja \
  "cuda-toolkit[nvcc,crt,nvvm,cccl,cudart,cublas,cusolver,cusparse,nvrtc]==13.0.*" \
  "transformers==4.57.6" numpy \
  "trl==0.29.1" "peft==0.21.2" "pytest>=9,<10" "scikit-build-core==1.1.2"  # what the wheel and the callback are tested with, 110 MB

# The wheels ship lib*.so.<n> alone and no lib64: linkers and nvcc look for both.
cuda=$("$venv/bin/python" -c 'import torch, os; print(os.path.join(os.path.dirname(os.path.dirname(torch.__file__)), "nvidia", "cu13"))')
for library in "$cuda"/lib/lib*.so.*; do
  plain="$cuda/lib/$(basename "${library%%.so.*}").so"
  [[ -e $plain ]] || ln -s "$(basename "$library")" "$plain"
done
ln -sfn lib "$cuda/lib64"
