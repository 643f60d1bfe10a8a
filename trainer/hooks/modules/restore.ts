# The restore for any program that holds the weights of before and after: needs libqk_restore_ops.so and no trainer.
#   pre, post    by name, the weights before and after fine-tuning; of any device and dtype, both alike
#   layers       the names that belong to each layer, all with the layer's input as columns: W_Q and W_K of a softmax layer
#   method       plain: pre; lerp: pre + number (post - pre); procrustes: pre R, one R a layer, number is the anchor (0.01 by default elsewhere)
# Gives the weights to put in the place of `post`, for the names in `layers`.

def restore(self, pre: Dict[str, Tensor], post: Dict[str, Tensor], layers: List[List[str]], method: str, number: float) -> Dict[str, Tensor]:
  assert method == "plain" or method == "lerp" or method == "procrustes", "restore: method must be plain, lerp or procrustes"
  out: Dict[str, Tensor] = {}
  for names in layers:
    if method == "procrustes":
      before: List[Tensor] = []
      after: List[Tensor] = []
      for name in names:
        before.append(pre[name])
        after.append(post[name])
      restored, r, certificate = torch.ops.qk_restore.procrustes(torch.cat(before), torch.cat(after), number)
      row = 0
      for name in names:
        rows = pre[name].size(0)
        out[name] = restored[row:row + rows].clone()
        row += rows
    else:
      for name in names:
        if method == "plain":
          out[name] = pre[name].clone()
        else:
          blended = pre[name].double() + number * (post[name].double() - pre[name].double())
          out[name] = blended.to(pre[name].dtype)
  return out
