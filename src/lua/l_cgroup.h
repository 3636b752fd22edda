/* For bindings that take a lattice.cgroup.Group. */
#ifndef LAT_LUA_L_CGROUP_H
#define LAT_LUA_L_CGROUP_H
#include "kernel/cgroup.h"
#include <lua.h>

/* The group at `index`; throws if it is none or closed. */
struct lat_cgroup *lat_lua_check_cgroup(lua_State *L, int index);

#endif
