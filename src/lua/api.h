/* The table behind every C module that scripts see. One struct lat_api a module holds functions, classes and their words;
 * it registers the functions, and the same rows make the LuaLS stubs (lua/lattice/_meta), the luacheck names and help().
 *
 * To add a module: write src/lua/l_NAME.c with
 *
 *	static int twice(lua_State *L)
 *	{
 *		lua_pushinteger(L, 2 * luaL_checkinteger(L, 1));
 *		return 1;
 *	}
 *	static const struct lat_api_function functions[] = {
 *		{ "twice", twice, "n: integer", "integer", "Twice n." },
 *		{ 0 },
 *	};
 *	const struct lat_api lat_api_math2 = {
 *		.name = "lattice.math2", .doc = "Sums.", .functions = functions,
 *	};
 *
 * add `X(math2)` to LAT_API_MODULES below, and run `build/lattice lua --stubs lua/lattice/_meta` (a test fails until the
 * tree has the stub). Scripts get it by require "lattice.math2"; it is opened on first use.
 *
 * Rules: a bad argument throws (luaL_argerror); a failed operation returns nil, message, "ENAME" (lat_push_errno). Objects
 * are boxes (box.h). The runtime is lat_rt_of(L). No cleanup attribute in a file that includes lua.h. */
#ifndef LAT_LUA_API_H
#define LAT_LUA_API_H
#include "lua/box.h"
#include "lua/runtime.h"
#include <lauxlib.h>

struct lat_api_function {
	const char *name;    /* ends a list when NULL */
	lua_CFunction call;
	const char *params;  /* "text: string, len?: integer, ...: any"; methods without the box itself; "" for none */
	const char *returns; /* LuaLS types, comma-separated: "string?, string? error, string? code"; "" for none */
	const char *doc;     /* one line */
};

/* A class of boxes, or (box NULL) the shape of a plain table that functions take or give. */
struct lat_api_class {
	const char *name; /* "lattice.netns.Namespace"; ends a list when NULL */
	const char *doc;
	const struct lat_box_type *box;
	const struct lat_api_function *methods; /* NULL: none; close() is added by itself */
	const char *fields; /* of a plain table: "family: integer, addr: string, len?: integer" */
};

/* A value in the module's table that is no function; `open` sets it. */
struct lat_api_field {
	const char *name; /* ends a list when NULL */
	const char *type; /* LuaLS type */
	const char *doc;
};

struct lat_api {
	const char *name;
	const char *doc;
	const struct lat_api_function *functions;
	const struct lat_api_class *classes; /* or NULL */
	const struct lat_api_field *fields;  /* or NULL */
	int (*open)(lua_State *L); /* or NULL: module table at the top of the stack, left there; returns anything */
	bool pure; /* touches nothing but its arguments: POLICY states may have it too */
};

#define LAT_API_MODULES(X)                                                                         \
	X(addr)                                                                                    \
	X(api)                                                                                     \
	X(bpf)                                                                                     \
	X(bpffs)                                                                                   \
	X(caps)                                                                                    \
	X(cgroup)                                                                                  \
	X(conntrack)                                                                               \
	X(dns)                                                                                     \
	X(edit)                                                                                    \
	X(eval)                                                                                    \
	X(events)                                                                                  \
	X(iptables)                                                                                \
	X(json)                                                                                    \
	X(link)                                                                                    \
	X(log)                                                                                     \
	X(loop)                                                                                    \
	X(map)                                                                                     \
	X(netns)                                                                                   \
	X(notify)                                                                                  \
	X(peer)                                                                                    \
	X(policies)                                                                                \
	X(queue)                                                                                   \
	X(sandbox)                                                                                 \
	X(sys)                                                                                     \
	X(tables)                                                                                  \
	X(tc)                                                                                      \
	X(tun)                                                                                     \
	X(wireguard)

#define LAT_API_DECLARE(name) extern const struct lat_api lat_api_##name;
LAT_API_MODULES(LAT_API_DECLARE)

/* All modules; ends with NULL. */
extern const struct lat_api *const lat_apis[];

/* For the searcher: pushes the function that opens module `name` and returns true, if this kind of state may have it. */
bool lat_api_push_opener(lua_State *L, const char *name);

#endif
