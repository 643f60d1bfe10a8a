#!/usr/bin/env bash
# Configures the build tree $1 against the environment in build/venv; further arguments go to CMake.
set -euo pipefail
build=$1
shift
python=build/venv/bin/python
cuda=$("$python" -c 'import torch, os; print(os.path.join(os.path.dirname(os.path.dirname(torch.__file__)), "nvidia", "cu13"))')
options=(-DCMAKE_CUDA_COMPILER="$cuda/bin/nvcc" -DCUDAToolkit_ROOT="$cuda" -DCUDA_TOOLKIT_ROOT_DIR="$cuda" -DTORCH_CUDA_ARCH_LIST=9.0a)
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
fi
if command -v mold >/dev/null; then
  options+=(-DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=mold -DCMAKE_SHARED_LINKER_FLAGS=-fuse-ld=mold)
fi
echo "== configuring $build/"
log=$(mktemp)
if ! cmake -S . -B "$build" -GNinja "${options[@]}" "$@" >"$log" 2>&1; then
  grep -A12 -E 'CMake Error|FATAL' "$log" || cat "$log"
  exit 1
fi
rm -f "$log"
