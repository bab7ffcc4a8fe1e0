#include "key_scheme.c"

#include <assert.h>
#include <stdio.h>

void key_scheme_plugin_string_dup(string *ret, const char *s) {
  ret->len = strlen(s);
  ret->ptr = memcpy(malloc(ret->len + 1), s, ret->len);
}
// A test ends before memory does.
void key_scheme_plugin_string_free(string *ptr) { (void)ptr; }
void exports_waymark_plugin_key_scheme_instance_free(instance *ptr) { (void)ptr; }
void exports_waymark_plugin_key_scheme_entry_free(exports_waymark_plugin_key_scheme_entry_t *ptr) { (void)ptr; }

static string text(const char *s) {
  string made;
  key_scheme_plugin_string_dup(&made, s);
  return made;
}

static bool is(string a, const char *b) { return a.len == strlen(b) && memcmp(a.ptr, b, a.len) == 0; }

static bool decode(const char *service, const char *key, const char *value, instance *found) {
  string config = text("{}"), of = text(service), err;
  exports_waymark_plugin_key_scheme_entry_t entry = {.key = text(key)};
  exports_waymark_plugin_key_scheme_list_instance_t list;
  entry.value.ptr = text(value).ptr;
  entry.value.len = strlen(value);
  bool good = exports_waymark_plugin_key_scheme_decode(&config, &of, &entry, &list, &err);
  if (good) *found = list.ptr[0];
  return good;
}

int main(void) {
  // What was written is read back.
  key_scheme_plugin_tuple2_string_string_t pair = {text("a=b\n"), text("50 %\n")};
  instance pod = {.id = text("pod/1"), .address = text("192.0.2.1:80"), .zone = text("eu-1"), .weight = 3}, found;
  pod.metadata.ptr = &pair;
  pod.metadata.len = 1;
  string config = text(" { } "), service = text("ayang/server1"), lease = text("7"), err;
  exports_waymark_plugin_key_scheme_list_entry_t entries;
  assert(exports_waymark_plugin_key_scheme_encode(&config, &service, &pod, &lease, 10, &entries, &err));
  assert(entries.len == 1 && is(entries.ptr[0].key, "services/ayang%2Fserver1/pod%2F1"));
  char value[200] = "";
  memcpy(value, entries.ptr[0].value.ptr, entries.ptr[0].value.len);
  assert(strcmp(value, "192.0.2.1:80\nzone=eu-1\nweight=3\nmeta.a%3Db%0A=50 %25%0A") == 0);
  assert(decode("ayang/server1", "services/ayang%2Fserver1/pod%2F1", value, &found));
  assert(is(found.id, "pod/1") && is(found.address, "192.0.2.1:80") && is(found.zone, "eu-1") && found.weight == 3);
  assert(found.metadata.len == 1 && is(found.metadata.ptr[0].f0, "a=b\n") && is(found.metadata.ptr[0].f1, "50 %\n"));

  // What it did not write is refused.
  const char *const others[][2] = {
      {"services/b/1", "192.0.2.1:80"},        {"services/a/", "192.0.2.1:80"},       {"services/a/1/2", "192.0.2.1:80"},
      {"services/a/1", ""},                    {"services/a/1", "\xff"},              {"services/a/1", "\nzone=a"},
      {"services/a/1", "192.0.2.1:80\nzone"},  {"services/a/1", "192.0.2.1:80\n"},    {"services/a/1", "x\nweight=-1"},
      {"services/a/1", "x\nweight=4294967296"}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) assert(!decode("a", others[i][0], others[i][1], &found));

  // So is a configuration.
  string given = text("{\"root\": \"x\"}");
  key_scheme_plugin_list_string_t prefixes;
  assert(!exports_waymark_plugin_key_scheme_prefixes(&given, &service, &prefixes, &err));
  puts("ok");
}
