// Crosses the border by the C bindings. What it hands out is freed by them after the host has read it.

#include "waymark.hpp"

#include <cstdlib>
#include <cstring>
#include <new>

#include "balancer_plugin.h"

// The C library's memory is C++'s. With the run-time library's own `new` exceptions would come along, and with them WASI.
void *operator new(size_t size) {
  if (void *made = std::malloc(size)) return made;
  std::abort();
}
void operator delete(void *block) noexcept { std::free(block); }
void operator delete(void *block, size_t) noexcept { std::free(block); }

// Where the library would throw. The host logs what it says; the trap that follows says only "unreachable".
void std::__libcpp_verbose_abort(const char *format, ...) noexcept {
  waymark::host::log(waymark::host::Error, format);
  std::abort();
}

namespace waymark {
namespace {

std::string_view view(const balancer_plugin_string_t &text) { return {reinterpret_cast<char *>(text.ptr), text.len}; }

balancer_plugin_string_t borrow(std::string_view text) {
  return {reinterpret_cast<uint8_t *>(const_cast<char *>(text.data())), text.size()};
}

template <typename T>
T *room(size_t count) {
  return static_cast<T *>(std::malloc((count + 1) * sizeof(T)));
}

void lend(std::string_view text, balancer_plugin_string_t &to) {
  to = {room<uint8_t>(text.size()), text.size()};
  if (!text.empty()) std::memcpy(to.ptr, text.data(), text.size());
}

std::string take(balancer_plugin_string_t text) {
  std::string made(view(text));
  balancer_plugin_string_free(&text);
  return made;
}

}  // namespace

namespace host {

std::string path() {
  balancer_plugin_string_t said;
  waymark_plugin_request_path(&said);
  return take(said);
}

std::optional<std::string> header(std::string_view name) {
  balancer_plugin_string_t asked = borrow(name), said;
  if (!waymark_plugin_request_header(&asked, &said)) return std::nullopt;
  return take(said);
}

bool tried(uint32_t endpoint) { return waymark_plugin_request_tried(endpoint); }
uint32_t in_flight(uint32_t endpoint) { return waymark_plugin_load_in_flight(endpoint); }
uint32_t latency_us(uint32_t endpoint) { return waymark_plugin_load_latency_us(endpoint); }
double failure_rate(uint32_t endpoint) { return waymark_plugin_load_failure_rate(endpoint); }

std::optional<LoadReport> report(uint32_t endpoint) {
  waymark_plugin_load_load_report_t said;
  if (!waymark_plugin_load_report(endpoint, &said)) return std::nullopt;
  return LoadReport{said.cpu_utilization, said.memory_utilization, said.application_utilization, said.rps, said.eps, said.age_ms};
}

std::optional<double> metric(uint32_t endpoint, std::string_view name) {
  balancer_plugin_string_t asked = borrow(name);
  double said;
  if (!waymark_plugin_load_metric(endpoint, &asked, &said)) return std::nullopt;
  return said;
}

void log(Level level, std::string_view message) {
  balancer_plugin_string_t text = borrow(message);
  waymark_plugin_log_log(level, &text);
}

}  // namespace host
}  // namespace waymark

using namespace waymark;

extern "C" void exports_waymark_plugin_balancer_describe(exports_waymark_plugin_balancer_description_t *ret) {
  const Description about = describe();
  lend(about.name, ret->name);
  lend(about.version, ret->version);
  lend(about.summary, ret->summary);
  lend(about.warning, ret->warning);
  ret->fields = {room<waymark_plugin_types_config_field_t>(about.fields.size()), about.fields.size()};
  for (size_t i = 0; i < about.fields.size(); i++) {
    lend(about.fields[i].name, ret->fields.ptr[i].name);
    lend(about.fields[i].default_value, ret->fields.ptr[i].default_);
    lend(about.fields[i].doc, ret->fields.ptr[i].doc);
  }
}

extern "C" bool exports_waymark_plugin_balancer_build(balancer_plugin_string_t *config,
                                                      exports_waymark_plugin_balancer_scope_t *scope,
                                                      exports_waymark_plugin_balancer_list_endpoint_t *endpoints,
                                                      exports_waymark_plugin_balancer_plan_t *ret,
                                                      balancer_plugin_string_t *err) {
  std::vector<Endpoint> list;
  list.reserve(endpoints->len);
  for (const auto &endpoint : std::span(endpoints->ptr, endpoints->len)) {
    list.push_back({view(endpoint.id), view(endpoint.address), view(endpoint.zone), endpoint.weight, {}});
    for (const auto &pair : std::span(endpoint.metadata.ptr, endpoint.metadata.len))
      list.back().metadata.emplace_back(view(pair.f0), view(pair.f1));
  }
  const auto plan = build(view(*config), {view(scope->service), view(scope->zone)}, list);
  if (plan) {
    ret->tag = plan->kind;
    ret->val.rotation = {room<uint32_t>(plan->entries.size()), plan->entries.size()};
    if (!plan->entries.empty()) std::memcpy(ret->val.rotation.ptr, plan->entries.data(), 4 * plan->entries.size());
  } else {
    lend(plan.error(), *err);
  }
  exports_waymark_plugin_balancer_list_endpoint_free(endpoints);
  exports_waymark_plugin_balancer_scope_free(scope);
  balancer_plugin_string_free(config);
  return plan.has_value();
}

extern "C" void exports_waymark_plugin_balancer_pick(exports_waymark_plugin_balancer_context_t *context,
                                                     exports_waymark_plugin_balancer_decision_t *ret) {
  const auto hash = context->hash.is_some ? std::optional(context->hash.val) : std::nullopt;
  const Decision decision = pick({context->sequence, {context->random.f0, context->random.f1}, hash, context->attempt});
  ret->tag = decision.kind;
  switch (decision.kind) {
    case Decision::ToEndpoint: ret->val.endpoint = decision.a; break;
    case Decision::Either: ret->val.either = {decision.a, decision.b}; break;
    case Decision::Queue: break;
    case Decision::Fail:
    case Decision::Drop: lend(decision.message, ret->val.fail); break;
  }
}
