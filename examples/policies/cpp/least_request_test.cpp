#include "policy.cpp"

#include "fake_host.hpp"

static bool is(const Decision &decision, Decision::Kind kind, uint32_t a, uint32_t b = 0) {
  return decision.kind == kind && decision.a == a && decision.b == b;
}

int main() {
  const std::vector<Endpoint> four(4);

  // Two are drawn, and the host compares them.
  assert(build("{}", {}, four)->kind == Plan::EachRequest);
  assert(is(pick({.random = {0, UINT32_MAX}}), Decision::Either, 0, 3));

  // Of more, the two least busy are left; among equals the first drawn.
  assert(build(R"({"choices": 4})", {}, four));
  fake::in_flight = {9, 1, 7, 0};
  assert(is(pick({.random = {1u << 30, 5}}), Decision::Either, 3, 1));
  fake::in_flight = {1, 1, 1, 1};
  assert(is(pick({.random = {1u << 30, 5}}), Decision::Either, 1, 2));

  // A further attempt goes elsewhere while there is anybody.
  assert(build("{}", {}, std::vector<Endpoint>{{}, {.weight = 0}, {}}));
  fake::tried = {0};
  assert(is(pick({.random = {0, 0}, .attempt = 1}), Decision::ToEndpoint, 2));
  fake::tried = {0, 2};
  assert(is(pick({.random = {0, 0}, .attempt = 1}), Decision::ToEndpoint, 0));

  // Nobody is an empty plan.
  const auto plan = build("{}", {}, std::vector<Endpoint>{{.weight = 0}});
  assert(plan && plan->kind == Plan::Rotation && plan->entries.empty());

  expect_refusal(R"({"choices": 11})", "`choices` must be a whole number from 2 to 10, not 11");
  std::puts("ok");
}
