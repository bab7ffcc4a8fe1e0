// The bindings refer to this object, which would carry the world. `waymark plugin component` adds the world itself.
void __component_type_object_force_link_balancer_plugin(void) {}
void __component_type_object_force_link_key_scheme_plugin(void) {}
