"""One rank of a data-parallel Trainer on the CPU with a RecallCallback: two_ranks.py FOLDER, started by torch.distributed.run."""

import os
import sys

import torch
import transformers
from tiny_models import make, tokenizer

from qk_restore.hf import RecallCallback

folder = sys.argv[1]
ids = torch.arange(16)[None] * 7 % 2000 + torch.arange(8)[:, None]
rows = [{"input_ids": row, "labels": row} for row in ids]
callback = RecallCallback(restore="procrustes", lengths=[256], tasks=["niah_single_1"], samples=2, max_new_tokens=8, output=folder + "/probe.jsonl")
arguments = transformers.TrainingArguments(folder + "/run", per_device_train_batch_size=1, max_steps=2, learning_rate=1e-2, report_to="none",
                                           disable_tqdm=True, use_cpu=True, save_strategy="no", ddp_backend="gloo")
trainer = transformers.Trainer(make("llama"), arguments, train_dataset=rows, processing_class=tokenizer(), callbacks=[callback])
trainer.train()
assert torch.distributed.get_world_size() == 2
mine = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
all_of_them = [torch.empty_like(mine) for _ in range(2)]
torch.distributed.all_gather(all_of_them, mine)
assert torch.equal(*all_of_them), "the ranks' restored weights must agree"
torch.distributed.barrier()
os._exit(0)  # Gloo's threads do not always end before the process does, which then aborts
