/* From the rules that lua/lattice/policy produces (the policy table of lattice.policy.load) to a generation in C. */
#ifndef LAT_LUA_L_POLICY_H
#define LAT_LUA_L_POLICY_H
#include "core/policy.h"
#include <lua.h>

/* Reads the policy table at `index` and builds a generation with one reference. 0, or negative errno with a message for
 * people pushed and *out untouched. Throws only when the state is out of memory; nothing is lost then. */
int lat_lua_check_policy(lua_State *L, int index, uint32_t generation, struct lat_policy **out);

#endif
