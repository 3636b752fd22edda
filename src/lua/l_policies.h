/* The Generation box of lattice.policies, for the C modules that enforce or name it. */
#ifndef LAT_LUA_L_POLICIES_H
#define LAT_LUA_L_POLICIES_H
#include "core/policy.h"
#include <lua.h>

/* The generation of the box at `index`: its entries and names are kept (spec.entries, spec.names). Throws on anything else,
 * and on a closed box. Whoever keeps it takes a reference. */
struct lat_policy *lat_lua_check_generation(lua_State *L, int index);

#endif
