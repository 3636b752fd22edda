/* lattice.iptables: tables of one back end (nft or legacy), read and changed by its own programs in child processes on the
 * state's loop (loop/child.h). A change is one `*-restore -w 5 --noflush` transaction of one family: all of the text or
 * nothing. What the text says is the scripts' business. */
#include "lua/api.h"
#include "loop/child.h"
#include "lua/l_netns.h"
#include "kernel/netns.h"
#include "kernel/nftmon.h"
#include "lua/runtime_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOCK_WAIT "5" /* seconds that a child waits for the xtables lock */
#define TIMEOUT_MS 60000
#define OUT_MAX (256u << 20)
#define ARGS_MAX 16

enum what { TEST, APPLY, SAVE, LIST, PROBE };

struct tables {
	bool legacy;
	int netns; /* of an open namespace, or -1: our own */
};

/* One child that runs; the registry holds its box under its address until it has ended. */
struct run {
	struct lat_rt *rt;
	struct lat_child *child;
	enum what what;
	int family;
	bool legacy;
	const struct lat_child_result *result; /* while delivered */
};

static void close_run(void *object)
{
	struct run *run = object;
	lua_State *L = run->rt->L;

	if (lua_checkstack(L, 1)) {
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, run);
	}
	if (run->child)
		lat_child_cancel(run->child);
	free(run);
}

static void close_tables(void *object)
{
	struct tables *t = object;

	if (t->netns >= 0)
		close(t->netns);
	free(t);
}

static const struct lat_box_type run_type = { "lattice.iptables.Run", close_run };
static const struct lat_box_type tables_type = { "lattice.iptables.Tables", close_tables };

/* ---- the end of a child ---- */

static const char *const tried[] = { "test", "apply", "read", "read", "try" };

/* "iptables-restore: line 12 failed" and the like, on one line and without the program's advice. */
static void push_complaint(lua_State *L, const char *text)
{
	luaL_Buffer b;

	luaL_buffinit(L, &b);
	for (const char *line = text; *line;) {
		size_t n = strcspn(line, "\n");
		bool noise = n == 0 || strncmp(line, "Try `", 5) == 0 || strncmp(line, "# Warning:", 10) == 0 ||
			strncmp(line, "Error occurred at line", 22) == 0;

		if (!noise || strncmp(line, "Error occurred", 14) == 0) {
			if (luaL_bufflen(&b) > 0)
				luaL_addstring(&b, "; ");
			luaL_addlstring(&b, line, n);
		}
		line += n + (line[n] == '\n');
	}
	luaL_pushresult(&b);
}

/* Pushes nil, message, code for a child that did not do it. */
static int push_failure(lua_State *L, const struct run *run, const struct lat_child_result *r)
{
	const char *program = run->family == 6 ? "ip6tables" : "iptables", *code = "EIO";
	const char *kind = run->legacy ? "legacy" : "nft";

	lua_pushnil(L);
	if (r->error == -ETIME) {
		lua_pushfstring(L, "%s the %s rules: %s-%s took more than %d s and was ended", tried[run->what],
			program, program, kind, TIMEOUT_MS / 1000);
		code = "ETIME";
	} else if (r->error < 0) {
		lua_pushfstring(L, "%s the %s rules: %s", tried[run->what], program, strerror(-r->error));
	} else if (strstr(r->err, "holding the xtables lock")) {
		lua_pushfstring(L, "%s the %s rules: another program holds the xtables lock (waited " LOCK_WAIT
			" s; `fuser /run/xtables.lock` names it)", tried[run->what], program);
		code = "EBUSY";
	} else if (r->signal) {
		lua_pushfstring(L, "%s the %s rules: %s-%s was killed by signal %d", tried[run->what], program, program,
			kind, r->signal);
	} else {
		push_complaint(L, r->err);
		lua_pushfstring(L, "%s the %s rules: %s-%s refused: %s", tried[run->what], program, program, kind,
			*lua_tostring(L, -1) ? lua_tostring(L, -1) : "no reason was told");
		lua_remove(L, -2);
		if (strstr(r->err, "ermission denied") || strstr(r->err, "not permitted"))
			code = "EPERM";
	}
	lua_pushstring(L, code);
	return 3;
}

static int deliver(lua_State *L)
{
	struct run *run = lua_touserdata(L, 1);
	const struct lat_child_result *r = run->result;
	struct run copy = *run;
	int n;

	lua_rawgetp(L, LUA_REGISTRYINDEX, run);
	lua_getiuservalue(L, -1, 1);
	lua_insert(L, -2);
	lat_box_close(L, lua_touserdata(L, -1)); /* run is gone */
	lua_pop(L, 1);
	if (r->error != 0 || r->signal != 0 || r->status != 0) {
		n = push_failure(L, &copy, r);
	} else if (copy.what >= SAVE) {
		lua_pushlstring(L, r->out, r->out_len);
		n = 1;
	} else {
		lua_pushboolean(L, 1);
		n = 1;
	}
	lua_call(L, n, 0);
	return 0;
}

static void on_done(void *ctx, const struct lat_child_result *result)
{
	struct run *run = ctx;
	struct lat_rt *rt = run->rt;
	struct lat_rt_error err;

	run->child = NULL;
	run->result = result;
	if (lat_rt_enter(rt, deliver, run, &err) < 0)
		lat_rt_callback_failed(rt, &err);
}

/* ---- starting one ---- */

struct call {
	char program[48], netns[40], script[256];
	const char *argv[ARGS_MAX];
	int argc;
};

static void add(struct call *call, const char *arg)
{
	if (call->argc < ARGS_MAX - 1)
		call->argv[call->argc++] = arg;
}

/* The child opens the namespace by our descriptor. */
static void enter_netns(struct call *call, int fd)
{
	snprintf(call->netns, sizeof(call->netns), "--net=/proc/%d/fd/%d", (int)getpid(), fd);
	add(call, "nsenter");
	add(call, call->netns);
	add(call, "--");
}

/* Calls the function at `fn` with the end of the child. Pushes true; or nil, message, code. */
static int start(lua_State *L, const struct call *call, const struct run *how, int text, int fn)
{
	static const char *const names[] = { "XTABLES_LOCKFILE", "XTABLES_LIBDIR", NULL };
	struct lat_child_spec spec = { .argv = call->argv, .names = names, .out_max = OUT_MAX, .timeout_ms = TIMEOUT_MS };
	uv_loop_t *loop = lat_rt_loop(lat_rt_of(L));
	struct lat_box *box;
	struct run *run;
	int r;

	if (!loop)
		return luaL_error(L, "this state has no loop");
	if (text)
		spec.input = lua_tolstring(L, text, &spec.input_len);
	box = lat_box_new(L, &run_type);
	lua_pushvalue(L, fn);
	lua_setiuservalue(L, -2, 1);
	run = calloc(1, sizeof(*run));
	if (!run)
		return lat_push_errno(L, ENOMEM, "start a process");
	*run = *how;
	run->rt = lat_rt_of(L);
	r = lat_child_start(loop, &spec, on_done, run, &run->child);
	if (r < 0) {
		free(run);
		lua_pushfstring(L, r == -ENOENT ? "start %s (apt-get install iptables)" : "start %s", call->program);
		return lat_push_errno(L, r, lua_tostring(L, -1));
	}
	lat_box_fill(L, box, run);
	lua_rawsetp(L, LUA_REGISTRYINDEX, run); /* takes the box from the top */
	lua_pushboolean(L, 1);
	return 1;
}

static int family_of(lua_State *L, int index)
{
	lua_Integer family = luaL_checkinteger(L, index);

	luaL_argcheck(L, family == 4 || family == 6, index, "4 or 6 expected");
	return (int)family;
}

/* What the program of family argument 2 and of our back end does: its name ends with `ending`. */
static void begin(lua_State *L, struct run *how, enum what what, const char *ending, struct call *call)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);

	*how = (struct run){ .what = what, .family = family_of(L, 2), .legacy = t->legacy };
	*call = (struct call){ .argc = 0 }; /* the list ends with NULL */
	snprintf(call->program, sizeof(call->program), "%s-%s%s", how->family == 6 ? "ip6tables" : "iptables",
		t->legacy ? "legacy" : "nft", ending);
	if (t->netns >= 0)
		enter_netns(call, t->netns);
	add(call, call->program);
}

static int restore(lua_State *L, enum what what)
{
	struct call call;
	struct run how;

	luaL_checkstring(L, 3);
	luaL_checktype(L, 4, LUA_TFUNCTION);
	begin(L, &how, what, "-restore", &call);
	add(&call, "-w");
	add(&call, LOCK_WAIT);
	add(&call, "--noflush");
	if (what == TEST)
		add(&call, "--test");
	return start(L, &call, &how, 3, 4);
}

static int l_test(lua_State *L)
{
	return restore(L, TEST);
}

static int l_apply(lua_State *L)
{
	return restore(L, APPLY);
}

static int l_save(lua_State *L)
{
	static const char *const names[] = { "filter", "nat", "mangle", "raw", "security", NULL };
	const char *table = names[luaL_checkoption(L, 3, NULL, names)];
	struct call call;
	struct run how;

	luaL_checktype(L, 4, LUA_TFUNCTION);
	begin(L, &how, SAVE, "-save", &call);
	add(&call, "-c");
	add(&call, "-t");
	add(&call, table);
	return start(L, &call, &how, 0, 4);
}

static int l_list(lua_State *L)
{
	const char *chain = luaL_checkstring(L, 3);
	struct call call;
	struct run how;

	luaL_argcheck(L, chain[0] && chain[0] != '-' && strlen(chain) < 29, 3, "name of a chain expected");
	luaL_checktype(L, 4, LUA_TFUNCTION);
	begin(L, &how, LIST, "", &call);
	add(&call, "-w");
	add(&call, LOCK_WAIT);
	add(&call, "-S");
	add(&call, chain);
	return start(L, &call, &how, 0, 4);
}

static int l_backend(lua_State *L)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);

	lua_pushstring(L, t->legacy ? "legacy" : "nft");
	return 1;
}

/* ---- module ---- */

static const char *const backends[] = { "nft", "legacy", NULL };

static int l_open(lua_State *L)
{
	int legacy = luaL_checkoption(L, 1, NULL, backends);
	struct lat_netns *ns = lua_isnoneornil(L, 2) ? NULL : lat_lua_check_netns(L, 2);
	struct lat_box *box = lat_box_new(L, &tables_type);
	struct tables *t = calloc(1, sizeof(*t));

	if (!t)
		return lat_push_errno(L, ENOMEM, "open the tables");
	t->legacy = legacy == 1;
	t->netns = -1;
	if (ns) {
		t->netns = fcntl(lat_netns_fd(ns), F_DUPFD_CLOEXEC, 3);
		if (t->netns < 0) {
			free(t);
			return lat_push_errno(L, errno, "keep the namespace");
		}
	}
	lat_box_fill(L, box, t);
	return 1;
}

/* The text comes from us; the shell's words are fixed. */
static int l_probe(lua_State *L)
{
	struct run how = { .what = PROBE, .legacy = luaL_checkoption(L, 1, NULL, backends) == 1, .family = family_of(L, 2) };
	const char *program = how.family == 6 ? "ip6tables" : "iptables", *kind = how.legacy ? "legacy" : "nft";
	struct call call = { .argc = 0 };

	luaL_checkstring(L, 3);
	luaL_checktype(L, 4, LUA_TFUNCTION);
	snprintf(call.program, sizeof(call.program), "%s-%s-restore", program, kind);
	snprintf(call.script, sizeof(call.script), "%s -w " LOCK_WAIT " --noflush && exec %s-%s-save", call.program, program,
		kind);
	add(&call, "unshare");
	add(&call, "--net");
	add(&call, "--");
	add(&call, "/bin/sh");
	add(&call, "-c");
	add(&call, call.script);
	return start(L, &call, &how, 3, 4);
}

/* ---- news ---- */

struct changes {
	int fd;
};

static void close_changes(void *object)
{
	struct changes *c = object;

	close(c->fd);
	free(c);
}

static const struct lat_box_type changes_type = { "lattice.iptables.Changes", close_changes };

static int l_changes(lua_State *L)
{
	struct lat_box *box = lat_box_new(L, &changes_type);
	struct changes *c = calloc(1, sizeof(*c));

	if (!c)
		return lat_push_errno(L, ENOMEM, "watch the rules");
	c->fd = lat_nftmon_open();
	if (c->fd < 0) {
		int r = c->fd;

		free(c);
		return lat_push_errno(L, r, "watch the rules");
	}
	lat_box_fill(L, box, c);
	return 1;
}

static int l_changes_fd(lua_State *L)
{
	struct changes *c = lat_box_check(L, 1, &changes_type);

	lua_pushinteger(L, c->fd);
	return 1;
}

static int l_drain(lua_State *L)
{
	struct changes *c = lat_box_check(L, 1, &changes_type);

	lua_pushboolean(L, lat_nftmon_drain(c->fd));
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open, "backend: \"nft\"|\"legacy\", netns?: lattice.netns.Namespace",
		"lattice.iptables.Tables?, string? error, string? code",
		"The tables of one back end, in our network namespace or the one given; nothing is read or changed yet." },
	{ "probe", l_probe,
		"backend: \"nft\"|\"legacy\", family: 4|6, text: string, "
		"done: fun(saved: string?, error: string?, code: string?)",
		"true?, string? error, string? code",
		"Apply the text in a new network namespace and read it back; the namespace ends with that." },
	{ "changes", l_changes, "", "lattice.iptables.Changes?, string? error, string? code",
		"News that the rules of the nft back end have changed, by whomever; the legacy tables tell none." },
	{ 0 },
};

static const struct lat_api_function changes_methods[] = {
	{ "fd", l_changes_fd, "", "integer", "Readable when something has changed; the box closes it." },
	{ "drain", l_drain, "", "boolean", "Take the news; true when there were any." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "test", l_test, "family: 4|6, text: string, done: fun(ok: true?, error: string?, code: string?)",
		"true?, string? error, string? code", "Have the text of a transaction parsed, without a change." },
	{ "apply", l_apply, "family: 4|6, text: string, done: fun(ok: true?, error: string?, code: string?)",
		"true?, string? error, string? code",
		"One transaction: all of the text or nothing. What it does not name stays." },
	{ "save", l_save,
		"family: 4|6, table: \"filter\"|\"nat\"|\"mangle\"|\"raw\"|\"security\", "
		"done: fun(text: string?, error: string?, code: string?)",
		"true?, string? error, string? code", "Read a table back, with the counters of each rule." },
	{ "list", l_list,
		"family: 4|6, chain: string, done: fun(text: string?, error: string?, code: string?)",
		"true?, string? error, string? code", "Read one chain of the filter table, as iptables -S writes it." },
	{ "backend", l_backend, "", "\"nft\"|\"legacy\"", "Which back end they are." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.iptables.Changes", "News of changed rules.", &changes_type, changes_methods, NULL },
	{ "lattice.iptables.Run", "A child process that runs; held by the loop.", &run_type, NULL, NULL },
	{ "lattice.iptables.Tables", "The tables of one back end.", &tables_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_iptables = {
	.name = "lattice.iptables",
	.doc = "iptables and ip6tables of either back end: transactions and read back.",
	.functions = functions,
	.classes = classes,
};
