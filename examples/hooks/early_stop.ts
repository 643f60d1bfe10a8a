# Ends the run once recall has not been better for two measurements in a row, or has fallen by more than 10 points below the first one.
# Needs probe.every. The end's probe, the restore and the export still happen.
# (In TorchScript torch.tensor(x) rounds x to float32 on its way, torch.full does not.)

def on_probe(self, stage: str, metrics: Dict[str, float]) -> Tuple[Dict[str, float], List[str]]:
  recall = metrics["probe"]
  requests: List[str] = []
  if "best" not in self.state:
    self.state["first"] = torch.full([], recall, dtype=torch.float64)
    self.state["best"] = torch.full([], recall, dtype=torch.float64)
    self.state["waited"] = torch.tensor(0)
  elif recall > float(self.state["best"]):
    self.state["best"] = torch.full([], recall, dtype=torch.float64)
    self.state["waited"] = torch.tensor(0)
  else:
    self.state["waited"] += 1
  waited = int(self.state["waited"])
  lost = float(self.state["first"]) - recall
  if waited >= 2 or lost > 10.0:
    requests.append("stop")
  return {"best": float(self.state["best"]), "waited": float(waited), "lost": lost}, requests
