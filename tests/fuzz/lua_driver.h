/* What the targets that feed Lua share: a runtime with the target's script, which returns a function of the input's bytes.
 * Included by one tests/fuzz/fuzz_lua_*.c each. */
#ifndef LAT_TEST_LUA_DRIVER_H
#define LAT_TEST_LUA_DRIVER_H
#include "lua/runtime.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct lua_target {
	const char *script;
	size_t size;
	enum lat_rt_kind kind;
	const struct lat_rt_limits *limits;
	/* With what the script returned at the top of the stack; or NULL. */
	void (*judge)(lua_State *L);
	/* A limit that was met is no finding: the program refuses such an input. */
	bool limits_end;
};

struct lua_input {
	const struct lua_target *target;
	const uint8_t *data;
	size_t size;
};

static const char lua_target_key;

static int lua_target_prepare(lua_State *L)
{
	const struct lua_target *target = lua_touserdata(L, 1);

	if (luaL_loadbufferx(L, target->script, target->size, "=fuzz", "t") != LUA_OK)
		return lua_error(L);
	lua_call(L, 0, 1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &lua_target_key);
	return 0;
}

static int lua_target_feed(lua_State *L)
{
	const struct lua_input *in = lua_touserdata(L, 1);

	lua_rawgetp(L, LUA_REGISTRYINDEX, &lua_target_key);
	lua_pushlstring(L, (const char *)in->data, in->size);
	lua_call(L, 1, 1);
	if (in->target->judge)
		in->target->judge(L);
	else
		lua_gc(L, LUA_GCCOLLECT); /* what stays between two inputs makes libFuzzer look for leaks after each */
	return 0;
}

static void lua_target_enter(struct lat_rt *rt, const struct lua_target *target, lua_CFunction what, void *ctx)
{
	struct lat_rt_error err;

	if (lat_rt_enter(rt, what, ctx, &err) == 0 || (target->limits_end && err.why != LAT_RT_ERROR))
		return;
	fprintf(stderr, "%s\n%s\n", err.text, err.trace);
	abort();
}

static int lua_target_run(const struct lua_target *target, const uint8_t *data, size_t size)
{
	static struct lat_rt *rt;
	struct lua_input in = { target, data, size };

	if (!rt) {
		if (lat_rt_new(target->kind, target->limits, &rt) < 0)
			abort();
		lua_target_enter(rt, target, lua_target_prepare, (void *)target);
	}
	lua_target_enter(rt, target, lua_target_feed, &in);
	return 0;
}

#endif
