/* lattice.sandbox: load a policy into a state of its own, and run a command under it in user mode. */
#include "lua/api.h"
#include "lua/l_cgroup.h"
#include "lua/loader.h"
#include "base/edition.h"
#include "base/log.h"
#include "core/run.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What lattice.sandbox.load gives: a loader with its first generation. */
struct generation {
	struct lat_loader *loader;
	struct lat_policy *policy;
	char *info; /* JSON */
};

static void generation_close(void *object)
{
	struct generation *g = object;

	lat_policy_unref(g->policy);
	lat_loader_free(g->loader);
	free(g->info);
	free(g);
}

static const struct lat_box_type generation_type = { "lattice.sandbox.Generation", generation_close };

/* load(spec) */
static int l_load(lua_State *L)
{
	char *error;
	struct generation *g;
	struct lat_box *box;
	const char *spec;
	size_t len;
	int r;

	spec = luaL_checklstring(L, 1, &len);
	box = lat_box_new(L, &generation_type);
	g = calloc(1, sizeof(*g));
	if (!g)
		return lat_push_errno(L, ENOMEM, "load a policy");
	lat_box_fill(L, box, g);
	r = lat_loader_new(spec, len, &g->loader);
	if (r < 0)
		return lat_push_errno(L, r, "load a policy");
	r = lat_loader_load(g->loader, 1, &g->policy, &g->info, &error);
	if (r < 0) {
		lua_pushnil(L);
		lua_pushstring(L, error ? error : strerror(-r));
		free(error);
		lua_pushstring(L, r == -EINVAL ? "EINVAL" : "EIO");
		return 3;
	}
	return 1;
}

static int l_info(lua_State *L)
{
	struct generation *g = lat_box_check(L, 1, &generation_type);

	lua_pushstring(L, g->info);
	return 1;
}

struct reload_extra {
	struct lat_run_reload base;
	struct lat_audit_route *routes;
	size_t count;
};

/* Everything that run() needs until it ends; freed by the box whatever happens. */
struct run_state {
	struct generation *generation; /* of the first argument; not owned */
	struct lat_run_options options;
	struct lat_worker_ops ops;
	char **lists[4]; /* argv, hide, readonly, watch: NULL-terminated, malloc'ed */
	char *name, *run_id, *own_routes, *passed_over, *limits_missing, *device, *agent, *agent_policy;
	struct lat_rlimit rlimits[16];
	struct lat_port_span *ports;
	struct lat_audit_route *routes;
	size_t route_count;
};

static void free_list(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static void run_close(void *object)
{
	struct run_state *s = object;

	for (size_t i = 0; i < 4; i++)
		free_list(s->lists[i]);
	free(s->name);
	free(s->run_id);
	free(s->own_routes);
	free(s->passed_over);
	free(s->limits_missing);
	free(s->device);
	free(s->agent);
	free(s->agent_policy);
	free(s->ports);
	lat_loader_routes_free(s->routes, s->route_count);
	free(s);
}

static const struct lat_box_type run_type = { "lattice.sandbox.Run", run_close };

static void release(struct lat_run_reload *reload)
{
	struct reload_extra *e = (struct reload_extra *)reload;

	lat_loader_routes_free(e->routes, e->count);
	free(e);
}

/* Routes of the caller (--audit) followed by those of the policy. */
static int all_routes(const char *own, const char *info, struct lat_audit_route **out, size_t *count)
{
	struct lat_audit_route *a = NULL, *b = NULL, *all;
	size_t na = 0, nb = 0;
	int r = own ? lat_loader_routes(own, &a, &na) : 0;

	if (r == 0)
		r = lat_loader_routes(info, &b, &nb);
	all = r == 0 ? calloc(na + nb + 1, sizeof(*all)) : NULL;
	if (!all) {
		lat_loader_routes_free(a, na);
		lat_loader_routes_free(b, nb);
		return r < 0 ? r : -ENOMEM;
	}
	if (na)
		memcpy(all, a, na * sizeof(*all));
	if (nb)
		memcpy(all + na, b, nb * sizeof(*all));
	free(a); /* their strings moved */
	free(b);
	*out = all;
	*count = na + nb;
	return 0;
}

static void reload(struct run_state *s, const struct lat_question *q, struct lat_answer *a)
{
	struct reload_extra *extra = calloc(1, sizeof(*extra));
	char *error = NULL, *info = NULL;
	bool routing = false;
	int r = -ENOMEM;

	if (extra) {
		r = lat_loader_load(s->generation->loader, q->generation, &a->policy, &info, &error);
		routing = r == 0;
		if (routing)
			r = all_routes(s->own_routes, info, &extra->routes, &extra->count);
	}
	if (r < 0) {
		lat_policy_unref(a->policy);
		a->policy = NULL;
		a->failed = 1;
		snprintf(a->text, sizeof(a->text), "%s%.2000s", routing ? "audit routes: " : "",
			error ? error : strerror(-r));
		free(extra);
	} else {
		if (!lat_loader_same_limits(s->generation->info, info))
			lat_warn("reload: the policy has other limits now; a run keeps those that it began with");
		extra->base.routes = extra->routes;
		extra->base.route_count = extra->count;
		extra->base.release = release;
		a->extra = &extra->base;
		a->action = LAT_ACTION_ALLOW;
	}
	free(info);
	free(error);
}

static void work(void *ctx, const struct lat_question *q, struct lat_answer *a)
{
	struct run_state *s = ctx;

	if (q->kind == LAT_QUESTION_RELOAD)
		reload(s, q, a);
	else
		lat_loader_answer(s->generation->loader, q, a);
}

static char *copy_string(lua_State *L, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		luaL_error(L, "out of memory");
	return copy;
}

/* spec[key] as a string of ours, or NULL. */
static char *field_string(lua_State *L, const char *key)
{
	const char *text;
	char *copy = NULL;

	lua_getfield(L, 2, key);
	text = lua_tostring(L, -1);
	if (text)
		copy = copy_string(L, text);
	lua_pop(L, 1);
	return copy;
}

static bool field_is(lua_State *L, const char *key, const char *value)
{
	const char *text;
	bool is;

	lua_getfield(L, 2, key);
	text = lua_tostring(L, -1);
	is = text && strcmp(text, value) == 0;
	lua_pop(L, 1);
	return is;
}

static bool field_bool(lua_State *L, const char *key)
{
	bool value;

	lua_getfield(L, 2, key);
	value = lua_toboolean(L, -1);
	lua_pop(L, 1);
	return value;
}

/* spec[key] as a NULL-terminated list of strings in *out, owned at once; returns how many. */
static size_t field_list(lua_State *L, const char *key, char ***out)
{
	size_t n;

	lua_getfield(L, 2, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		*out = calloc(1, sizeof(char *));
		if (!*out)
			luaL_error(L, "out of memory");
		return 0;
	}
	luaL_checktype(L, -1, LUA_TTABLE);
	n = (size_t)luaL_len(L, -1);
	*out = calloc(n + 1, sizeof(char *));
	if (!*out)
		luaL_error(L, "out of memory");
	for (size_t i = 0; i < n; i++) {
		lua_geti(L, -1, (lua_Integer)i + 1);
		(*out)[i] = copy_string(L, luaL_checkstring(L, -1));
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	return n;
}

static size_t field_rlimits(lua_State *L, struct lat_rlimit *out, size_t max)
{
	static const struct {
		const char *name;
		int resource;
	} names[] = { { "pids", RLIMIT_NPROC }, { "files", RLIMIT_NOFILE }, { "file_size", RLIMIT_FSIZE },
		{ "cpu_time", RLIMIT_CPU }, { "core", RLIMIT_CORE }, { "stack", RLIMIT_STACK } };
	size_t n = 0;

	lua_getfield(L, 2, "rlimits");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && n < max && lua_istable(L, -1); i++) {
		lua_getfield(L, -1, names[i].name);
		if (!lua_isnil(L, -1)) {
			out[n].resource = names[i].resource;
			out[n++].value = (rlim_t)luaL_checknumber(L, -1);
		}
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	return n;
}

/* run(generation, spec) -> exit status */
static int l_run(lua_State *L)
{
	struct generation *g = lat_box_check(L, 1, &generation_type);
	const struct lat_policy_spec *p = &g->policy->spec;
	struct lat_run_options *o;
	struct lat_box *box;
	struct run_state *s;
	bool stuck = false;
	int r, status, failure = 0;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	box = lat_box_new(L, &run_type);
	s = calloc(1, sizeof(*s));
	if (!s)
		return lat_push_errno(L, ENOMEM, "run");
	lat_box_fill(L, box, s);
	s->generation = g;
	o = &s->options;
	luaL_argcheck(L, field_list(L, "argv", &s->lists[0]) > 0, 2, "argv is empty");
	o->launch.argv = s->lists[0];
	o->launch.hide_count = field_list(L, "hide", &s->lists[1]);
	o->launch.hide = (const char *const *)s->lists[1];
	o->launch.readonly_count = field_list(L, "readonly", &s->lists[2]);
	o->launch.readonly = (const char *const *)s->lists[2];
	if (field_list(L, "watch", &s->lists[3]) > 0)
		o->watch = (const char *const *)s->lists[3];
	o->launch.rlimit_count = field_rlimits(L, s->rlimits, sizeof(s->rlimits) / sizeof(s->rlimits[0]));
	o->launch.rlimits = s->rlimits;
	s->ports = calloc(p->host_port_count + 1, sizeof(*s->ports));
	if (!s->ports)
		return lat_push_errno(L, ENOMEM, "run");
	for (size_t i = 0; i < p->host_port_count; i++)
		s->ports[i] = (struct lat_port_span){ p->host_ports[i].lo, p->host_ports[i].hi, p->host_ports[i].proto };
	o->launch.host_ports = s->ports;
	o->launch.host_port_count = p->host_port_count;
	o->name = s->name = field_string(L, "name");
	o->run_id = s->run_id = field_string(L, "run_id");
	o->passed_over = s->passed_over = field_string(L, "passed_over");
	o->limits_missing = s->limits_missing = field_string(L, "limits_missing");
	s->own_routes = field_string(L, "audit");
	r = all_routes(s->own_routes, g->info, &s->routes, &s->route_count);
	if (r < 0)
		return lat_push_errno(L, r, "audit routes");
	o->routes = s->routes;
	o->route_count = s->route_count;
	o->policy = g->policy;
	if (lua_getfield(L, 2, "group") != LUA_TNIL) /* the table keeps it */
		o->group = lat_lua_check_cgroup(L, -1);
	lua_pop(L, 1);
	o->kernel = field_is(L, "mode", "kernel");
	o->device = s->device = field_string(L, "network");
	o->agent = s->agent = field_string(L, "agent");
	o->agent_policy = s->agent_policy = field_string(L, "agent_policy");
	o->failure = &failure;
	s->ops = (struct lat_worker_ops){ .ctx = s, .work = work };
	o->worker = &s->ops;
	o->preload = field_bool(L, "preload");
	o->audit_only = field_bool(L, "audit_only");
	o->learn = field_bool(L, "learn");
	o->notices = field_bool(L, "notices");
	o->verbose = field_bool(L, "verbose");
	o->json = field_bool(L, "json");
	o->no_summary = field_bool(L, "no_summary");
	lua_gc(L, LUA_GCCOLLECT);
	malloc_trim(0);
	o->stuck = &stuck;
	status = lat_run(o);
	if (stuck) { /* a thread is still in there: never freed */
		lat_box_take(L, box);
		lat_box_take(L, lat_box_any(L, 1, &generation_type));
	}
	lat_box_close(L, box);
	if (failure == -LAT_EPRO)
		return lat_push_errno(L, failure, "kernel mode");
	lua_pushinteger(L, status);
	return 1;
}

/* create(path): makes the file (0600) if it is not there, never through a symbolic link. */
static int l_create(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	if (fd < 0 && errno == ENXIO) /* a FIFO without a reader is there, and that is what was asked */
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return lat_push_errno(L, errno, path);
	close(fd);
	lua_pushboolean(L, 1);
	return 1;
}

static int l_realpath(lua_State *L)
{
	char *path = realpath(luaL_checkstring(L, 1), NULL);

	if (!path)
		return lat_push_errno(L, errno, lua_tostring(L, 1));
	lua_pushstring(L, path);
	free(path);
	return 1;
}

/* The call is bindings.lua's. */
static int bindings(lua_State *L, const char *name)
{
	int n = lua_gettop(L);

	lua_getglobal(L, "require");
	lua_pushliteral(L, "lattice.sandbox.bindings");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, name);
	lua_replace(L, -2);
	lua_insert(L, 1);
	lua_call(L, n, LUA_MULTRET);
	return lua_gettop(L);
}

static int l_attach_pid(lua_State *L)
{
	return bindings(L, "attach");
}

static int l_detach_pid(lua_State *L)
{
	return bindings(L, "detach");
}

static int l_list_bindings(lua_State *L)
{
	return bindings(L, "list");
}

static const struct lat_api_function methods[] = {
	{ "info", l_info, "", "string json", "What was loaded: name, default, rules, files, limits, audit." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.sandbox.Generation", "A policy, loaded and checked, in a Lua state of its own.", &generation_type,
		methods, NULL },
	{ "lattice.sandbox.Run", "Internal to run().", &run_type, NULL, NULL },
	{ 0 },
};

static const struct lat_api_function functions[] = {
	{ "load", l_load, "spec_json: string", "lattice.sandbox.Generation?, string? error, string? code",
		"Load a policy: { files, sources, rules_before } as JSON." },
	{ "run", l_run, "generation: lattice.sandbox.Generation, spec: table", "integer? status, string? error, string? code",
		"Run spec.argv under the policy (spec.mode: user or kernel); returns its exit status (125: Lattice failed)." },
	{ "create", l_create, "path: string", "boolean?, string? error, string? code",
		"Make an empty private file unless it is there; symbolic links are refused." },
	{ "attach_pid", l_attach_pid,
		"pid: integer, device: string, options?: lattice.sandbox.AttachOptions, done?: fun(binding: "
		"lattice.sandbox.Binding?, error?: string, code?: string|integer)",
		"lattice.sandbox.Binding?, string? error, (string|integer)? code",
		"Put a running process and its children on a device: every socket that they make from now on, judged by "
		"options.policy if there is one. Sockets that are open already are not reached. Without done it waits. Pro." },
	{ "detach_pid", l_detach_pid, "pid: integer", "lattice.sandbox.Binding?, string? error, string? code",
		"End the binding of a process and its children; sockets made while it held stay on the device." },
	{ "list_bindings", l_list_bindings, "", "lattice.sandbox.Binding[]",
		"The bindings of this host, also those whose maker has ended: they end with their last process." },
	{ "realpath", l_realpath, "path: string", "string?, string? error, string? code",
		"The absolute path without symbolic links." },
	{ 0 },
};

const struct lat_api lat_api_sandbox = {
	.name = "lattice.sandbox",
	.doc = "Policies in states of their own, and commands under them.",
	.functions = functions,
	.classes = classes,
};
