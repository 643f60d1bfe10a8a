#!/usr/bin/env bash
# The main job on the CPU: fine-tune the small hybrid of examples/amnesia on worked word problems, put W_Q and W_K back, measure recall
# before, after, and after the restore.
set -euo pipefail
bin=$1
rm -rf runs/demo
echo "== sft-train --config examples/amnesia/demo.yaml"
"$bin/sft-train" --config examples/amnesia/demo.yaml
echo "== open runs/demo/report.html; one seed is one seed: examples/amnesia/README.md has the table over eight"
