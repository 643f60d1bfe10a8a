# A proxy of the gradient noise scale tr(Sigma) / |G|^2, in units of this run's batch: far above 1 a larger batch would pay, far
# below 1 a smaller one would do as well (McCandlish et al. 2018, arXiv 1812.06162).
#
# What a hook can see: gradients are gone when it is called, Adam's moments are not. exp_avg m is a mean of the last gradients, about
# (1 + beta1) / (1 - beta1) of them; exp_avg_sq v is a mean of their squares. So, summed over all weights,
#   E v = |G|^2 + noise,   E |m|^2 = |G|^2 + noise * (1 - beta1) / (1 + beta1),
# from which both follow. It is a proxy: G is taken to stand still over the memory of v (1 / (1 - beta2) steps; the bias of both means
# at the start is corrected), and the gradients are those after clipping. beta1 and beta2 below must be those of `optim`.

def on_step(self, step: int, optim: Dict[str, Tensor]) -> Dict[str, float]:
  beta1 = 0.9
  beta2 = 0.95
  mean_square = 0.0
  square_mean = 0.0
  for name, value in optim.items():
    if name.startswith("exp_avg_sq."):
      mean_square += float(value.double().sum()) / (1.0 - beta2 ** float(step))
    elif name.startswith("exp_avg."):
      square_mean += float(value.double().square().sum()) / (1.0 - beta1 ** float(step)) ** 2.0
  # The weights of m over the last `step` gradients, squared: (1-b)/(1+b) once it has filled.
  share = (1.0 - beta1) / (1.0 + beta1) * (1.0 + beta1 ** float(step)) / (1.0 - beta1 ** float(step))
  if share > 0.999 or mean_square <= 0.0:  # one gradient alone has no spread
    return {"gradient_square": square_mean}
  noise = max(mean_square - square_mean, 0.0) / (1.0 - share)
  signal = max(mean_square - noise, 0.0)
  return {"gradient_square": signal, "noise": noise, "scale": noise / max(signal, 1e-30)}
