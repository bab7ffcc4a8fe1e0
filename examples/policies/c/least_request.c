// my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//
// Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.

#include <stdlib.h>
#include <string.h>

#include "balancer_plugin.h"
#include "config.h"

typedef balancer_plugin_string_t string;

#define MOST_CHOICES 10

// What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to look at.
static uint32_t *receiving;
static uint32_t n, choices;

void exports_waymark_plugin_balancer_describe(exports_waymark_plugin_balancer_description_t *ret) {
  balancer_plugin_string_dup(&ret->name, "my_policy");
  balancer_plugin_string_dup(&ret->version, "0.1.0");
  balancer_plugin_string_dup(&ret->summary, "The endpoint with the fewest calls in flight among a few chosen at random.");
  balancer_plugin_string_dup(&ret->warning, "");
  ret->fields.len = 1;
  ret->fields.ptr = malloc(sizeof *ret->fields.ptr);
  balancer_plugin_string_dup(&ret->fields.ptr->name, "choices");
  balancer_plugin_string_dup(&ret->fields.ptr->default_, "2");
  balancer_plugin_string_dup(&ret->fields.ptr->doc, "how many endpoints are compared for each request, 2 to 10");
}

bool exports_waymark_plugin_balancer_build(string *config, exports_waymark_plugin_balancer_scope_t *scope,
                                           exports_waymark_plugin_balancer_list_endpoint_t *endpoints,
                                           exports_waymark_plugin_balancer_plan_t *ret, string *err) {
  choices = 2;
  if (!read_integer(config, "choices", 2, MOST_CHOICES, &choices, err)) return false;
  receiving = malloc((endpoints->len + 1) * sizeof *receiving);
  n = 0;
  // A weight of 0 means: send it nothing.
  for (size_t i = 0; i < endpoints->len; i++)
    if (endpoints->ptr[i].weight > 0) receiving[n++] = (uint32_t)i;
  if (n > 0) {
    ret->tag = EXPORTS_WAYMARK_PLUGIN_BALANCER_PLAN_EACH_REQUEST;
  } else {
    // Nobody to choose from: an empty plan lets the host say why.
    ret->tag = EXPORTS_WAYMARK_PLUGIN_BALANCER_PLAN_ROTATION;
    ret->val.rotation.ptr = NULL;
    ret->val.rotation.len = 0;
  }
  exports_waymark_plugin_balancer_scope_free(scope);
  exports_waymark_plugin_balancer_list_endpoint_free(endpoints);
  balancer_plugin_string_free(config);
  return true;
}

// A number below `below`, of a uniform random number.
static uint32_t scale(uint32_t random, uint32_t below) { return (uint32_t)(((uint64_t)random * below) >> 32); }

static bool contains(const uint32_t *list, uint32_t len, uint32_t endpoint) {
  for (uint32_t i = 0; i < len; i++)
    if (list[i] == endpoint) return true;
  return false;
}

void exports_waymark_plugin_balancer_pick(exports_waymark_plugin_balancer_context_t *context,
                                          exports_waymark_plugin_balancer_decision_t *ret) {
  // Places at equal distances: two of them are any pair.
  uint32_t first = scale(context->random.f0, n), step = n > 1 ? 1 + scale(context->random.f1, n - 1) : 0;
  uint32_t chosen[MOST_CHOICES], count = 0;
  for (uint32_t nth = 0; nth < choices && nth < n; nth++) {
    // Whoever was chosen already, or failed this same request, is passed over for the next.
    for (uint32_t offset = 0; offset < n; offset++) {
      uint32_t endpoint = receiving[(first + nth * step + offset) % n];
      if (contains(chosen, count, endpoint)) continue;
      if (context->attempt > 0 && waymark_plugin_request_tried(endpoint)) continue;
      chosen[count++] = endpoint;
      break;
    }
  }
  // Where everything was tried, a second try is better than none.
  if (count < 2) {
    ret->tag = EXPORTS_WAYMARK_PLUGIN_BALANCER_DECISION_ENDPOINT;
    ret->val.endpoint = count == 1 ? chosen[0] : receiving[first];
    return;
  }
  uint32_t least = chosen[0], next = chosen[1];
  if (count > 2) {
    uint32_t least_load = waymark_plugin_load_in_flight(least), next_load = waymark_plugin_load_in_flight(next);
    for (uint32_t i = 1; i < count; i++) {
      uint32_t load = i == 1 ? next_load : waymark_plugin_load_in_flight(chosen[i]);
      if (load < least_load) {
        next = least, next_load = least_load;
        least = chosen[i], least_load = load;
      } else if (i == 1 || load < next_load) {
        next = chosen[i], next_load = load;
      }
    }
  }
  ret->tag = EXPORTS_WAYMARK_PLUGIN_BALANCER_DECISION_EITHER;
  ret->val.either.f0 = least;
  ret->val.either.f1 = next;
}
