// Reads a configuration of one whole number.
#pragma once

#include <charconv>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

// The object's field of this name, or `otherwise`. What is anything but an object of this field with a whole number in range is refused with a
// sentence.
inline std::expected<uint32_t, std::string> read_integer(std::string_view config, std::string_view name, uint32_t least,
                                                         uint32_t most, uint32_t otherwise) {
  const auto refuse = [](std::string sentence) { return std::unexpected(std::move(sentence)); };
  const std::string shape =
      "the configuration must be an object of whole numbers, like {\"" + std::string(name) + "\": " + std::to_string(otherwise) + "}";
  std::string_view rest = config;
  const auto skip_space = [&rest] { rest.remove_prefix(std::min(rest.find_first_not_of(" \t\r\n"), rest.size())); };
  const auto take = [&](char expected) {
    skip_space();
    if (!rest.starts_with(expected)) return false;
    rest.remove_prefix(1);
    skip_space();
    return true;
  };
  uint32_t value = otherwise;
  if (!take('{')) return refuse(shape);
  bool more = !rest.starts_with('}');
  while (more) {
    if (!take('"')) return refuse(shape);
    const std::string_view field = rest.substr(0, rest.find('"'));
    rest.remove_prefix(field.size());
    if (!take('"')) return refuse(shape);
    if (!take(':')) return refuse(shape);
    if (field != name)
      return refuse("unknown field `" + std::string(field.substr(0, 60)) + "`; there is `" + std::string(name) + "`");
    const std::string_view shown = rest.substr(0, std::min(rest.find_first_of(",}"), size_t{40}));
    const auto [end, failed] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    const bool is_number = failed == std::errc();
    if (is_number) rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    skip_space();
    if (!is_number || value < least || value > most || !(rest.starts_with(',') || rest.starts_with('}')))
      return refuse("`" + std::string(name) + "` must be a whole number from " + std::to_string(least) + " to " +
                    std::to_string(most) + ", not " + std::string(shown));
    more = take(',');
  }
  if (!take('}') || !rest.empty()) return refuse(shape);
  return value;
}
