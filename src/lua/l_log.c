/* lattice.log: messages for people, on stderr, by base/log.h. */
#include "lua/api.h"
#include "base/log.h"

static const char *const levels[] = { "error", "warn", "info", "debug", NULL };

/* All arguments as text, one blank between. */
static int say(lua_State *L, enum lat_log_level level)
{
	int n = lua_gettop(L);
	luaL_Buffer b;

	luaL_buffinit(L, &b);
	for (int i = 1; i <= n; i++) {
		if (i > 1)
			luaL_addchar(&b, ' ');
		luaL_tolstring(L, i, NULL);
		luaL_addvalue(&b);
	}
	luaL_pushresult(&b);
	lat_log(level, "%s", lua_tostring(L, -1));
	return 0;
}

static int l_error(lua_State *L)
{
	return say(L, LAT_LOG_ERROR);
}

static int l_warn(lua_State *L)
{
	return say(L, LAT_LOG_WARN);
}

static int l_info(lua_State *L)
{
	return say(L, LAT_LOG_INFO);
}

static int l_debug(lua_State *L)
{
	return say(L, LAT_LOG_DEBUG);
}

static int l_level(lua_State *L)
{
	lat_log_set_level((enum lat_log_level)luaL_checkoption(L, 1, NULL, levels));
	return 0;
}

static int l_service(lua_State *L)
{
	lat_log_set_style("latticed", lua_toboolean(L, 1));
	lat_log_set_patience(false);
	return 0;
}

static const struct lat_api_function functions[] = {
	{ "error", l_error, "...: any", "", "Say that something failed." },
	{ "warn", l_warn, "...: any", "", "Say that something is doubtful." },
	{ "info", l_info, "...: any", "", "Say what is done; dropped unless the level is info or debug." },
	{ "debug", l_debug, "...: any", "", "For developers; dropped unless the level is debug." },
	{ "level", l_level, "name: \"error\"|\"warn\"|\"info\"|\"debug\"", "",
		"Drop messages above this level (at start: warn)." },
	{ "service", l_service, "json: boolean", "",
		"From now on these are the lines of the agent, for a collector as JSON; none waits for a slow reader." },
	{ 0 },
};

const struct lat_api lat_api_log = {
	.name = "lattice.log",
	.doc = "Messages for people, on standard error, one line each.",
	.functions = functions,
	.pure = true,
};
