/* For bindings that take a lattice.netns.Namespace. */
#ifndef LAT_LUA_L_NETNS_H
#define LAT_LUA_L_NETNS_H
#include "kernel/netns.h"
#include <lua.h>

/* The namespace at `index`; throws if it is none or closed. */
struct lat_netns *lat_lua_check_netns(lua_State *L, int index);

#endif
