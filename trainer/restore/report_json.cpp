#include <cmath>

#include "trainer/restore/restore.h"

namespace qkr {
namespace {

nlohmann::json certificate_json(const PolarCertificate& c) {
  return {{"orthogonality", c.orthogonality},
          {"skew", c.skew},
          {"cholesky", c.cholesky},
          {"iterations", c.iterations},
          {"gap_bound", c.gap_bound},
          {"fallback", c.fallback},
          {"kappa", c.kappa},
          {"zero_matrix", c.zero_matrix},
          {"rank_deficient", c.rank_deficient}};
}

// nlohmann keeps NaN and Inf in memory and writes them as null; here they are null at once, so that a reader of either sees one.
void drop_non_finite(nlohmann::json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) value = nullptr;
  if (value.is_structured()) {
    for (auto& item : value) drop_non_finite(item);
  }
}

template <class T>
void add(nlohmann::json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

nlohmann::json layer_json(const LayerReport& layer) {
  nlohmann::json row = {{"layer", layer.layer},
                        {"type", layer.softmax ? "softmax" : "linear"},
                        {"residual_before", layer.residual_before},
                        {"residual_after", layer.residual_after},
                        {"written", layer.written}};
  if (layer.unmoved) row["unmoved"] = true;
  for (const auto& [part, change] : layer.changes) row[part + "_change"] = change;
  add(row, "rotation", layer.rotation);
  add(row, "mu", layer.mu);
  add(row, "lambda_min", layer.lambda_min);
  add(row, "lambda_max", layer.lambda_max);
  add(row, "corrected", layer.corrected);
  add(row, "free_coordinates", layer.free_coordinates);
  if (layer.certificate) row["certificate"] = certificate_json(*layer.certificate);
  return row;
}

}  // namespace

nlohmann::json to_json(const RestoreReport& report) {
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerReport& layer : report.layers) layers.push_back(layer_json(layer));
  nlohmann::json out = {{"method", report.method},
                        {"parts", report.parts},
                        {"layers", std::move(layers)},
                        {"snapshot_sha256", report.snapshot_sha256},
                        {"restored_sha256", report.restored_sha256}};
  const LayerChoice& choice = report.layer_choice;
  out["selected_layers"] = choice.word.empty() ? nlohmann::json(choice.list) : nlohmann::json(choice.word);
  add(out, "anchor", report.anchor);
  add(out, "ridge", report.ridge);
  add(out, "blend", report.blend);
  drop_non_finite(out);
  return out;
}

}  // namespace qkr
