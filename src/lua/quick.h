/* The common rules of a policy (lua/lattice/policy/fast.lua) without a Lua table for each: what the words recorded is read here,
 * put together with the parts that fast.lua has learned, and kept until l_policy.c makes a generation of it. What is not exactly
 * of the common form is left to Lua. */
#ifndef LAT_LUA_QUICK_H
#define LAT_LUA_QUICK_H
#include "core/policy.h"
#include <lua.h>

struct lat_quick;

/* quick() -> store, take. take(store, said, from, rules, parts) reads said[from], said[from + 1], ...; for each that it takes
 * rules[#rules + 1] is false and said[i] is false; the first that it leaves, or #said + 1, is returned.
 * parts: fast.lua's heads, tails, protos, ports. */
int lat_quick_new(lua_State *L);

/* The store at `index`; NULL: something else. */
struct lat_quick *lat_quick_of(lua_State *L, int index);
/* The rule with this number and its match. They are asked for in order; false: there is none. The texts are the store's. */
bool lat_quick_next(struct lat_quick *quick, uint32_t number, struct lat_rule *rule, const struct lat_entry **entries,
	size_t *count);

#endif
