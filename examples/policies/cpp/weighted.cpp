// my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.
//
// A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
// what `build` answers and walks it for ever; every change of the endpoints is a new `build` in a fresh instance.

#include <algorithm>
#include <numeric>

#include "config.hpp"
#include "waymark.hpp"

using namespace waymark;

// A plan has at most so many entries, unless there are more endpoints than that.
static constexpr size_t MAX_TURNS = 16384;

namespace {

// One turn of an endpoint: when it is due, as a part of the round.
struct Turn {
  double due;
  uint32_t endpoint;
  auto operator<=>(const Turn &) const = default;
};

}  // namespace

Description waymark::describe() {
  return {
      .name = "my_policy",
      .version = "0.1.0",
      .summary = "In turn by weight; endpoints of the own zone count several times.",
      .fields = {{"zone_factor", "4", "how many times its weight an endpoint of the node's own zone counts, 1 to 100"}},
  };
}

std::expected<Plan, std::string> waymark::build(std::string_view config, const Scope &scope,
                                                std::span<const Endpoint> endpoints) {
  const auto zone_factor = read_integer(config, "zone_factor", 1, 100, 4);
  if (!zone_factor) return std::unexpected(zone_factor.error());

  // A weight of 0 means: send it nothing.
  std::vector<uint32_t> receiving;
  std::vector<uint64_t> shares;
  for (uint32_t index = 0; index < endpoints.size(); index++) {
    const Endpoint &endpoint = endpoints[index];
    if (endpoint.weight == 0) continue;
    const bool is_home = !scope.zone.empty() && endpoint.zone == scope.zone;
    receiving.push_back(index);
    shares.push_back(uint64_t{endpoint.weight} * (is_home ? *zone_factor : 1));
  }

  // Halved until the round is short enough, so that nobody falls to nothing.
  const size_t n = shares.size();
  while (std::accumulate(shares.begin(), shares.end(), uint64_t{0}) > std::max(MAX_TURNS, n))
    for (uint64_t &share : shares) share = (share + 1) / 2;

  // The turns of each are spread evenly over the round, and the endpoints begin one after the other.
  std::vector<Turn> turns;
  for (size_t i = 0; i < n; i++)
    for (uint64_t k = 0; k < shares[i]; k++)
      turns.push_back({double(2 * n * k + 2 * i + 1) / double(shares[i]), receiving[i]});
  std::ranges::sort(turns, [](const Turn &a, const Turn &b) { return a < b; });

  Plan plan{Plan::Rotation};
  for (const Turn &turn : turns) plan.entries.push_back(turn.endpoint);
  return plan;
}

// Never called: `build` answers a plan.
Decision waymark::pick(const Context &) { return {Decision::Queue}; }
