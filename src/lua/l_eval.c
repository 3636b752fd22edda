/* lattice.eval: runs somebody's text where it cannot hurt this process (eval.h). */
#include "lua/api.h"
#include "lua/eval.h"
#include "lua/runtime_impl.h"
#include <stdlib.h>
#include <string.h>

#define MAX_OUTPUT (16u << 20)

/* The box owns it until close; libuv's last word is eval.c's. While it is open the registry holds the box under the
 * owner's address; the handler is the box's user value. */
struct owner {
	struct lat_rt *rt;
	struct lat_eval *eval;
	const struct lat_eval_message *message;
};

static void close_session(void *object)
{
	struct owner *o = object;
	lua_State *L = o->rt->L;

	if (lua_checkstack(L, 1)) { /* setting nil allocates nothing */
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, o);
	}
	if (o->eval)
		lat_eval_close(o->eval);
	free(o);
}

static const struct lat_box_type session_type = { "lattice.eval.Session", close_session };
static const char *const whys[] = {
	[LAT_RT_ERROR] = "error", [LAT_RT_INSTRUCTIONS] = "instructions", [LAT_RT_DEADLINE] = "time",
	[LAT_RT_MEMORY] = "memory", [LAT_RT_STOPPED] = "interrupted",
};
_Static_assert(sizeof(whys) / sizeof(whys[0]) == LAT_RT_WHY_COUNT, "a word for each reason");

static int deliver(lua_State *L)
{
	struct owner *o = lua_touserdata(L, 1);
	const struct lat_eval_message *m = o->message;

	if (lua_rawgetp(L, LUA_REGISTRYINDEX, o) != LUA_TUSERDATA)
		return 0;
	lua_getiuservalue(L, -1, 1);
	switch (m->kind) {
	case LAT_EVAL_OUTPUT:
		lua_pushliteral(L, "output");
		lua_pushlstring(L, m->text, m->len);
		lua_call(L, 2, 0);
		break;
	case LAT_EVAL_CALL:
		lua_pushliteral(L, "call");
		lua_pushinteger(L, (lua_Integer)m->id);
		lua_pushstring(L, m->name);
		lua_pushlstring(L, m->text, m->len);
		lua_call(L, 4, 0);
		break;
	default:
		lua_pushliteral(L, "done");
		if (m->failed)
			lua_pushnil(L);
		lua_pushlstring(L, m->text, m->len);
		if (m->failed)
			lua_pushstring(L, whys[m->why]);
		lua_call(L, m->failed ? 4 : 2, 0);
	}
	return 0;
}

/* The handler may close the session: `o` is not touched after the door. */
static void tell(void *ctx, const struct lat_eval_message *message)
{
	struct owner *o = ctx;
	struct lat_rt *rt = o->rt;
	struct lat_rt_error err;

	o->message = message;
	if (lat_rt_enter(rt, deliver, o, &err) < 0)
		lat_rt_callback_failed(rt, &err);
}

static lua_Integer option(lua_State *L, const char *name, lua_Integer fallback, lua_Integer most)
{
	lua_Integer value;

	lua_getfield(L, 1, name);
	value = luaL_optinteger(L, -1, fallback);
	lua_pop(L, 1);
	if (value < 1 || value > most)
		luaL_error(L, "%s is out of range", name);
	return value;
}

static int l_open(lua_State *L)
{
	struct lat_eval_options options = { 0 };
	uv_loop_t *loop = lat_rt_loop(lat_rt_of(L));
	struct lat_box *box;
	struct owner *o;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	if (!loop)
		return luaL_error(L, "this state has no loop");
	options.limits.memory = (size_t)option(L, "memory", 64 << 20, 1 << 30);
	options.limits.instructions = (uint64_t)option(L, "instructions", 300000000, 1000000000000);
	options.limits.deadline_ms = (uint32_t)option(L, "deadline_ms", 10000, 600000);
	options.cpu_ms = (uint32_t)option(L, "cpu_ms", 10000, 600000);
	options.calls = (uint32_t)option(L, "calls", 10000, 10000000);
	options.output = (size_t)option(L, "output", 256 << 10, MAX_OUTPUT);
	lua_getfield(L, 1, "module");
	options.module = luaL_checkstring(L, -1);
	box = lat_box_new(L, &session_type);
	o = calloc(1, sizeof(*o));
	if (!o)
		return luaL_error(L, "out of memory");
	o->rt = lat_rt_of(L);
	lat_box_fill(L, box, o);
	lua_pushvalue(L, 2);
	lua_setiuservalue(L, -2, 1);
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, o);
	r = lat_eval_new(loop, &options, tell, o, &o->eval);
	if (r < 0) {
		lat_box_close(L, box);
		return lat_push_errno(L, r, "start an evaluation");
	}
	return 1;
}

static int l_run(lua_State *L)
{
	struct owner *o = lat_box_check(L, 1, &session_type);
	size_t len;
	const char *text = luaL_checklstring(L, 2, &len);
	int r = lat_eval_run(o->eval, text, len);

	if (r < 0)
		return lat_push_errno(L, r, "evaluate");
	lua_pushboolean(L, 1);
	return 1;
}

static int l_answer(lua_State *L)
{
	struct owner *o = lat_box_check(L, 1, &session_type);
	lua_Integer id = luaL_checkinteger(L, 2);
	bool error = lua_isnoneornil(L, 3);
	size_t len;
	const char *text = luaL_checklstring(L, error ? 4 : 3, &len);

	if (lat_eval_answer(o->eval, (uint64_t)id, text, len, error) < 0)
		return luaL_error(L, "out of memory");
	return 0;
}

static int l_interrupt(lua_State *L)
{
	struct owner *o = lat_box_check(L, 1, &session_type);

	lat_eval_interrupt(o->eval);
	return 0;
}

static const struct lat_api_function methods[] = {
	{ "run", l_run, "text: string", "boolean?, string? error, string? code",
		"Give the module's run() this text; \"EBUSY\" while one is at work." },
	{ "answer", l_answer, "id: integer, text: string?, error?: string", "",
		"Answer a call; with nil, the call fails with the error." },
	{ "interrupt", l_interrupt, "", "", "Stop what runs." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.eval.Session", "A limited state in a thread of its own.", &session_type, methods, NULL },
	{ "lattice.eval.Options",
		"The module and its limits. Calls and output are those of one run, cpu_ms is all it may use.", NULL, NULL,
		"module: string, memory?: integer, instructions?: integer, deadline_ms?: integer, cpu_ms?: integer, "
		"calls?: integer, output?: integer" },
	{ 0 },
};

static const struct lat_api_function functions[] = {
	{ "open", l_open,
		"options: lattice.eval.Options, handler: fun(kind: \"output\"|\"call\"|\"done\", ...: any)",
		"lattice.eval.Session?, string? error, string? code",
		"Start one. The handler gets \"output\", text; \"call\", id, name, text; \"done\", text or nil, error, why." },
	{ 0 },
};

const struct lat_api lat_api_eval = {
	.name = "lattice.eval",
	.doc = "Runs somebody's text in a limited Lua state in a thread of its own.",
	.functions = functions,
	.classes = classes,
};
