// What the host and the bindings give a policy, for tests on your own machine.
#pragma once

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balancer_plugin.h"

static uint32_t fake_in_flight[16];
static bool fake_tried[16];

uint32_t waymark_plugin_load_in_flight(uint32_t endpoint) { return fake_in_flight[endpoint]; }
bool waymark_plugin_request_tried(uint32_t endpoint) { return fake_tried[endpoint]; }
double waymark_plugin_load_failure_rate(uint32_t endpoint) { return (void)endpoint, 0; }
bool waymark_plugin_load_report(uint32_t endpoint, waymark_plugin_load_load_report_t *ret) {
  return (void)endpoint, (void)ret, false;
}
bool waymark_plugin_load_metric(uint32_t endpoint, balancer_plugin_string_t *name, double *ret) {
  return (void)endpoint, (void)name, (void)ret, false;
}

void balancer_plugin_string_dup_n(balancer_plugin_string_t *ret, const char *s, size_t len) {
  ret->ptr = memcpy(malloc(len + 1), s, len);
  ret->len = len;
}
void balancer_plugin_string_dup(balancer_plugin_string_t *ret, const char *s) {
  balancer_plugin_string_dup_n(ret, s, strlen(s));
}
// A test ends before memory does.
void balancer_plugin_string_free(balancer_plugin_string_t *ptr) { (void)ptr; }
void exports_waymark_plugin_balancer_scope_free(exports_waymark_plugin_balancer_scope_t *ptr) { (void)ptr; }
void exports_waymark_plugin_balancer_list_endpoint_free(exports_waymark_plugin_balancer_list_endpoint_t *ptr) { (void)ptr; }

// An endpoint of this zone and weight.
static exports_waymark_plugin_balancer_endpoint_t endpoint(const char *zone, uint32_t weight) {
  exports_waymark_plugin_balancer_endpoint_t made = {.weight = weight};
  balancer_plugin_string_dup(&made.zone, zone);
  return made;
}

// Builds for these endpoints. False, with the refusal in `error`, when the policy refused.
static bool build(const char *config, const char *zone, exports_waymark_plugin_balancer_endpoint_t *list, size_t len,
                  exports_waymark_plugin_balancer_plan_t *plan, balancer_plugin_string_t *error) {
  balancer_plugin_string_t text;
  exports_waymark_plugin_balancer_scope_t scope = {0};
  exports_waymark_plugin_balancer_list_endpoint_t endpoints = {list, len};
  balancer_plugin_string_dup(&text, config);
  balancer_plugin_string_dup(&scope.zone, zone);
  return exports_waymark_plugin_balancer_build(&text, &scope, &endpoints, plan, error);
}

static void expect_refusal(const char *config, const char *message) {
  exports_waymark_plugin_balancer_plan_t plan;
  balancer_plugin_string_t error = {0};
  assert(!build(config, "", NULL, 0, &plan, &error));
  if (error.len != strlen(message) || memcmp(error.ptr, message, error.len) != 0) {
    fprintf(stderr, "%s was refused with: %.*s\n", config, (int)error.len, error.ptr);
    abort();
  }
}
