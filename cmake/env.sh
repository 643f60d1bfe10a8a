# Sourced: where the programs find torch 2.11 and the CUDA libraries of its wheel.
#   . <prefix>/share/qk_restore/env.sh [python]      default: python3
# Nothing but LD_LIBRARY_PATH is set. Once it is, the programs need no Python.
qkr_torch=$("${1:-python3}" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").origin))') || {
  echo "env.sh: ${1:-python3} has no torch: pip install 'torch==2.11.*'" >&2
  return 1
}
qkr_libs=$qkr_torch/lib
for qkr_lib in "$qkr_torch"/../nvidia/*/lib; do
  [ -d "$qkr_lib" ] && qkr_libs=$qkr_libs:$qkr_lib
done
export LD_LIBRARY_PATH="$qkr_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
unset qkr_torch qkr_libs qkr_lib
