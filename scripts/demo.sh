#!/usr/bin/env bash
# The main job on the CPU: fine-tune the tiny hybrid of examples/tiny on worked arithmetic, restore, measure recall all along.
set -euo pipefail
bin=$1
rm -rf runs/demo
echo "== sft-train --config configs/demo.yaml --qk-restore procrustes"
"$bin/sft-train" --config configs/demo.yaml --qk-restore procrustes
echo "== open runs/demo/report.html"
