#include "trainer/probe/draw.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/probe/random.h"
#include "trainer/probe/words.h"

namespace qkr {
namespace {

// What a generator is seeded for, beside the item: streams of their own, so that one more draw here
// changes nothing there.
enum Stream : uint64_t { kFirst = 0, kPlace = 1, kOthers = 2, kDistractor = 3, kChain = 4 };

SplitMix64 stream(int64_t seed, NeedleTask task, int64_t length, int64_t index, Stream which) {
  return SplitMix64({static_cast<uint64_t>(seed), static_cast<uint64_t>(task),
                     static_cast<uint64_t>(length), static_cast<uint64_t>(index), which});
}

std::string draw_uuid(SplitMix64* random) {
  uint64_t high = random->next(), low = random->next();
  high = (high & ~0xF000ull) | 0x4000ull;    // version 4
  low = (low & ~(3ull << 62)) | 1ull << 63;  // the variant of RFC 9562
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int i = 0; i < 32; ++i) {
    if (i == 8 || i == 12 || i == 16 || i == 20) text.push_back('-');
    text.push_back(kDigits[(i < 16 ? high >> (60 - 4 * i) : low >> (124 - 4 * i)) & 15]);
  }
  return text;
}

std::string draw_key(NeedleTask task, SplitMix64* random) {
  if (traits_of(task).uuid_key) return draw_uuid(random);
  const std::string_view adjective =
      distinct_adjectives()[random->below(distinct_adjectives().size())];
  const std::string_view noun = nouns()[random->below(nouns().size())];
  return concat(adjective, "-", noun);
}

std::string draw_value(NeedleTask task, SplitMix64* random) {
  return traits_of(task).uuid_value ? draw_uuid(random)
                                    : std::to_string(1000000 + random->below(9000000));
}

// Which of the 40 places the item takes: a new order for every 40 items of a cell.
size_t draw_place(int64_t seed, NeedleTask task, int64_t length, int64_t index) {
  const size_t count = depth_points().size();
  const int64_t round = index / static_cast<int64_t>(count);
  SplitMix64 random = stream(seed, task, length, round, kPlace);
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t j = random.below(i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return order[static_cast<size_t>(index) % count];
}

// Further needles: other keys, or other values of the key; at depths that no needle has yet.
void draw_others(NeedleTask task, SplitMix64 random, NeedleDraw* draw) {
  const NeedleTaskTraits& traits = traits_of(task);
  const auto taken = [&](const Needle& other, const Needle& fresh) {
    return other.value == fresh.value || other.depth == fresh.depth ||
           (traits.keys > 1 && other.key == fresh.key);
  };
  while (static_cast<int>(draw->others.size()) + 1 < traits.keys * traits.values) {
    Needle fresh;
    fresh.key = traits.keys > 1 ? draw_key(task, &random) : draw->key;
    fresh.value = draw_value(task, &random);
    fresh.depth = depth_points()[random.below(depth_points().size())];
    const Needle first{draw->key, draw->value, draw->depth, 0};
    if (taken(first, fresh) || std::any_of(draw->others.begin(), draw->others.end(),
                                           [&](const Needle& n) { return taken(n, fresh); }))
      continue;
    draw->others.push_back(fresh);
  }
}

// Distinct variables of `letters` capital letters, none of them "VAR".
VariableChain draw_chain(int letters, SplitMix64* random) {
  VariableChain chain;
  while (chain.names.size() < kChainLength) {
    std::string name;
    for (int i = 0; i < letters; ++i) name.push_back(static_cast<char>('A' + random->below(26)));
    if (name != "VAR" && std::find(chain.names.begin(), chain.names.end(), name) == chain.names.end())
      chain.names.push_back(name);
  }
  chain.value = std::to_string(10000 + random->below(89999));
  return chain;
}

std::vector<double> draw_shares(SplitMix64* random) {
  std::vector<double> shares;
  for (int i = 0; i < kChainLength; ++i) shares.push_back(random->unit());
  std::sort(shares.begin(), shares.end());
  return shares;
}

NeedleDraw draw_tracking(int64_t seed, NeedleTask task, int64_t length, int64_t index) {
  SplitMix64 random = stream(seed, task, length, index, kChain);
  NeedleDraw draw;
  draw.example = draw_chain(3, &random);
  draw.example_at = draw_shares(&random);
  do draw.chain = draw_chain(5, &random);
  while (draw.chain.value == draw.example.value);
  draw.chain_at = draw_shares(&random);
  draw.key = draw.chain.value;
  draw.value = draw.chain.names[0];
  return draw;
}

}  // namespace

const std::vector<int>& depth_points() {
  static const std::vector<int> points = {0,  3,  5,  8,  10, 13, 15, 18, 21, 23, 26, 28, 31, 33,
                                          36, 38, 41, 44, 46, 49, 51, 54, 56, 59, 62, 64, 67, 69,
                                          72, 74, 77, 79, 82, 85, 87, 90, 92, 95, 97, 100};
  return points;
}

NeedleDraw draw_needle(int64_t seed, NeedleTask task, int64_t length, int64_t index) {
  if (task == NeedleTask::kVariableTracking) return draw_tracking(seed, task, length, index);
  SplitMix64 random = stream(seed, task, length, index, kFirst);
  NeedleDraw draw;
  draw.key = draw_key(task, &random);
  draw.value = draw_value(task, &random);
  const size_t place = draw_place(seed, task, length, index);
  if (traits_of(task).haystack == HaystackKind::kText) {
    draw.depth = depth_points()[place];
  } else {
    draw.fraction =
        (static_cast<double>(place) + random.unit()) / static_cast<double>(depth_points().size());
  }
  draw_others(task, stream(seed, task, length, index, kOthers), &draw);
  return draw;
}

Needle draw_distractor(int64_t seed, NeedleTask task, int64_t length, int64_t index, int64_t line,
                       const std::string& asked) {
  SplitMix64 random({static_cast<uint64_t>(seed), static_cast<uint64_t>(task),
                     static_cast<uint64_t>(length), static_cast<uint64_t>(index), kDistractor,
                     static_cast<uint64_t>(line)});
  Needle needle;
  do needle.key = draw_key(task, &random);
  while (needle.key == asked);
  needle.value = draw_value(task, &random);
  return needle;
}

}  // namespace qkr
