#include <algorithm>
#include <numeric>

#include "trainer/core/error.h"
#include "trainer/data/dataset.h"

namespace qkr {
namespace {

// Room left in `count` bins, in a tree of maxima: the leftmost bin that still has `need` is found in O(log n). Bins that
// nothing has been put into have all their room, so the first of them is found when no opened one fits.
class Bins {
 public:
  Bins(size_t count, int64_t room) {
    while (leaves_ < count) leaves_ *= 2;
    room_.assign(2 * leaves_, room);
  }

  // Takes `need` from the leftmost bin that has it, and returns that bin.
  size_t take(int64_t need) {
    size_t node = 1;
    while (node < leaves_) node = room_[2 * node] >= need ? 2 * node : 2 * node + 1;
    const size_t bin = node - leaves_;
    room_[node] -= need;
    while ((node /= 2) > 0) room_[node] = std::max(room_[2 * node], room_[2 * node + 1]);
    return bin;
  }

 private:
  size_t leaves_ = 1;
  std::vector<int64_t> room_;  // node k has the children 2k and 2k + 1; bins are the leaves
};

// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014); constants of Vigna's splitmix64.c.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // Uniform in [0, bound): values that would favour the small ones are drawn again.
  uint64_t below(uint64_t bound) {
    const uint64_t unfair = (0 - bound) % bound;  // 2^64 mod bound
    uint64_t value = next();
    while (value < unfair) value = next();
    return value % bound;
  }

 private:
  uint64_t state_;
};

}  // namespace

std::vector<Row> pack_rows(const std::vector<int64_t>& lengths, int64_t max_length, bool packing) {
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  for (const int64_t i : order) {
    const int64_t length = lengths[static_cast<size_t>(i)];
    if (length < 1 || length > max_length) {
      fail("sample ", i, ": must have 1 to ", max_length, " tokens to be packed, got ", length);
    }
  }
  std::vector<Row> rows;
  if (!packing) {
    for (const int64_t i : order) rows.push_back({i});
    return rows;
  }
  const auto length_of = [&](int64_t i) { return lengths[static_cast<size_t>(i)]; };
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return length_of(a) != length_of(b) ? length_of(a) > length_of(b) : a < b;
  });
  Bins bins(lengths.size(), max_length);
  for (const int64_t i : order) {
    const size_t bin = bins.take(length_of(i));
    if (bin == rows.size()) rows.emplace_back();  // bins are opened from left to right
    rows[bin].push_back(i);
  }
  return rows;
}

std::vector<int64_t> epoch_order(int64_t count, int64_t seed, int64_t epoch, bool shuffle) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  if (!shuffle) return order;
  // The epoch goes through the generator first, so that (seed, epoch + 1) and (seed + 1, epoch) have nothing in common.
  SplitMix64 random(static_cast<uint64_t>(seed) ^ SplitMix64(static_cast<uint64_t>(epoch)).next());
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace qkr
