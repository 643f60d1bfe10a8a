# How far the weights have moved from where they were at the start, and how much of that is a turn of the whole basis.
#   moved/max, moved/mean     ||W - W_0|| / ||W_0|| over all matrices
#   routing/moved             the same for all W_Q and W_K taken together
#   routing/rotation          ||R - I|| / sqrt(d), the largest over the layers: R is the orthogonal matrix nearest to W_0^T W + mu I, W being
#                             W_Q over W_K, with the default anchor: what the restore method `procrustes` would find now
# Keeps a copy of every matrix. Computed in the weights' dtype, norms in float32.

def on_start(self, weights: Dict[str, Tensor]):
  for name, weight in weights.items():
    if weight.dim() == 2:
      self.state[name] = weight.clone()

def on_step(self, weights: Dict[str, Tensor]) -> Dict[str, float]:
  most = 0.0
  total = 0.0
  routing = 0.0
  routing_start = 0.0
  rotation = 0.0
  for name, start in self.state.items():
    weight = weights[name].float()
    before = start.float()
    change = float((weight - before).norm())
    size = float(before.norm())
    moved = change / max(size, 1e-30)
    most = max(most, moved)
    total += moved
    if name.endswith("q_proj.weight") or name.endswith("k_proj.weight"):
      routing += change * change
      routing_start += size * size
    key = name.replace("q_proj", "k_proj")
    if name.endswith("q_proj.weight") and key in self.state:
      first = torch.cat([before, self.state[key].float()])
      now = torch.cat([weight, weights[key].float()])
      r, certificate = torch.ops.qk_restore.polar(first.t().mm(now), 0.01)
      identity = torch.eye(r.size(0), dtype=r.dtype, device=r.device)
      rotation = max(rotation, float((r - identity).norm()) / float(r.size(0)) ** 0.5)
  return {
    "moved/max": most,
    "moved/mean": total / float(max(len(self.state), 1)),
    "routing/moved": (routing / max(routing_start, 1e-30)) ** 0.5,
    "routing/rotation": rotation
  }
