#include "policy.c"

#include "fake_host.h"

static void expect_rotation(const char *config, const char *zone, exports_waymark_plugin_balancer_endpoint_t *list,
                            size_t len, const uint32_t *expected, size_t expected_len) {
  exports_waymark_plugin_balancer_plan_t plan;
  balancer_plugin_string_t error;
  assert(build(config, zone, list, len, &plan, &error));
  assert(plan.tag == EXPORTS_WAYMARK_PLUGIN_BALANCER_PLAN_ROTATION && plan.val.rotation.len == expected_len);
  for (size_t i = 0; i < expected_len; i++) assert(plan.val.rotation.ptr[i] == expected[i]);
}

int main(void) {
  exports_waymark_plugin_balancer_endpoint_t weights[] = {endpoint("", 2), endpoint("", 1), endpoint("", 1), endpoint("", 0)};
  expect_rotation("{}", "", weights, 4, (uint32_t[]){0, 1, 0, 2}, 4);
  expect_rotation(" {} ", "", weights, 0, NULL, 0);

  exports_waymark_plugin_balancer_endpoint_t zones[] = {endpoint("here", 1), endpoint("there", 1)};
  expect_rotation("{\"zone_factor\": 3}", "here", zones, 2, (uint32_t[]){0, 0, 0, 1}, 4);
  expect_rotation("{\"zone_factor\": 3}", "", zones, 2, (uint32_t[]){0, 1}, 2);

  expect_refusal("{\"zone_factor\": 0}", "`zone_factor` must be a whole number from 1 to 100, not 0");
  expect_refusal("{\"zone_factor\": \"4\"}", "`zone_factor` must be a whole number from 1 to 100, not \"4\"");
  expect_refusal("{\"zone\": 1}", "unknown field `zone`; there is `zone_factor`");
  const char *no_object[] = {"", "[]", "{", "{\"zone_factor\"", "{\"zone_factor\": 3} x", "{\"zone_factor\": 3,}"};
  for (size_t i = 0; i < sizeof no_object / sizeof *no_object; i++)
    expect_refusal(no_object[i], "the configuration must be an object of whole numbers, like {\"zone_factor\": 4}");
  puts("ok");
}
