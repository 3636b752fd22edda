/* The Map box of lattice.map, for lattice.bpf. */
#ifndef LAT_LUA_L_MAP_H
#define LAT_LUA_L_MAP_H
#include <lua.h>

/* Pushes a Map for the descriptor, which is taken in any case, or nil, error, code; how many. layouts: index of a table
 * { key = ..., value = ... }, or 0. lattice.map must have been opened. */
int lat_lua_push_map(lua_State *L, int fd, int layouts);

#endif
