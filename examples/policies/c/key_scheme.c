// my_policy: keys like `services/greeter/192.0.2.1:80`, values of plain lines. A `/` in a service's name or an id is written
// `%2F`, so that no service's keys lie among those of another.
//
//   services/ayang%2Fserver1/pod-1  ->  192.0.2.1:80
//                                       zone=eu-1
//                                       weight=3
//                                       meta.version=1.4

#include <stdlib.h>
#include <string.h>

#include "key_scheme_plugin.h"

typedef key_scheme_plugin_string_t string;
typedef exports_waymark_plugin_key_scheme_instance_t instance;

#define ROOT "services/"

// A text that grows.
typedef struct {
  char *text;
  size_t len, room;
} writer;

static void put(writer *to, const void *bytes, size_t len) {
  if (to->len + len > to->room) {
    to->room = 2 * (to->len + len);
    to->text = realloc(to->text, to->room);
  }
  if (len > 0) memcpy(to->text + to->len, bytes, len);
  to->len += len;
}

static void put_text(writer *to, const char *text) { put(to, text, strlen(text)); }

static void put_number(writer *to, uint32_t number) {
  if (number >= 10) put_number(to, number / 10);
  put(to, &"0123456789"[number % 10], 1);
}

// What has a meaning of its own in keys and lines is written as its number.
static void put_escaped(writer *to, string text) {
  for (size_t i = 0; i < text.len; i++) {
    switch (text.ptr[i]) {
      case '%': put_text(to, "%25"); break;
      case '/': put_text(to, "%2F"); break;
      case '\n': put_text(to, "%0A"); break;
      case '=': put_text(to, "%3D"); break;
      default: put(to, &text.ptr[i], 1);
    }
  }
}

static string plain(const char *text, size_t len) {
  static const char *const written[] = {"25%", "2F/", "0A\n", "3D="};
  writer to = {0};
  for (size_t i = 0; i < len; i++) {
    const char *found = NULL;
    for (size_t w = 0; w < 4 && text[i] == '%' && i + 2 < len; w++)
      if (memcmp(text + i + 1, written[w], 2) == 0) found = written[w];
    put(&to, found ? found + 2 : text + i, 1);
    if (found) i += 2;
  }
  return (string){(uint8_t *)to.text, to.len};
}

static writer key(const string *service) {
  writer to = {0};
  put_text(&to, ROOT);
  put_escaped(&to, *service);
  put_text(&to, "/");
  return to;
}

// There is nothing to configure: `root` is for you to add.
static bool is_empty_object(const string *config, string *err) {
  const char *space = " \t\r\n";
  size_t i = 0, seen = 0;
  for (; i < config->len; i++) {
    char c = (char)config->ptr[i];
    if (c != 0 && strchr(space, c)) continue;
    if (seen > 1 || c != "{}"[seen]) break;
    seen++;
  }
  if (i == config->len && seen == 2) return true;
  key_scheme_plugin_string_dup(err, "it takes no configuration: every field is unknown");
  return false;
}

static bool refuse(string *err, const char *message) {
  key_scheme_plugin_string_dup(err, message);
  return false;
}

void exports_waymark_plugin_key_scheme_describe(exports_waymark_plugin_key_scheme_description_t *ret) {
  key_scheme_plugin_string_dup(&ret->name, "my_policy");
  key_scheme_plugin_string_dup(&ret->version, "0.1.0");
  key_scheme_plugin_string_dup(&ret->summary, "Keys services/SERVICE/ID, values of plain lines.");
  key_scheme_plugin_string_dup(&ret->warning, "");
  ret->fields.ptr = NULL;
  ret->fields.len = 0;
}

bool exports_waymark_plugin_key_scheme_prefixes(string *config, string *service, key_scheme_plugin_list_string_t *ret,
                                                string *err) {
  if (!is_empty_object(config, err)) return false;
  writer prefix = key(service);
  ret->ptr = malloc(sizeof *ret->ptr);
  ret->len = 1;
  ret->ptr[0] = (string){(uint8_t *)prefix.text, prefix.len};
  key_scheme_plugin_string_free(config);
  key_scheme_plugin_string_free(service);
  return true;
}

bool exports_waymark_plugin_key_scheme_encode(string *config, string *service, instance *what, string *lease_id,
                                              uint32_t ttl_seconds, exports_waymark_plugin_key_scheme_list_entry_t *ret,
                                              string *err) {
  (void)ttl_seconds;
  if (!is_empty_object(config, err)) return false;
  writer name = key(service), value = {0};
  put_escaped(&name, what->id);
  put_escaped(&value, what->address);
  if (what->zone.len > 0) {
    put_text(&value, "\nzone=");
    put_escaped(&value, what->zone);
  }
  if (what->weight != 1) {
    put_text(&value, "\nweight=");
    put_number(&value, what->weight);
  }
  for (size_t i = 0; i < what->metadata.len; i++) {
    put_text(&value, "\nmeta.");
    put_escaped(&value, what->metadata.ptr[i].f0);
    put_text(&value, "=");
    put_escaped(&value, what->metadata.ptr[i].f1);
  }
  ret->ptr = malloc(sizeof *ret->ptr);
  ret->len = 1;
  ret->ptr[0].key = (string){(uint8_t *)name.text, name.len};
  ret->ptr[0].value.ptr = (uint8_t *)value.text;
  ret->ptr[0].value.len = value.len;
  exports_waymark_plugin_key_scheme_instance_free(what);
  key_scheme_plugin_string_free(config);
  key_scheme_plugin_string_free(service);
  key_scheme_plugin_string_free(lease_id);
  return true;
}

// One line after the address. False when it is none of ours.
static bool read_line(const char *line, size_t len, instance *to) {
  const char *equals = memchr(line, '=', len);
  if (equals == NULL) return false;
  size_t name = (size_t)(equals - line), rest = len - name - 1;
  if (name == 4 && memcmp(line, "zone", 4) == 0) {
    key_scheme_plugin_string_free(&to->zone);
    to->zone = plain(equals + 1, rest);
  } else if (name == 6 && memcmp(line, "weight", 6) == 0) {
    uint64_t weight = 0;
    for (size_t i = 1; i <= rest; i++) {
      if (equals[i] < '0' || equals[i] > '9' || rest > 10) return false;
      weight = 10 * weight + (uint64_t)(equals[i] - '0');
    }
    if (rest == 0 || weight > UINT32_MAX) return false;
    to->weight = (uint32_t)weight;
  } else if (name >= 5 && memcmp(line, "meta.", 5) == 0) {
    // Lines of a later release are not ours to refuse.
    to->metadata.ptr = realloc(to->metadata.ptr, (to->metadata.len + 1) * sizeof *to->metadata.ptr);
    to->metadata.ptr[to->metadata.len].f0 = plain(line + 5, name - 5);
    to->metadata.ptr[to->metadata.len++].f1 = plain(equals + 1, rest);
  }
  return true;
}

// Whether these bytes are UTF-8, which every text of the interface has to be.
static bool is_utf8(const uint8_t *at, size_t len) {
  for (size_t i = 0; i < len;) {
    uint8_t c = at[i];
    size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 4;
    if (more == 4 || i + more >= len) return false;
    uint32_t point = more == 0 ? c : c & (0x3f >> more);
    for (size_t n = 1; n <= more; n++) {
      if ((at[i + n] & 0xc0) != 0x80) return false;
      point = point << 6 | (at[i + n] & 0x3f);
    }
    if ((more == 2 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) ||
        (more == 3 && (point < 0x10000 || point > 0x10ffff)))
      return false;
    i += more + 1;
  }
  return true;
}

bool exports_waymark_plugin_key_scheme_decode(string *config, string *service,
                                              exports_waymark_plugin_key_scheme_entry_t *entry,
                                              exports_waymark_plugin_key_scheme_list_instance_t *ret, string *err) {
  if (!is_empty_object(config, err)) return false;
  writer prefix = key(service);
  const char *name = (const char *)entry->key.ptr + prefix.len, *value = (const char *)entry->value.ptr;
  bool ours = entry->key.len > prefix.len && memcmp(entry->key.ptr, prefix.text, prefix.len) == 0;
  size_t name_len = ours ? entry->key.len - prefix.len : 0;
  free(prefix.text);
  if (!ours || memchr(name, '/', name_len)) return refuse(err, "the key does not end with an instance of this service");
  if (!is_utf8(entry->value.ptr, entry->value.len)) return refuse(err, "the value is not UTF-8");
  const char *end = value + entry->value.len;
  const char *stop = entry->value.len > 0 ? memchr(value, '\n', entry->value.len) : NULL;
  if (entry->value.len == 0 || stop == value) return refuse(err, "the first line has no address");
  if (stop == NULL) stop = end;
  instance *found = calloc(1, sizeof *found);
  found->id = plain(name, name_len);
  found->address = plain(value, (size_t)(stop - value));
  found->weight = 1;
  while (stop < end) {
    const char *line = stop + 1;
    stop = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;
    if (stop == NULL) stop = end;
    if (!read_line(line, (size_t)(stop - line), found)) return refuse(err, "a line is neither NAME=TEXT nor weight=NUMBER");
  }
  ret->ptr = found;
  ret->len = 1;
  exports_waymark_plugin_key_scheme_entry_free(entry);
  key_scheme_plugin_string_free(config);
  key_scheme_plugin_string_free(service);
  return true;
}
