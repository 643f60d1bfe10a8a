#!/usr/bin/env python3
"""What transformers makes of model folders:  hf_logits.py JOBS.json   (or --check: can it be imported here?)

JOBS.json is a list of {"model": folder, "ids": [...], "logits": file} and optionally "save": folder. Each model is loaded in
float32; its logits [T, V] go to `logits` as safetensors under the name "logits"; with "save" it is written again by
save_pretrained. One line a job on standard output: the class, and the dtype that the folder itself declares.
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # a folder is all there is
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import safetensors.torch
import torch
import transformers


def run(job):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    wrong = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    if wrong:
        sys.exit(f"{job['model']}: {wrong}")
    with torch.no_grad():
        logits = model(torch.tensor([job["ids"]])).logits[0]
    safetensors.torch.save_file({"logits": logits.contiguous()}, job["logits"])
    if "save" in job:
        model.save_pretrained(job["save"])
    declared = transformers.AutoConfig.from_pretrained(job["model"]).dtype
    print(type(model).__name__, declared, flush=True)


def main():
    if sys.argv[1] == "--check":
        print("transformers", transformers.__version__)
        return
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with open(sys.argv[1], encoding="utf-8") as file:
        for job in json.load(file):
            run(job)


main()
