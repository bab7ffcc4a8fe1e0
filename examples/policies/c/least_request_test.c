#include "policy.c"

#include "fake_host.h"

static exports_waymark_plugin_balancer_decision_t decide(uint32_t random0, uint32_t random1, uint32_t attempt) {
  exports_waymark_plugin_balancer_context_t context = {.random = {random0, random1}, .attempt = attempt};
  exports_waymark_plugin_balancer_decision_t decision;
  exports_waymark_plugin_balancer_pick(&context, &decision);
  return decision;
}

int main(void) {
  exports_waymark_plugin_balancer_endpoint_t four[] = {endpoint("", 1), endpoint("", 1), endpoint("", 1), endpoint("", 1)};
  exports_waymark_plugin_balancer_plan_t plan;
  balancer_plugin_string_t error;
  exports_waymark_plugin_balancer_decision_t decision;

  // Two are drawn, and the host compares them.
  assert(build("{}", "", four, 4, &plan, &error));
  assert(plan.tag == EXPORTS_WAYMARK_PLUGIN_BALANCER_PLAN_EACH_REQUEST);
  decision = decide(0, UINT32_MAX, 0);
  assert(decision.tag == EXPORTS_WAYMARK_PLUGIN_BALANCER_DECISION_EITHER);
  assert(decision.val.either.f0 == 0 && decision.val.either.f1 == 3);

  // Of more, the two least busy are left.
  assert(build("{\"choices\": 4}", "", four, 4, &plan, &error));
  memcpy(fake_in_flight, (uint32_t[]){9, 1, 7, 0}, 4 * sizeof(uint32_t));
  decision = decide(1u << 30, 5, 0);
  assert(decision.val.either.f0 == 3 && decision.val.either.f1 == 1);

  // A further attempt goes elsewhere while there is anybody.
  exports_waymark_plugin_balancer_endpoint_t two[] = {endpoint("", 1), endpoint("", 0), endpoint("", 1)};
  assert(build("{}", "", two, 3, &plan, &error));
  fake_tried[0] = true;
  decision = decide(0, 0, 1);
  assert(decision.tag == EXPORTS_WAYMARK_PLUGIN_BALANCER_DECISION_ENDPOINT && decision.val.endpoint == 2);
  fake_tried[2] = true;
  decision = decide(0, 0, 1);
  assert(decision.tag == EXPORTS_WAYMARK_PLUGIN_BALANCER_DECISION_ENDPOINT && decision.val.endpoint == 0);

  // Nobody is an empty plan.
  exports_waymark_plugin_balancer_endpoint_t idle[] = {endpoint("", 0)};
  assert(build("{}", "", idle, 1, &plan, &error));
  assert(plan.tag == EXPORTS_WAYMARK_PLUGIN_BALANCER_PLAN_ROTATION && plan.val.rotation.len == 0);

  expect_refusal("{\"choices\": 11}", "`choices` must be a whole number from 2 to 10, not 11");
  puts("ok");
}
