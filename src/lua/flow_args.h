/* Flows and verdicts as scripts write and see them. */
#ifndef LAT_LUA_FLOW_ARGS_H
#define LAT_LUA_FLOW_ARGS_H
#include "core/names.h"
#include <lua.h>

#define LAT_LUA_FLOW_NAMES 64 /* of one flow */

/* They throw for what is odd. `arg` is the argument that the message names. */
uint8_t lat_lua_check_dir(lua_State *L, int arg, const char *text);
void lat_lua_check_addr(lua_State *L, int arg, const char *text, struct lat_addr *addr);
/* The table { dir, proto, addr, port?, sport? } at arg. */
void lat_lua_check_flow(lua_State *L, int arg, struct lat_flow *flow);
/* Empties the pins and then pins the names of the list at `index` (or nil) to the address. */
void lat_lua_pin_names(lua_State *L, int index, struct lat_pins *pins, const struct lat_addr *addr);
/* { verdict, action, rule, where, reason? } */
void lat_lua_push_verdict(lua_State *L, const struct lat_verdict *v);

#endif
