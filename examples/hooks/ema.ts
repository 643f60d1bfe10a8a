# An exponential moving average of the weights, which takes their place after the last step: before the end's probe, the restore and the
# export. Needs `writes: ["*"]`. Kept in float32. The average of step t forgets with min(0.999, (1 + t) / (10 + t)), so that a short run is
# not an average of its start.

def on_step(self, step: int, weights: Dict[str, Tensor]) -> Dict[str, float]:
  decay = min(0.999, (1.0 + float(step)) / (10.0 + float(step)))
  distance = 0.0
  for name, weight in weights.items():
    if name not in self.state:
      self.state[name] = weight.float().clone()
    average = self.state[name]
    average.lerp_(weight.float(), 1.0 - decay)
    distance += float((average - weight.float()).square().sum())
  return {"decay": decay, "distance": distance ** 0.5}

def on_end(self, weights: Dict[str, Tensor]):
  for name, average in self.state.items():
    weights[name].copy_(average)
