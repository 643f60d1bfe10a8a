#!/usr/bin/env bash
# A run with hooks in a root folder that holds the program, the libraries that ldd names and the data, and no Python: neither an
# interpreter nor a library of one. no_python.sh BUILD SOURCE WORK. Exit code 77: this machine lets nobody change the root.
set -euo pipefail
build=$1 source=$2 work=$3
program=$build/bin/sft-train
libraries=$(ldd "$program" | grep -oE '/[^ ]+' | sort -u)
if grep -iE 'libpython|libtorch_python' <<<"$libraries"; then
  echo "$program: must not be linked with Python" >&2
  exit 1
fi
grep -q libtorch_cpu <<<"$libraries" || { echo "ldd must name libtorch_cpu.so, got: $libraries" >&2; exit 1; }

rm -rf "$work"
root=$work/root
place() {  # a hard link where it is one file system, else a copy
  mkdir -p "$root$(dirname "$2")"
  cp -lL "$1" "$root$2" 2>/dev/null || cp -L "$1" "$root$2"
}
for file in $libraries; do place "$file" "$file"; done
place "$program" /bin/sft-train
for file in drift ema noise_scale; do place "$source/examples/hooks/$file.ts" "/hooks/$file.ts"; done
cp -r "$source/examples/tiny/model" "$root/model"
cp "$source/examples/tiny/cot.jsonl" "$root/cot.jsonl"
mkdir -p "$root/tmp" "$root/dev" "$root/proc"
cat >"$root/run.yaml" <<YAML
model: {path: /model, dtype: float32, device: cpu}
data: {train: [/cot.jsonl], max_length: 256, limit: 12}
train: {max_steps: 2, epochs: 4, tokens_per_step: 512}
qk_restore: {method: procrustes}
hooks: [{script: /hooks/drift.ts}, {script: /hooks/noise_scale.ts}, {script: /hooks/ema.ts, writes: ["*"]}]
checkpoint: {every: 1}
log: {progress: off}
output: /out
YAML
if find "$root" -iname '*python*' -not -path '*/site-packages/*' -type f | grep -vE '/lib/python3[^/]*/site-packages' | grep .; then
  echo "the root must hold no Python" >&2
  exit 1
fi
if find "$root" -name '*.py' -o -name 'libpython*' -o -name 'libtorch_python*' | grep .; then
  echo "the root must hold no Python" >&2
  exit 1
fi
change=(chroot "$root")
if ! "${change[@]}" /bin/sft-train --version >/dev/null 2>&1; then
  change=(unshare --user --map-root-user chroot "$root")
  "${change[@]}" /bin/sft-train --version >/dev/null 2>&1 || { echo "skipped: neither chroot nor unshare is allowed here"; exit 77; }
fi
env -i OMP_NUM_THREADS=1 "$(command -v "${change[0]}")" "${change[@]:1}" /bin/sft-train --config /run.yaml
grep -q '"hook/drift/routing/rotation"' "$root/out/log.jsonl"
grep -q '"hook/ema/distance"' "$root/out/log.jsonl"
[ -s "$root/out/model/model.safetensors" ] && [ -s "$root/out/checkpoints/step-000002/hook-scripts.ema.pt" ]
rm -rf "$work"
