#!/usr/bin/env bash
# README's lines for an environment of one's own, typed into a clone of the last commit: pip compiles everything from nothing (ten to forty
# minutes) and downloads 2.5 GB, so that this test runs when it is asked for alone: ctest --test-dir build -C Cold -R package.cold
# cold.sh SOURCE WORK
set -euo pipefail
source=$1 work=$2
rm -rf "$work"
mkdir -p "$work"
git clone -q "$source" "$work/qk-restore"
cd "$work/qk-restore"
unset PYTHONPATH LD_LIBRARY_PATH VIRTUAL_ENV QK_RESTORE_LIBRARY_DIR

fence() {  # the $2-th fence of language $1 in README's section In Python
  sed -n '/^## In Python$/,/^## [^I]/p' README.md | awk -v open="^\`\`\`$1( |\$)" -v wanted="$2" '
    /^```/ { if (shown) exit; shown = $0 ~ open && ++n == wanted; next }
    shown'
}
lines=$(fence sh 2)
grep -q '^python3 -m venv' <<<"$lines" || { echo "README: the second sh fence of In Python must make an environment, got: $lines" >&2; exit 1; }
before=$(date +%s)
eval "$lines"
echo "installed in $(($(date +%s) - before)) s"

restore=$(fence python 1)
[ -n "$restore" ] || { echo "README: In Python must have a python fence" >&2; exit 1; }
python -c "$restore" | tee "$work/said"
grep -q "^procrustes" "$work/said"
for program in sft-train niah-probe qk-restore; do "$program" --version; done
python -c "from qk_restore.hf import RecallCallback; import transformers; transformers.Trainer"
echo "typed: $(grep -c . <<<"$lines") lines of shell, $(grep -c . <<<"$restore") of Python"
cd / && rm -rf "$work"
