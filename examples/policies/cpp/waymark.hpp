// The interface waymark:plugin@0.1.1 in C++. What it means is in wit/; waymark.cpp crosses the border.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace waymark {

// One endpoint of a service. Elsewhere it goes by its index in the list that `build` got. Texts are the host's until `build` ends.
struct Endpoint {
  std::string_view id = "", address = "";
  std::string_view zone = "";  // Empty when it is unknown.
  uint32_t weight = 1;         // Its share relative to the others; 0 means: send it nothing.
  std::vector<std::pair<std::string_view, std::string_view>> metadata = {};
};

// What a policy balances for: the service, and the zone of this node (empty when it was not told).
struct Scope {
  std::string_view service, zone;
};

// One field of the configuration. The default is JSON; empty when it must be given.
struct Field {
  std::string_view name, default_value, doc;
};

// What a policy says of itself.
struct Description {
  std::string_view name, version, summary;
  std::vector<Field> fields;
  std::string_view warning = "";
};

// What `build` answers.
struct Plan {
  enum Kind : uint8_t {
    Rotation,     // Walked for ever, one entry a request.
    HashTable,    // The entry at (hash of the request's key) modulo the length.
    EachRequest,  // `pick` is called for every request.
  } kind;
  std::vector<uint32_t> entries = {};
};

// What differs from one request to the next.
struct Context {
  uint32_t sequence = 0;
  std::array<uint32_t, 2> random = {};
  std::optional<uint32_t> hash = {};  // Of the request's key, if it has one.
  uint32_t attempt = 0;               // 0 for a request's first attempt.
};

// What becomes of a request.
struct Decision {
  enum Kind : uint8_t {
    ToEndpoint,  // To `a`.
    Either,      // To `a` or `b`, whichever has less load.
    Queue,       // Held until the next snapshot or policy.
    Fail,        // Answered UNAVAILABLE with `message`.
    Drop,        // So too whatever the call says, and never retried.
  } kind;
  uint32_t a = 0, b = 0;
  std::string message = {};
};

// What a policy is: these three. A refusal of `build` is shown to people.
Description describe();
std::expected<Plan, std::string> build(std::string_view config, const Scope &scope, std::span<const Endpoint> endpoints);
Decision pick(const Context &context);

// What an instance said last of its own load. A figure that it did not give is 0.
struct LoadReport {
  double cpu_utilization = 0;          // The part of its processor time that is used; may be over 1.
  double memory_utilization = 0;       // The part of its memory that is used.
  double application_utilization = 0;  // How much it is used by its own measure; may be over 1.
  double rps = 0;                      // Calls a second that it serves, of all its clients.
  double eps = 0;                      // Calls a second of these that it answers with an error.
  uint32_t age_ms = 0;                 // How long ago the report came, in milliseconds.
};

// What may be asked while `pick` runs.
namespace host {
std::string path();
std::optional<std::string> header(std::string_view name);
bool tried(uint32_t endpoint);
uint32_t in_flight(uint32_t endpoint);
uint32_t latency_us(uint32_t endpoint);
double failure_rate(uint32_t endpoint);                // The part of its calls that failed of late, from 0 to 1.
std::optional<LoadReport> report(uint32_t endpoint);   // None when the instance never spoke of its load.
std::optional<double> metric(uint32_t endpoint, std::string_view name);  // A figure of its own that its last report named.
enum Level : uint8_t { Debug, Info, Warn, Error };
void log(Level level, std::string_view message);
}  // namespace host

}  // namespace waymark
