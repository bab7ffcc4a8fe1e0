// my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.
//
// A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
// what `build` answers and walks it for ever; every change of the endpoints is a new `build` in a fresh instance.

#include <stdlib.h>
#include <string.h>

#include "balancer_plugin.h"
#include "config.h"

typedef balancer_plugin_string_t string;

// A plan has at most so many entries, unless there are more endpoints than that.
#define MAX_TURNS 16384

// One turn of an endpoint: when it is due, as a part of the round.
typedef struct {
  double due;
  uint32_t endpoint;
} turn;

static bool is_home(string zone, string own) {
  return own.len > 0 && zone.len == own.len && memcmp(zone.ptr, own.ptr, own.len) == 0;
}

static int by_due(const void *left, const void *right) {
  const turn *a = left, *b = right;
  if (a->due != b->due) return a->due < b->due ? -1 : 1;
  return a->endpoint < b->endpoint ? -1 : a->endpoint > b->endpoint;
}

// How often each endpoint comes in one round. Halved until the round is short enough, so that nobody falls to nothing.
static uint64_t count_turns(uint64_t *shares, size_t n) {
  size_t most = n > MAX_TURNS ? n : MAX_TURNS;
  for (;;) {
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) total += shares[i];
    if (total <= most) return total;
    for (size_t i = 0; i < n; i++) shares[i] = (shares[i] + 1) / 2;
  }
}

void exports_waymark_plugin_balancer_describe(exports_waymark_plugin_balancer_description_t *ret) {
  balancer_plugin_string_dup(&ret->name, "my_policy");
  balancer_plugin_string_dup(&ret->version, "0.1.0");
  balancer_plugin_string_dup(&ret->summary, "In turn by weight; endpoints of the own zone count several times.");
  balancer_plugin_string_dup(&ret->warning, "");
  ret->fields.len = 1;
  ret->fields.ptr = malloc(sizeof *ret->fields.ptr);
  balancer_plugin_string_dup(&ret->fields.ptr->name, "zone_factor");
  balancer_plugin_string_dup(&ret->fields.ptr->default_, "4");
  balancer_plugin_string_dup(&ret->fields.ptr->doc,
                             "how many times its weight an endpoint of the node's own zone counts, 1 to 100");
}

bool exports_waymark_plugin_balancer_build(string *config, exports_waymark_plugin_balancer_scope_t *scope,
                                           exports_waymark_plugin_balancer_list_endpoint_t *endpoints,
                                           exports_waymark_plugin_balancer_plan_t *ret, string *err) {
  uint32_t zone_factor = 4;
  if (!read_integer(config, "zone_factor", 1, 100, &zone_factor, err)) return false;

  // A weight of 0 means: send it nothing.
  uint32_t *receiving = malloc((endpoints->len + 1) * sizeof *receiving);
  uint64_t *shares = malloc((endpoints->len + 1) * sizeof *shares);
  size_t n = 0;
  for (size_t i = 0; i < endpoints->len; i++) {
    const exports_waymark_plugin_balancer_endpoint_t *endpoint = &endpoints->ptr[i];
    if (endpoint->weight == 0) continue;
    receiving[n] = (uint32_t)i;
    shares[n++] = (uint64_t)endpoint->weight * (is_home(endpoint->zone, scope->zone) ? zone_factor : 1);
  }

  // The turns of each are spread evenly over the round, and the endpoints begin one after the other.
  uint64_t total = count_turns(shares, n);
  turn *turns = malloc((total + 1) * sizeof *turns);
  size_t at = 0;
  for (size_t i = 0; i < n; i++)
    for (uint64_t k = 0; k < shares[i]; k++)
      turns[at++] = (turn){(double)(2 * n * k + 2 * i + 1) / (double)shares[i], receiving[i]};
  qsort(turns, total, sizeof *turns, by_due);

  ret->tag = EXPORTS_WAYMARK_PLUGIN_BALANCER_PLAN_ROTATION;
  ret->val.rotation.len = total;
  ret->val.rotation.ptr = malloc((total + 1) * sizeof(uint32_t));
  for (size_t i = 0; i < total; i++) ret->val.rotation.ptr[i] = turns[i].endpoint;
  free(turns);
  free(shares);
  free(receiving);
  exports_waymark_plugin_balancer_scope_free(scope);
  exports_waymark_plugin_balancer_list_endpoint_free(endpoints);
  balancer_plugin_string_free(config);
  return true;
}

// Never called: `build` answers a plan.
void exports_waymark_plugin_balancer_pick(exports_waymark_plugin_balancer_context_t *context,
                                          exports_waymark_plugin_balancer_decision_t *ret) {
  (void)context;
  ret->tag = EXPORTS_WAYMARK_PLUGIN_BALANCER_DECISION_QUEUE;
}
