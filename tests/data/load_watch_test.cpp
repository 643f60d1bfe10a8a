// How far the reading of rows has come.
#include "trainer/data/load_watch.h"

#include <gtest/gtest.h>

#include <future>

#include "tests/data/support.h"

namespace qkr {
namespace {

TEST(LoadWatcher, TellsWhatIsDoneAndTheLargestRowAtWork) {
  std::promise<LoadProgress> promise;
  std::atomic<bool> told{false}, due{false};
  const auto watch = [&](const LoadProgress& now) {
    if (due && !told.exchange(true)) promise.set_value(now);
  };
  LoadWatcher watcher(watch, {10, 30, 500, 400, 7}, [](size_t row) { return "a.jsonl:" + std::to_string(row + 1); }, std::chrono::milliseconds(1));
  for (const size_t row : {0, 2, 3, 1}) watcher.begin(row);
  for (const size_t row : {0, 2}) watcher.end(row);
  due = true;
  const LoadProgress now = promise.get_future().get();
  EXPECT_EQ(now.rows_done, 2);
  EXPECT_EQ(now.rows, 5);
  EXPECT_EQ(now.bytes_done, 510);
  EXPECT_EQ(now.bytes, 947);
  EXPECT_GT(now.seconds, 0);
  EXPECT_EQ(now.largest, "a.jsonl:4");
  EXPECT_EQ(now.largest_bytes, 400);
}

TEST(LoadWatcher, SaysNothingOnceItIsGone) {
  std::atomic<int> calls{0};
  {
    LoadWatcher watcher([&](const LoadProgress&) { ++calls; }, {1}, [](size_t) { return ""; }, std::chrono::milliseconds(1));
    while (calls == 0) std::this_thread::yield();
  }
  const int before = calls;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(calls, before);
}

TEST(LoadWatcher, AnErrorOfARowIsToldAsWithoutIt) {
  const test::Rows rows("{\"messages\": 3}\n");
  const auto load = [&](const LoadWatch& watch) { return QKR_MESSAGE_OF(Dataset::load(rows.config, test::text_model(), watch)); };
  EXPECT_NE(load({}), "");
  EXPECT_EQ(load([](const LoadProgress&) {}), load({}));
}

}  // namespace
}  // namespace qkr
