/* What l_link.c and l_link_watch.c share. */
#ifndef LAT_LUA_L_LINK_H
#define LAT_LUA_L_LINK_H
#include "kernel/link.h"
#include "lua/api.h"

/* A route socket of the namespace at `index`, -1 for none given, or another negative errno. */
int lat_lua_link_socket(lua_State *L, int index);

/* Fields of the table at the top. */
void lat_lua_set_string(lua_State *L, const char *key, const char *value);
void lat_lua_set_integer(lua_State *L, const char *key, lua_Integer value);
void lat_lua_set_boolean(lua_State *L, const char *key, bool value);

void lat_lua_push_link(lua_State *L, const struct lat_link *link);
void lat_lua_push_address(lua_State *L, const struct lat_link_address *a);
void lat_lua_push_route(lua_State *L, const struct lat_link_route *route);

/* link.watch, and the type of its boxes. */
int lat_lua_link_watch(lua_State *L);
extern const struct lat_box_type lat_lua_link_watch_type;

#endif
