/* See loader.h. Files are read by C, through descriptors of their directories that are kept from the first load on: a
 * program that renames a directory cannot put another policy in its place. The files of the first load are read-only
 * inside, but only as long as nobody outside puts a new file in their place: that one the command could write, for it
 * has the same user. So a reload takes a file only if it is one of the first load's, or if this user cannot write it. */
#include "lua/loader.h"
#include "lua/api.h"
#include "lua/embed.h"
#include "lua/flow_args.h"
#include "lua/l_policy.h"
#include "lua/quick.h"
#include "lua/runtime_impl.h"
#include "base/log.h"
#include "base/place.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DIRS 64
#define MAX_FILE (16u << 20)
#define MAX_FILES 256
/* The collector starts again when the state has grown to this many percent. */
#define LOAD_PAUSE 400
#define USUAL_PAUSE 200
/* One question to a handler (THREATS 7). */
#define ANSWER_INSTRUCTIONS 1000000u
#define ANSWER_DEADLINE_MS 50u
#define ANSWER_MEMORY (8u << 20)

struct lat_loader {
	struct lat_rt *rt; /* of the generation in force */
	uint32_t generation;
	uint8_t on_error[LAT_QUESTION_RELOAD]; /* enum lat_action when a handler fails, by question kind */
	char *spec;
	size_t spec_len;
	struct {
		char *path;
		int fd;
	} dirs[MAX_DIRS];
	size_t dir_count;
	struct {
		dev_t dev;
		ino_t ino;
	} files[MAX_FILES]; /* of the first load: the launcher makes them read-only inside */
	size_t file_count;
	bool loaded;
};

static const char loader_key; /* registry key of a state's struct lat_loader */
static const char policy_key; /* registry key of the loaded policy table */
static const char *const kinds[] = { "ask", "connect", "dns" };
_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == LAT_QUESTION_RELOAD, "a handler's name for each kind");

int lat_loader_new(const char *spec, size_t len, struct lat_loader **out)
{
	struct lat_loader *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->spec = malloc(len + 1);
	if (!l->spec) {
		free(l);
		return -ENOMEM;
	}
	memcpy(l->spec, spec, len);
	l->spec[len] = '\0';
	l->spec_len = len;
	*out = l;
	return 0;
}

void lat_loader_free(struct lat_loader *l)
{
	if (!l)
		return;
	lat_rt_free(l->rt);
	for (size_t i = 0; i < l->dir_count; i++) {
		close(l->dirs[i].fd);
		free(l->dirs[i].path);
	}
	free(l->spec);
	free(l);
}

/* A descriptor of the directory, the same one for the whole run; -1 with errno. */
static int pinned_dir(struct lat_loader *l, const char *path)
{
	int fd;

	for (size_t i = 0; i < l->dir_count; i++)
		if (strcmp(l->dirs[i].path, path) == 0)
			return l->dirs[i].fd;
	if (l->dir_count == MAX_DIRS) {
		errno = EMFILE;
		return -1;
	}
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	l->dirs[l->dir_count].path = strdup(path);
	if (!l->dirs[l->dir_count].path) {
		close(fd);
		errno = ENOMEM;
		return -1;
	}
	l->dirs[l->dir_count++].fd = fd;
	return fd;
}

static bool is_known(const struct lat_loader *l, const struct stat *st)
{
	for (size_t i = 0; i < l->file_count; i++)
		if (l->files[i].dev == st->st_dev && l->files[i].ino == st->st_ino)
			return true;
	return false;
}

/* Could only the owner of the host have put it here? */
static bool is_beyond_reach(int at, const char *base, int fd)
{
	char link[32], place[PATH_MAX];
	size_t used;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", at);
	n = readlink(link, place, sizeof(place) - 1);
	if (n <= 0)
		return false;
	used = (size_t)n;
	if ((size_t)snprintf(place + used, sizeof(place) - used, "/%s", base) >= sizeof(place) - used)
		return false;
	return lat_place_is_fixed(place) && !lat_place_is_ours(fd);
}

/* Is the file one whose text may be believed? The first load believes all: no command runs yet. 0, or a reason. */
static const char *doubt(struct lat_loader *l, int at, const char *base, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return strerror(errno);
	if (!l->loaded) {
		if (is_known(l, &st))
			return NULL;
		if (l->file_count == MAX_FILES)
			return "too many files";
		l->files[l->file_count].dev = st.st_dev;
		l->files[l->file_count++].ino = st.st_ino;
		return NULL;
	}
	if (!S_ISREG(st.st_mode))
		return "not a regular file: a reload cannot read it again";
	if (is_known(l, &st) ? st.st_nlink < 2 || !lat_place_is_ours(fd) : is_beyond_reach(at, base, fd))
		return NULL;
	if (is_known(l, &st))
		return "it has a second name (hard link), by which the command could have written it; start the command again";
	return "it is not the file that was there at the start, and the command, which runs as the same user, could have "
	       "written it. Write into the file instead of replacing it (cp new.lua policy.lua), start the command again, "
	       "or keep policies where this user may not write";
}

/* Reads a whole file. 0 with *text malloc'ed, or negative errno, with *why if there is more to say. */
static int read_file(struct lat_loader *l, const char *path, char **text, size_t *len, const char **why)
{
	char dir[4096];
	const char *base = strrchr(path, '/');
	size_t have = 0, room = 65536;
	char *buf = NULL;
	int fd, at, r = 0;

	if (strlen(path) >= sizeof(dir))
		return -ENAMETOOLONG;
	if (!base)
		snprintf(dir, sizeof(dir), ".");
	else
		snprintf(dir, sizeof(dir), "%.*s", base == path ? 1 : (int)(base - path), path);
	base = base ? base + 1 : path;
	at = pinned_dir(l, dir);
	/* A FIFO put there must not hold the thread for ever. */
	fd = at < 0 ? -1 : openat(at, base, O_RDONLY | O_CLOEXEC | O_NOCTTY | (l->loaded ? O_NONBLOCK : 0));
	if (fd < 0)
		return -errno;
	*why = doubt(l, at, base, fd);
	if (*why) {
		close(fd);
		return -EPERM;
	}
	for (;;) {
		ssize_t n;
		char *more = realloc(buf, room);

		if (!more) {
			r = -ENOMEM;
			break;
		}
		buf = more;
		n = read(fd, buf + have, room - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		have += (size_t)n;
		if (have > MAX_FILE) {
			r = -EFBIG;
			break;
		}
		if (have == room)
			room *= 2;
	}
	close(fd);
	if (r < 0) {
		free(buf);
		return r;
	}
	*text = buf;
	*len = have;
	return 0;
}

/* read(path) -> text | nil, message */
static int l_read(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	struct lat_loader *l;
	const char *why = NULL;
	char *text;
	size_t len;
	int r;

	lua_rawgetp(L, LUA_REGISTRYINDEX, &loader_key);
	l = lua_touserdata(L, -1);
	if (!l)
		return luaL_error(L, "no loader");
	r = read_file(l, path, &text, &len, &why);
	if (r < 0) {
		lua_pushnil(L);
		lua_pushfstring(L, "%s: %s", path, why ? why : strerror(-r));
		return 2;
	}
	/* Running out of memory here loses the text: the load is over then, and the process with it or the next reload. */
	lua_pushlstring(L, text, len);
	free(text);
	return 1;
}

/* shipped(name) -> text | nil: a policy compiled into the binary. */
static int l_shipped(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	char path[256];

	snprintf(path, sizeof(path), "policies/%s.lua", name);
	for (const struct lat_embedded *e = lat_embedded; e->name; e++)
		if (strcmp(e->name, path) == 0) {
			lua_pushlstring(L, e->text, e->len);
			return 1;
		}
	lua_pushnil(L);
	return 1;
}

struct load_call {
	struct lat_loader *loader;
	uint32_t number;
	struct lat_policy *policy;
	struct lat_pins *pins; /* for its tests */
	char *info;
	char *error; /* malloc'ed */
};

/* judge(flow) -> verdict, with the rule's text; by the generation that build made */
static int l_judge(lua_State *L)
{
	struct load_call *c = lua_touserdata(L, lua_upvalueindex(1));
	struct lat_flow flow = { .sport = 0 };
	struct lat_verdict v;

	lua_settop(L, 1);
	lat_lua_check_flow(L, 1, &flow);
	lua_getfield(L, 1, "names");
	lat_lua_pin_names(L, 2, c->pins, &flow.remote);
	lat_policy_judge(c->policy, c->pins, &flow, 0, &v);
	lat_lua_push_verdict(L, &v);
	if (v.rule) {
		lua_pushstring(L, c->policy->spec.rules[v.rule - 1].text);
		lua_setfield(L, -2, "text");
	}
	return 1;
}

/* build(policy) -> judge */
static int l_build(lua_State *L)
{
	struct load_call *c = lua_touserdata(L, lua_upvalueindex(1));

	lua_settop(L, 1);
	if (c->policy)
		return luaL_error(L, "the policy is built already");
	if (lat_lua_check_policy(L, 1, c->number, &c->policy) < 0)
		return lua_error(L);
	if (lat_pins_new(LAT_LUA_FLOW_NAMES, &c->pins) < 0)
		return luaL_error(L, "out of memory");
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_pushcclosure(L, l_judge, 1);
	return 1;
}

/* generation.load(spec, read, shipped, uncounted, quick, build) -> policy, info | nil, text */
static int deliver_load(lua_State *L)
{
	struct load_call *c = lua_touserdata(L, 1);

	/* Nearly all of what a load makes stays: collect seldom. Near the memory limit Lua does so by itself. */
	lua_gc(L, LUA_GCSETPAUSE, LOAD_PAUSE);
	lua_pushlightuserdata(L, c->loader);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &loader_key);
	lua_getglobal(L, "require");
	lua_pushstring(L, "lattice.generation");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "load");
	lua_pushlstring(L, c->loader->spec, c->loader->spec_len);
	lua_pushcfunction(L, l_read);
	lua_pushcfunction(L, l_shipped);
	lua_pushcfunction(L, lat_limits_uncounted);
	lua_pushcfunction(L, lat_quick_new);
	lua_pushlightuserdata(L, c);
	lua_pushcclosure(L, l_build, 1);
	lua_call(L, 6, 2);
	if (lua_isnil(L, -2)) {
		lat_policy_unref(c->policy);
		c->policy = NULL;
		c->error = strdup(luaL_tolstring(L, -1, NULL));
		return 0;
	}
	c->info = strdup(luaL_checkstring(L, -1));
	if (!c->info)
		return luaL_error(L, "out of memory");
	lua_pop(L, 1);
	if (!c->policy && lat_lua_check_policy(L, lua_gettop(L), c->number, &c->policy) < 0) {
		c->error = strdup(luaL_tolstring(L, -1, NULL));
		return 0;
	}
	lua_pushvalue(L, lua_gettop(L));
	lua_rawsetp(L, LUA_REGISTRYINDEX, &policy_key);
	lua_gc(L, LUA_GCSETPAUSE, USUAL_PAUSE);
	return 0;
}

/* What the policy declares for a handler that fails; nothing declared is a denial. */
static void declared(struct lat_loader *l, const char *info)
{
	json_t *root = json_loads(info, 0, NULL), *on_error = json_object_get(root, "on_error");

	for (size_t i = 0; i < LAT_QUESTION_RELOAD; i++) {
		const char *word = json_string_value(json_object_get(on_error, kinds[i]));

		l->on_error[i] = word && strcmp(word, "allow") == 0 ? LAT_ACTION_ALLOW : LAT_ACTION_DENY;
	}
	json_decref(root);
}

int lat_loader_load(struct lat_loader *l, uint32_t number, struct lat_policy **policy, char **info,
	char **error)
{
	struct load_call c = { .loader = l, .number = number };
	struct lat_rt_limits limits = LAT_RT_POLICY_LIMITS;
	struct lat_rt_error *e;
	struct lat_rt *rt;
	int r;

	*error = NULL;
	r = lat_rt_new(LAT_RT_POLICY, &limits, &rt);
	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	r = e ? lat_rt_enter(rt, deliver_load, &c, e) : -ENOMEM;
	lat_pins_free(c.pins);
	if (r < 0) {
		free(c.error);
		c.error = strdup(e && e->text[0] ? e->text : strerror(-r));
		lat_policy_unref(c.policy);
		c.policy = NULL;
	}
	free(e);
	if (!c.policy) {
		free(c.info);
		lat_rt_free(rt);
		*error = c.error;
		return -EINVAL;
	}
	lat_rt_free(l->rt);
	l->rt = rt;
	l->generation = number;
	l->loaded = true;
	declared(l, c.info);
	*policy = c.policy;
	*info = c.info;
	return 0;
}

struct answer_call {
	const struct lat_question *question;
	struct lat_answer *answer;
};

static void set_string(lua_State *L, const char *key, const char *value)
{
	if (!value[0])
		return;
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

/* generation.answer(policy, kind, flow) -> "allow"|"deny", scope or false, ttl, text */
static int deliver_answer(lua_State *L)
{
	struct answer_call *c = lua_touserdata(L, 1);
	const struct lat_question *q = c->question;
	struct lat_answer *a = c->answer;
	char buf[LAT_ADDR_TEXT], proto[4];
	const char *scope;

	lua_getglobal(L, "require");
	lua_pushstring(L, "lattice.generation");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "answer");
	lua_rawgetp(L, LUA_REGISTRYINDEX, &policy_key);
	lua_pushstring(L, q->kind < LAT_QUESTION_RELOAD ? kinds[q->kind] : "");
	lua_createtable(L, 0, 12);
	set_string(L, "name", q->name);
	if (q->kind != LAT_QUESTION_DNS) {
		set_string(L, "dir", q->flow.dir == LAT_DIR_IN ? "in" : "out");
		set_string(L, "proto", lat_proto_name(q->flow.proto, proto));
		set_string(L, "addr", lat_addr_format(&q->flow.remote, buf, sizeof(buf)));
		set_integer(L, "port", q->flow.dport);
		set_integer(L, "rule", q->rule);
	} else {
		set_integer(L, "qtype", q->qtype);
	}
	if (q->who.pid) {
		set_integer(L, "pid", q->who.pid);
		set_integer(L, "uid", q->who.uid);
		set_string(L, "exe", q->who.exe);
	}
	lua_call(L, 3, 4);
	a->action = strcmp(luaL_checkstring(L, -4), "allow") == 0 ? LAT_ACTION_ALLOW : LAT_ACTION_DENY;
	scope = lua_tostring(L, -3);
	a->for_run = scope != NULL;
	a->scope = !scope || strcmp(scope, "run") == 0 ? LAT_SCOPE_RUN
		 : strcmp(scope, "process") == 0       ? LAT_SCOPE_PROCESS
						       : LAT_SCOPE_EVERYONE;
	a->ttl_s = (uint32_t)luaL_optinteger(L, -2, 0);
	snprintf(a->text, sizeof(a->text), "%s", luaL_optstring(L, -1, ""));
	return 0;
}

void lat_loader_answer(struct lat_loader *l, const struct lat_question *q, struct lat_answer *a)
{
	struct answer_call c = { q, a };
	struct lat_rt_limits limits = { .instructions = ANSWER_INSTRUCTIONS, .deadline_ms = ANSWER_DEADLINE_MS };
	struct lat_rt_error *e = calloc(1, sizeof(*e));
	int r = -ENOMEM;

	a->stale = q->generation != l->generation;
	if (a->stale) {
		r = -ESTALE;
	} else if (e && l->rt) {
		limits.memory = lat_rt_memory(l->rt) + ANSWER_MEMORY;
		lat_rt_set_limits(l->rt, &limits);
		r = lat_rt_enter(l->rt, deliver_answer, &c, e);
	}
	if (r < 0) {
		a->action = q->kind < LAT_QUESTION_RELOAD && q->generation == l->generation ? l->on_error[q->kind]
											  : LAT_ACTION_DENY;
		a->failed = 1;
		a->for_run = 0;
		snprintf(a->text, sizeof(a->text), "on(\"%s\") failed, so this was %s: %s",
			q->kind < LAT_QUESTION_RELOAD ? kinds[q->kind] : "",
			a->action == LAT_ACTION_ALLOW ? "allowed, as declared" : "denied",
			e && e->text[0] ? e->text
			: a->stale	? "its policy is not the loaded one any more; reload once more"
					: strerror(-r));
	}
	free(e);
}

bool lat_loader_same_limits(const char *one, const char *other)
{
	json_t *a = json_loads(one, 0, NULL), *b = json_loads(other, 0, NULL);
	json_t *la = json_object_get(a, "limits"), *lb = json_object_get(b, "limits");
	bool same = la == lb || json_equal(la, lb);

	json_decref(a);
	json_decref(b);
	return same;
}

int lat_loader_routes(const char *text, struct lat_audit_route **routes, size_t *count)
{
	static const char *const sinks[] = { "file", "syslog", "unix" };
	json_t *root = json_loads(text, JSON_DECODE_ANY, NULL), *array, *row;
	struct lat_audit_route *list;
	size_t i, n;
	int r = 0;

	array = json_is_object(root) ? json_object_get(root, "audit") : root;
	n = json_array_size(array);
	list = calloc(n + 1, sizeof(*list));
	if (!list) {
		json_decref(root);
		return -ENOMEM;
	}
	json_array_foreach(array, i, row)
	{
		const char *sink = json_string_value(json_object_get(row, "sink"));
		const char *target = json_string_value(json_object_get(row, "target"));
		unsigned s = 0;

		while (s < 3 && (!sink || strcmp(sinks[s], sink) != 0))
			s++;
		if (s == 3) {
			r = -EINVAL;
			break;
		}
		list[i].sink = s;
		list[i].kinds = (uint32_t)json_integer_value(json_object_get(row, "kinds"));
		list[i].actions = (uint32_t)json_integer_value(json_object_get(row, "actions"));
		list[i].rotate_bytes = (uint64_t)json_integer_value(json_object_get(row, "rotate"));
		list[i].fd = -1;
		list[i].target = strdup(target ? target : "");
		if (!list[i].target) {
			r = -ENOMEM;
			break;
		}
	}
	json_decref(root);
	if (r < 0) {
		lat_loader_routes_free(list, n);
		return r;
	}
	*routes = list;
	*count = n;
	return 0;
}

void lat_loader_routes_free(struct lat_audit_route *routes, size_t count)
{
	for (size_t i = 0; routes && i < count; i++)
		free((char *)routes[i].target);
	free(routes);
}
