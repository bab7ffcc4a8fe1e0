#include "policy.cpp"

#include "fake_host.hpp"

static void expect_rotation(std::string_view config, std::string_view zone, const std::vector<Endpoint> &endpoints,
                            const std::vector<uint32_t> &expected) {
  const auto plan = build(config, {"svc", zone}, endpoints);
  assert(plan && plan->kind == Plan::Rotation && plan->entries == expected);
}

int main() {
  expect_rotation("{}", "", {{.weight = 2}, {.weight = 1}, {.weight = 1}, {.weight = 0}}, {0, 1, 0, 2});
  expect_rotation(" {} ", "", {}, {});

  const std::vector<Endpoint> zones = {{.zone = "here"}, {.zone = "there"}};
  expect_rotation(R"({"zone_factor": 3})", "here", zones, {0, 0, 0, 1});
  expect_rotation(R"({"zone_factor": 3})", "", zones, {0, 1});

  expect_refusal(R"({"zone_factor": 0})", "`zone_factor` must be a whole number from 1 to 100, not 0");
  expect_refusal(R"({"zone_factor": "4"})", R"(`zone_factor` must be a whole number from 1 to 100, not "4")");
  expect_refusal(R"({"zone": 1})", "unknown field `zone`; there is `zone_factor`");
  for (const char *no_object : {"", "[]", "{", R"({"zone_factor")", R"({"zone_factor": 3} x)", R"({"zone_factor": 3,})"})
    expect_refusal(no_object, R"(the configuration must be an object of whole numbers, like {"zone_factor": 4})");
  std::puts("ok");
}
