#include "trainer/hooks/log_hook.h"

#include <nlohmann/json.hpp>

#include "trainer/core/text.h"
#include "trainer/hooks/resumed_rows.h"

namespace qkr {
namespace {

std::string padded(int64_t value, int64_t like) {
  const std::string text = std::to_string(value), widest = std::to_string(like);
  return std::string(widest.size() - std::min(widest.size(), text.size()), ' ') + text;
}

nlohmann::ordered_json to_row(const StepReport& report) {
  return {{"step", report.step}, {"epoch", report.epoch}, {"loss", report.loss}, {"grad_norm", report.grad_norm}, {"lr", report.lr},
          {"tokens", report.tokens}, {"trained_tokens", report.trained_tokens}, {"tokens_seen", report.tokens_seen},
          {"seconds", report.seconds}, {"tokens_per_second", report.tokens_per_second}, {"memory_bytes", report.memory_bytes}};
}

}  // namespace

std::string step_line(const StepReport& report) {
  return "step " + padded(report.step, report.total_steps) + "/" + std::to_string(report.total_steps) + "  loss " +
         fixed(report.loss, 4) + "  norm " + fixed(report.grad_norm, 3) + "  lr " + scientific(report.lr, 2) + "  " +
         group_digits(static_cast<int64_t>(report.tokens_per_second)) + " tok/s  " + human_bytes(report.memory_bytes) + "  eta " +
         human_seconds(report.eta_seconds);
}

LogHook::LogHook(const LogConfigSection& config, const std::filesystem::path& folder, int64_t resumed_step, Console& console)
    : config_(config), console_(console) {
  const auto file = folder / "log.jsonl";
  keep_rows_up_to(file, resumed_step);
  rows_ = std::make_unique<JsonLinesWriter>(file);
  if (config.tensorboard) {
    const auto resumed = resumed_step > 0 ? std::optional<int64_t>(resumed_step + 1) : std::nullopt;
    events_ = std::make_unique<EventFileWriter>(folder / "tensorboard", resumed);
  }
}

void LogHook::after_step(const StepReport& report, TrainState&) {
  nlohmann::ordered_json row = to_row(report);
  for (const auto& [key, value] : added_) row[key] = value;
  rows_->write_row(row);
  if (events_) write_events(report);
  added_.clear();
  if (report.step % config_.every == 0 || report.step == report.total_steps) console_.line(step_line(report));
  console_.status(progress_bar(report.step, report.total_steps) + " " + step_line(report));
}

void LogHook::write_apart(int64_t step, const std::string& event, const Values& values) {
  if (values.empty()) return;
  nlohmann::ordered_json row = {{"step", step}, {"event", event}};
  for (const auto& [key, value] : values) {
    row[key] = value;
    if (events_) events_->scalar(key, value, step);
  }
  rows_->write_row(row);
}

void LogHook::write_events(const StepReport& report) {
  events_->scalar("train/loss", report.loss, report.step);
  events_->scalar("train/grad_norm", report.grad_norm, report.step);
  events_->scalar("train/lr", report.lr, report.step);
  events_->scalar("train/epoch", report.epoch, report.step);
  events_->scalar("speed/tokens_per_second", report.tokens_per_second, report.step);
  events_->scalar("memory/peak_bytes", static_cast<double>(report.memory_bytes), report.step);
  for (const auto& [key, value] : added_) events_->scalar(key, value, report.step);
}

}  // namespace qkr
