# The probe's teacher-forced reading for any program that runs a model: what the model thinks of an answer behind its prompt.
#   hidden       [N, D] the last layer's output, normed, for prompt and answer together, as the LM head reads it
#   head_weight  [V, D] of the LM head
#   answer       [A] int64, the answer's tokens; they are the last A of the N
# Gives found (1.0: each token of the answer is the most likely one), logprob (mean, nats) and rank (the worst: 0 is the most likely).

def score(self, hidden: Tensor, head_weight: Tensor, answer: Tensor) -> Dict[str, float]:
  count = answer.size(0)
  total = hidden.size(0)
  assert count > 0 and count < total, "score: answer must have at least one token and follow a prompt"
  # The token at place p is predicted from the hidden state at p - 1.
  positions = torch.arange(total - count - 1, total - 1, device=hidden.device)
  logprob, rank = torch.ops.qk_restore.answer_logprobs(hidden, head_weight, positions, answer)
  worst = int(rank.max())
  return {"found": 1.0 if worst == 0 else 0.0, "logprob": float(logprob.double().mean()), "rank": float(worst)}
