/* See host.h. */
#include "lua/host.h"
#include "lua/runtime.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>

struct call {
	const char *module;
	int argc;
	char **argv;
	int status;
};

static int deliver(lua_State *L)
{
	struct call *call = lua_touserdata(L, 1);

	lua_getglobal(L, "require");
	lua_pushstring(L, call->module);
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "main");
	lua_createtable(L, call->argc, 0);
	for (int i = 0; i < call->argc; i++) {
		lua_pushstring(L, call->argv[i]);
		lua_rawseti(L, -2, i);
	}
	lua_call(L, 1, 1);
	call->status = (int)luaL_checkinteger(L, -1);
	return 0;
}

int lat_host_main(const char *module, int argc, char **argv)
{
	struct call call = { module, argc, argv, 1 };
	struct lat_rt_error err;
	struct lat_rt *rt;

	if (lat_rt_new(LAT_RT_TRUSTED, NULL, &rt) < 0)
		return 1;
	if (lat_rt_enter(rt, deliver, &call, &err) < 0) {
		fprintf(stderr, "%s: %s\n%s\n", program_invocation_short_name, err.text, err.trace);
		call.status = 1;
	}
	fflush(stdout);
	lat_rt_free(rt);
	return call.status;
}
