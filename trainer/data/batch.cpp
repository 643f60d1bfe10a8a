#include "trainer/data/batch.h"

#include <ATen/ATen.h>

#include "trainer/core/error.h"
#include "trainer/data/dataset.h"

namespace qkr {

Batch make_batch(const std::vector<Sample>& samples, const std::vector<Row>& rows) {
  int64_t count = 0;
  Batch batch;
  batch.cu_seqlens.push_back(0);
  for (const Row& row : rows) {
    for (const int64_t index : row) {
      count += samples.at(static_cast<size_t>(index)).size();
      batch.cu_seqlens.push_back(count);
    }
  }
  batch.tokens = at::empty({count}, at::kLong);   // [N]
  batch.targets = at::empty({count}, at::kLong);  // [N]
  int64_t* token = batch.tokens.data_ptr<int64_t>();
  int64_t* target = batch.targets.data_ptr<int64_t>();
  for (const Row& row : rows) {
    for (const int64_t index : row) {
      const Sample& sample = samples[static_cast<size_t>(index)];
      const size_t size = sample.ids.size();
      for (size_t t = 0; t < size; ++t) {
        const bool labelled = t + 1 < size && sample.trained[t + 1] != 0;
        *token++ = sample.ids[t];
        *target++ = labelled ? sample.ids[t + 1] : kIgnoreLabel;
        batch.labelled += labelled ? 1 : 0;
      }
    }
  }
  return batch;
}

}  // namespace qkr
