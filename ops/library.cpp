#include <torch/library.h>

TORCH_LIBRARY(qk_restore, m) {}
