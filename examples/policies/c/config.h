// Reads a configuration of one whole number: a JSON object that may have this field and no other.
#pragma once

#include <stdlib.h>
#include <string.h>

#include "balancer_plugin.h"

// A sentence that is put together from pieces; what does not fit is cut.
typedef struct {
  char text[240];
  size_t len;
} sentence;

static void say(sentence *to, const char *piece, size_t len) {
  for (size_t i = 0; i < len && to->len < sizeof to->text; i++) to->text[to->len++] = piece[i];
}

static void say_text(sentence *to, const char *text) { say(to, text, strlen(text)); }

static void say_number(sentence *to, uint32_t number) {
  if (number >= 10) say_number(to, number / 10);
  say(to, &"0123456789"[number % 10], 1);
}

static const char *skip_space(const char *at) { return at + strspn(at, " \t\r\n"); }

// Takes over `value` from the object's field `name` if it is there. False, with a sentence in `err`, when the text is
// anything but an object of this field with a whole number in range.
static bool read_integer(const balancer_plugin_string_t *config, const char *name, uint32_t least, uint32_t most,
                         uint32_t *value, balancer_plugin_string_t *err) {
  sentence message = {.len = 0};
  uint32_t otherwise = *value;
  char *text = malloc(config->len + 1);
  memcpy(text, config->ptr, config->len);
  text[config->len] = 0;
  const char *at = skip_space(text);
  bool good = *at == '{';
  if (good) at = skip_space(at + 1);
  while (good && *at != '}') {
    const char *key = at + 1;
    size_t length = *at == '"' ? strcspn(key, "\"") : 0;
    good = length > 0 && key[length] == '"';
    if (!good) break;
    at = skip_space(key + length + 1);
    good = *at == ':';
    if (!good) break;
    if (length != strlen(name) || memcmp(key, name, length) != 0) {
      say_text(&message, "unknown field `");
      say(&message, key, length > 60 ? 60 : length);
      say_text(&message, "`; there is `");
      say_text(&message, name);
      say_text(&message, "`");
      good = false;
      break;
    }
    at = skip_space(at + 1);
    size_t digits = strspn(at, "0123456789"), shown = strcspn(at, ",}");
    unsigned long long number = digits > 0 && digits < 11 ? strtoull(at, NULL, 10) : 0;
    const char *after = skip_space(at + digits);
    good = digits > 0 && number >= least && number <= most && (*after == ',' || *after == '}');
    if (!good) {
      say_text(&message, "`");
      say_text(&message, name);
      say_text(&message, "` must be a whole number from ");
      say_number(&message, least);
      say_text(&message, " to ");
      say_number(&message, most);
      say_text(&message, ", not ");
      say(&message, at, shown > 40 ? 40 : shown);
    } else {
      *value = (uint32_t)number;
      at = *after == ',' ? skip_space(after + 1) : after;
      good = *after == '}' || *at == '"';
    }
  }
  good = good && *skip_space(at + 1) == 0;
  if (!good) {
    if (message.len == 0) {
      say_text(&message, "the configuration must be an object of whole numbers, like {\"");
      say_text(&message, name);
      say_text(&message, "\": ");
      say_number(&message, otherwise);
      say_text(&message, "}");
    }
    balancer_plugin_string_dup_n(err, message.text, message.len);
  }
  free(text);
  return good;
}
