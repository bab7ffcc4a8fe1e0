// What the host gives a policy, for tests on your own machine: it answers what a test puts here.
#pragma once

#include <cassert>
#include <cstdio>
#include <cstdlib>

#include "waymark.hpp"

namespace fake {
inline std::vector<uint32_t> in_flight;
inline std::vector<uint32_t> tried;
}  // namespace fake

std::string waymark::host::path() { return {}; }
std::optional<std::string> waymark::host::header(std::string_view) { return std::nullopt; }
bool waymark::host::tried(uint32_t endpoint) {
  for (const uint32_t one : fake::tried)
    if (one == endpoint) return true;
  return false;
}
uint32_t waymark::host::in_flight(uint32_t endpoint) { return endpoint < fake::in_flight.size() ? fake::in_flight[endpoint] : 0; }
uint32_t waymark::host::latency_us(uint32_t) { return 0; }
double waymark::host::failure_rate(uint32_t) { return 0; }
std::optional<waymark::LoadReport> waymark::host::report(uint32_t) { return std::nullopt; }
std::optional<double> waymark::host::metric(uint32_t, std::string_view) { return std::nullopt; }
void waymark::host::log(Level, std::string_view) {}

inline void expect_refusal(std::string_view config, std::string_view message) {
  const auto plan = waymark::build(config, {}, {});
  if (!plan && plan.error() == message) return;
  std::fprintf(stderr, "%.*s: %s\n", static_cast<int>(config.size()), config.data(),
               plan ? "was not refused" : ("was refused with: " + plan.error()).c_str());
  std::abort();
}
