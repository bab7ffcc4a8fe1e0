// my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//
// Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.

#include <algorithm>

#include "config.hpp"
#include "waymark.hpp"

using namespace waymark;

namespace {

constexpr uint32_t MOST_CHOICES = 10;

// What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to look at.
std::vector<uint32_t> receiving;
uint32_t choices;

// An endpoint that was chosen, with its load.
struct Chosen {
  uint32_t endpoint, load;
};

// A number below `below`, of a uniform random number.
uint32_t scale(uint32_t random, uint32_t below) { return static_cast<uint32_t>((uint64_t{random} * below) >> 32); }

}  // namespace

Description waymark::describe() {
  return {
      .name = "my_policy",
      .version = "0.1.0",
      .summary = "The endpoint with the fewest calls in flight among a few chosen at random.",
      .fields = {{"choices", "2", "how many endpoints are compared for each request, 2 to 10"}},
  };
}

std::expected<Plan, std::string> waymark::build(std::string_view config, const Scope &,
                                                std::span<const Endpoint> endpoints) {
  const auto given = read_integer(config, "choices", 2, MOST_CHOICES, 2);
  if (!given) return std::unexpected(given.error());
  choices = *given;
  receiving.clear();
  // A weight of 0 means: send it nothing.
  for (uint32_t index = 0; index < endpoints.size(); index++)
    if (endpoints[index].weight > 0) receiving.push_back(index);
  // Nobody to choose from: an empty plan lets the host say why.
  return Plan{receiving.empty() ? Plan::Rotation : Plan::EachRequest};
}

Decision waymark::pick(const Context &context) {
  const auto n = static_cast<uint32_t>(receiving.size());
  // Places at equal distances: two of them are any pair.
  const uint32_t first = scale(context.random[0], n), step = n > 1 ? 1 + scale(context.random[1], n - 1) : 0;
  std::array<Chosen, MOST_CHOICES> room;
  auto end = room.begin();
  for (uint32_t nth = 0; nth < std::min(choices, n); nth++) {
    // Whoever was chosen already, or failed this same request, is passed over for the next.
    for (uint32_t offset = 0; offset < n; offset++) {
      const uint32_t endpoint = receiving[(first + nth * step + offset) % n];
      if (std::any_of(room.begin(), end, [&](const Chosen &one) { return one.endpoint == endpoint; })) continue;
      if (context.attempt > 0 && host::tried(endpoint)) continue;
      *end++ = {endpoint, 0};
      break;
    }
  }
  const std::span chosen(room.begin(), end);
  // Where everything was tried, a second try is better than none.
  if (chosen.size() < 2) return {Decision::ToEndpoint, chosen.empty() ? receiving[first] : chosen[0].endpoint};
  if (chosen.size() > 2) {
    for (Chosen &one : chosen) one.load = host::in_flight(one.endpoint);
    // Among equals the first drawn: an element moves only past those with more load.
    for (auto next = room.begin() + 1; next != end; ++next)
      std::rotate(std::upper_bound(room.begin(), next, *next, [](auto &a, auto &b) { return a.load < b.load; }), next, next + 1);
  }
  return {Decision::Either, chosen[0].endpoint, chosen[1].endpoint};
}
