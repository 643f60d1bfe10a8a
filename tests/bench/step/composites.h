// The trainer as it would be without kernels: while one of these lives, every operator runs its ATen composite on the
// GPU too.
#pragma once

#include <torch/library.h>

namespace qkr::bench {

class Composites {
 public:
  Composites();  // overrides the CUDA key; the kernels come back when it goes

 private:
  torch::Library library_;
};

}  // namespace qkr::bench
