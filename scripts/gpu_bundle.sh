#!/usr/bin/env bash
# Collects what a GPU machine with its own torch 2.11.0+cu130 needs to run our binaries: $1/gpu-bundle, with run.sh that sets the
# library paths and then runs what it is given.
set -euo pipefail
build=$1
out=$build/gpu-bundle
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib" "$out/tests/data"
for program in sft-train niah-probe qk-restore test_ops test_restore test_model test_loop test_e2e bench_ops; do
  [[ -x $build/bin/$program ]] && strip -o "$out/bin/$program" "$build/bin/$program"
done
cp -L "$(ldd "$build/bin/bench_ops" | awk '/libbenchmark/ {print $3}')" "$out/lib/"  # Debian has no archive of it
strip -o "$out/lib/libqk_restore_ops.so" "$build/lib/libqk_restore_ops.so"
cp -r tests/data/models "$out/tests/data/"
cp -r configs examples "$out/"
cat > "$out/run.sh" <<'RUN'
#!/usr/bin/env bash
# run.sh PROGRAM ARGS: PROGRAM from bin/, with the libraries of this machine's torch.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
torch=$(python3 -c 'import torch, os; print(os.path.dirname(torch.__file__))')
export LD_LIBRARY_PATH=$here/lib:$torch/lib:$(ls -d "$(dirname "$torch")"/nvidia/*/lib | paste -sd:)
export QKR_FIXTURES=${QKR_FIXTURES:-$here/tests/data}
program=$1
shift
exec "$here/bin/$program" "$@"
RUN
chmod +x "$out/run.sh"
du -sh "$out" | cut -f1 | xargs echo "== $out:"
