/* lattice.wireguard: WireGuard devices, by kernel/wireguard.h; keys are in l_wireguard_keys.c, configurations in
 * l_wireguard_config.c. Whatever may wait (starting wireguard-go, reading keys, talking to the kernel or to wireguard-go)
 * is a job on a thread of the loop's pool; its end comes back through the door.
 *
 * Secrets never become Lua values: keys are named by their files. */
#include "lua/l_wireguard.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- devices ---- */

static void put_device(struct lat_wg_box *d)
{
	if (--d->users > 0)
		return;
	if (d->go.pid > 0 && !d->released)
		lat_wg_go_kill(&d->go); /* and reap it */
	else
		lat_wg_go_release(&d->go);
	free(d);
}

static void delete_link(uint32_t index)
{
	struct lat_links *links;

	if (lat_links_open(-1, &links) < 0)
		return;
	lat_link_delete(links, index);
	lat_links_close(links);
}

static void stop_watch(struct lat_wg_box *d);

static void close_device(void *object)
{
	struct lat_wg_box *d = object;

	stop_watch(d);
	if (!d->released) {
		delete_link(d->index); /* first: nobody may find the name taken once we are back */
		if (d->go.process >= 0 && d->users > 1)
			lat_wg_go_end(&d->go); /* a job still has its descriptors, and ends soon; the port is free */
	}
	put_device(d);
}

const struct lat_box_type lat_lua_wireguard_type = { "lattice.wireguard.Device", close_device };

static struct lat_wg_box *self(lua_State *L)
{
	return lat_box_check(L, 1, &lat_lua_wireguard_type);
}

/* ---- the end of wireguard-go ---- */

static void free_watch(uv_handle_t *handle)
{
	free(handle);
}

static void stop_watch(struct lat_wg_box *d)
{
	lua_State *L = d->rt->L;

	if (!d->watch)
		return;
	if (lua_checkstack(L, 1)) {
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, d);
	}
	uv_close((uv_handle_t *)d->watch, free_watch);
	d->watch = NULL;
}

/* Registry: device -> fn. */
static int deliver_end(lua_State *L)
{
	struct lat_wg_box *d = lua_touserdata(L, 1);

	lua_rawgetp(L, LUA_REGISTRYINDEX, d);
	stop_watch(d);
	lua_call(L, 0, 0);
	return 0;
}

static void on_end(uv_poll_t *poll, int status, int events)
{
	struct lat_wg_box *d = poll->data;
	struct lat_rt *rt = d->rt;
	struct lat_rt_error err;

	if (lat_rt_enter(rt, deliver_end, d, &err) < 0)
		lat_rt_callback_failed(rt, &err);
}

static int l_ended(lua_State *L)
{
	struct lat_wg_box *d = self(L);
	uv_loop_t *loop = lat_rt_loop(d->rt);
	int r;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	if (!loop)
		return luaL_error(L, "this state has no loop");
	stop_watch(d);
	if (d->go.process < 0) { /* the kernel's does not end */
		lua_pushboolean(L, true);
		return 1;
	}
	d->watch = calloc(1, sizeof(*d->watch));
	if (!d->watch)
		return luaL_error(L, "out of memory");
	r = uv_poll_init(loop, d->watch, d->go.process);
	if (r < 0) {
		free(d->watch);
		d->watch = NULL;
		return lat_push_errno(L, r, "watch wireguard-go");
	}
	d->watch->data = d;
	lua_pushvalue(L, 2);
	lua_rawsetp(L, LUA_REGISTRYINDEX, d);
	uv_poll_start(d->watch, UV_READABLE, on_end);
	lua_pushboolean(L, true);
	return 1;
}

/* ---- jobs ---- */

static void close_job(void *object)
{
	struct lat_wg_job *job = object;

	for (size_t i = 0; i < job->preshared_count; i++)
		free(job->preshared[i]);
	free(job->preshared);
	free(job->private_file);
	free(job->program);
	lat_wg_wipe(&job->wg);
	if (job->device)
		put_device(job->device);
	free(job);
}

const struct lat_box_type lat_lua_wireguard_job_type = { "lattice.wireguard.Job", close_job };

struct lat_wg_job *lat_lua_wireguard_job(lua_State *L, int done, lat_wg_work *run, lat_wg_result *result)
{
	struct lat_box *box;
	struct lat_wg_job *job;

	luaL_checktype(L, done, LUA_TFUNCTION);
	if (!lat_rt_loop(lat_rt_of(L)))
		luaL_error(L, "this state has no loop");
	lat_box_register(L, &lat_lua_wireguard_job_type);
	box = lat_box_new(L, &lat_lua_wireguard_job_type);
	job = calloc(1, sizeof(*job));
	if (!job)
		luaL_error(L, "out of memory");
	job->rt = lat_rt_of(L);
	job->run = run;
	job->result = result;
	job->pid = 0;
	lat_box_fill(L, box, job);
	return job;
}

static void run_job(uv_work_t *work)
{
	struct lat_wg_job *job = work->data;

	job->r = job->run(job);
}

/* Registry: job -> done. */
static int deliver(lua_State *L)
{
	struct lat_wg_job *job = lua_touserdata(L, 1);
	int n;

	lua_rawgetp(L, LUA_REGISTRYINDEX, job);
	lua_pushnil(L);
	lua_rawsetp(L, LUA_REGISTRYINDEX, job);
	n = job->r < 0 ? lat_push_errno(L, job->r, job->text) : job->result(L, job);
	lua_call(L, n, 0);
	return 0;
}

static void job_done(uv_work_t *work, int status)
{
	struct lat_wg_job *job = work->data;
	struct lat_rt *rt = job->rt;
	struct lat_rt_error err;

	if (status < 0)
		job->r = status;
	if (job->device)
		put_device(job->device);
	job->device = NULL;
	if (!rt->ending && lat_rt_enter(rt, deliver, job, &err) < 0)
		lat_rt_callback_failed(rt, &err);
	if (job->made && !job->made->boxed) { /* nobody took it: what was made goes away again */
		job->made->users = 1;
		close_device(job->made);
	}
	close_job(job);
}

int lat_lua_wireguard_start(lua_State *L, struct lat_wg_job *job, int done)
{
	int r;

	lua_pushvalue(L, done);
	lua_rawsetp(L, LUA_REGISTRYINDEX, job);
	job->work.data = job;
	r = uv_queue_work(lat_rt_loop(job->rt), &job->work, run_job, job_done);
	if (r < 0)
		return luaL_error(L, "cannot start a job: %s", strerror(-r)); /* the box frees it */
	lat_box_take(L, lua_touserdata(L, -1)); /* the loop's now */
	return 0;
}

/* ---- open and adopt ---- */

static const char *const programs[] = { "/usr/bin/wireguard-go", "/usr/local/bin/wireguard-go", "/usr/sbin/wireguard-go",
	"/usr/local/sbin/wireguard-go" };

static int made(struct lat_wg_job *job, struct lat_links *links, const struct lat_wg_go *go)
{
	struct lat_wg_box *d;
	struct lat_link link;
	int r = lat_link_get(links, job->name, &link);

	if (r < 0)
		return r;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->rt = job->rt;
	d->users = 1;
	d->index = link.index;
	d->go = *go;
	d->device.dir = go->dir;
	strcpy(d->device.name, job->name);
	job->made = d;
	return 0;
}

static int name_owner(struct lat_links *links, const struct lat_wg_job *job)
{
	struct lat_link link;
	int r = lat_link_get(links, job->name, &link);

	return r < 0 ? r : lat_link_set(links, link.index, &(struct lat_link_change){ .alias = job->alias });
}

static int open_kernel(struct lat_wg_job *job, struct lat_links *links)
{
	static const struct lat_wg_go none = { -1, -1, -1, -1, "" };
	struct lat_link link;
	int r = lat_link_add(links, "wireguard", job->name);

	if (r < 0)
		return r;
	r = name_owner(links, job);
	if (r == 0)
		r = made(job, links, &none);
	if (r < 0 && lat_link_get(links, job->name, &link) == 0)
		lat_link_delete(links, link.index);
	return r;
}

static int open_go(struct lat_wg_job *job, struct lat_links *links)
{
	struct lat_tun_options options = { .name = job->name };
	const char *program = job->program;
	struct lat_wg_go go = { -1, -1, -1, -1, "" };
	char said[256];
	struct lat_tun *tun;
	uint32_t index;
	int r;

	for (size_t i = 0; !program && i < sizeof(programs) / sizeof(programs[0]); i++)
		program = access(programs[i], X_OK) == 0 ? programs[i] : NULL;
	if (!program) {
		snprintf(job->text, sizeof(job->text), "make device %s: this kernel has no WireGuard, and wireguard-go is not "
			"there (apt-get install wireguard-go)", job->name);
		return -ENOENT;
	}
	r = lat_tun_open(&options, &tun);
	if (r < 0)
		return r;
	r = name_owner(links, job); /* before it can outlive us */
	if (r == 0)
		r = lat_tun_persist(tun, true);
	index = lat_tun_index(tun);
	lat_tun_close(tun);
	if (r == 0)
		r = lat_wg_go_start(program, job->name, &go);
	if (r == 0)
		r = made(job, links, &go);
	if (r == -EXDEV) {
		lat_wg_go_said(&go, said, sizeof(said));
		snprintf(job->text, sizeof(job->text), "start %s for %s: it ended (%s)", program, job->name, said);
		r = -ECHILD;
	}
	if (r < 0) {
		lat_link_delete(links, index);
		lat_wg_go_kill(&go);
	}
	return r;
}

static int run_open(struct lat_wg_job *job)
{
	struct lat_links *links;
	int r = lat_links_open(-1, &links);

	snprintf(job->text, sizeof(job->text), "make device %s", job->name);
	if (r < 0)
		return r;
	r = job->kind == LAT_WG_USERSPACE ? -EOPNOTSUPP : open_kernel(job, links);
	if (r == -EOPNOTSUPP && job->kind != LAT_WG_KERNEL)
		r = open_go(job, links);
	lat_links_close(links);
	return r;
}

static int run_adopt(struct lat_wg_job *job)
{
	struct lat_wg_go go = { -1, -1, -1, -1, "" };
	struct lat_links *links;
	struct lat_link link;
	int r = lat_links_open(-1, &links);

	snprintf(job->text, sizeof(job->text), "take over device %s", job->name);
	if (r < 0)
		return r;
	r = lat_link_get(links, job->name, &link);
	if (r == 0 && strcmp(link.kind, job->pid ? "tun" : "wireguard") != 0)
		r = -EEXIST;
	if (r == 0 && job->pid)
		r = lat_wg_go_adopt(job->pid, job->name, &go);
	if (r == 0)
		r = made(job, links, &go);
	if (r < 0)
		lat_wg_go_release(&go); /* it is not ours: it goes on */
	lat_links_close(links);
	return r;
}

static int give_device(lua_State *L, struct lat_wg_job *job)
{
	struct lat_box *box = lat_box_new(L, &lat_lua_wireguard_type);

	lat_box_fill(L, box, job->made);
	job->made->boxed = true;
	return 1;
}

char *lat_lua_wireguard_text(lua_State *L, int table, const char *key)
{
	char *copy = NULL;

	if (lua_getfield(L, table, key) != LUA_TNIL) {
		copy = strdup(luaL_checkstring(L, -1));
		if (!copy)
			luaL_error(L, "out of memory");
	}
	lua_pop(L, 1);
	return copy;
}

static void take_name(lua_State *L, struct lat_wg_job *job)
{
	const char *name;

	lua_getfield(L, 1, "name");
	name = luaL_checkstring(L, -1);
	luaL_argcheck(L, lat_link_name_ok(name), 1, "name: 1 to 15 bytes without '/', ':', '%' and spaces expected");
	strcpy(job->name, name);
	lua_pop(L, 1);
}

static int l_open(lua_State *L)
{
	static const char *const kinds[] = { "auto", "kernel", "wireguard-go", NULL };
	struct lat_wg_job *job;
	const char *alias;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 2);
	lua_getfield(L, 1, "kind");
	lua_getfield(L, 1, "alias");
	alias = luaL_optstring(L, 4, "");
	luaL_argcheck(L, strlen(alias) < sizeof(job->alias), 1, "alias: at most 255 bytes");
	job = lat_lua_wireguard_job(L, 2, run_open, give_device);
	job->kind = luaL_checkoption(L, 3, "auto", kinds);
	strcpy(job->alias, alias);
	take_name(L, job);
	job->program = lat_lua_wireguard_text(L, 1, "program");
	return lat_lua_wireguard_start(L, job, 2);
}

static int l_adopt(lua_State *L)
{
	struct lat_wg_job *job;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 2);
	lua_getfield(L, 1, "pid");
	job = lat_lua_wireguard_job(L, 2, run_adopt, give_device);
	job->pid = (pid_t)luaL_optinteger(L, 3, 0);
	take_name(L, job);
	return lat_lua_wireguard_start(L, job, 2);
}

/* ---- methods without waiting ---- */

static int l_name(lua_State *L)
{
	lua_pushstring(L, self(L)->device.name);
	return 1;
}

static int l_index(lua_State *L)
{
	lua_pushinteger(L, self(L)->index);
	return 1;
}

static int l_kind(lua_State *L)
{
	lua_pushstring(L, self(L)->go.pid > 0 ? "wireguard-go" : "kernel");
	return 1;
}

static int l_pid(lua_State *L)
{
	struct lat_wg_box *d = self(L);

	if (d->go.pid > 0)
		lua_pushinteger(L, d->go.pid);
	else
		lua_pushnil(L);
	return 1;
}

static int l_said(lua_State *L)
{
	char said[256];

	lat_wg_go_said(&self(L)->go, said, sizeof(said));
	lua_pushstring(L, said);
	return 1;
}

static int l_release(lua_State *L)
{
	self(L)->released = true;
	lat_box_close(L, lat_box_any(L, 1, &lat_lua_wireguard_type));
	return 0;
}

#define FAILS ", string? error, string? code"
#define DONE(type) "done: fun(result: " type "?, error?: string, code?: string)"
static const struct lat_api_function functions[] = {
	{ "open", l_open,
		"options: { name: string, kind?: \"auto\"|\"kernel\"|\"wireguard-go\", program?: string, alias?: string }, " DONE(
			"lattice.wireguard.Device"),
		"", "Make a device, down: the kernel's where it has WireGuard, else wireguard-go's. EEXIST: the name is taken." },
	{ "adopt", l_adopt, "options: { name: string, pid?: integer }, " DONE("lattice.wireguard.Device"), "",
		"Take over a device that an earlier process made; pid: of its wireguard-go." },
	{ "kernel", lat_lua_wireguard_kernel, "", "boolean?" FAILS, "Whether this kernel has WireGuard, by making a device in a namespace." },
	{ "create_key", lat_lua_wireguard_create_key, "path: string", "string? public" FAILS,
		"Make a file with a new private key, mode 0600; its public key." },
	{ "public_key", lat_lua_wireguard_public_key, "path: string", "string? public" FAILS, "The public key of the private one in a file." },
	{ "valid_key", lat_lua_wireguard_valid_key, "text: string", "boolean", "Whether this is a key in base64." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "name", l_name, "", "string", "Its name." },
	{ "index", l_index, "", "integer", "Its interface index." },
	{ "kind", l_kind, "", "\"kernel\"|\"wireguard-go\"", "Who does the work." },
	{ "pid", l_pid, "", "integer?", "Of wireguard-go." },
	{ "said", l_said, "", "string", "The last line that wireguard-go printed; \"\" for none." },
	{ "set", lat_lua_wireguard_set,
		"config: { private_key_file?: string, listen?: integer, peers?: lattice.wireguard.Peer[], replace?: boolean }, "
		DONE("boolean"), "",
		"Change what is given. replace: the peers are all of them; those that stay as they are keep their session." },
	{ "get", lat_lua_wireguard_get, DONE("lattice.wireguard.State"), "", "What it is now." },
	{ "ended", l_ended, "fn: fun()", "boolean?" FAILS,
		"Call fn when wireguard-go ends by itself; its device stays, and nothing passes." },
	{ "release", l_release, "", "", "Close the box and leave the device as it is." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.wireguard.Peer", "A peer as set takes it.", NULL, NULL,
		"key: string, preshared_file?: string, endpoint?: string, allowed?: string[], keepalive?: integer, remove?: boolean" },
	{ "lattice.wireguard.PeerState", "A peer as get gives it.", NULL, NULL,
		"key: string, preshared: boolean, endpoint?: string, allowed: string[], keepalive?: integer, rx: integer, tx: "
		"integer, handshake?: integer" },
	{ "lattice.wireguard.State", "A device as get gives it; handshake: seconds since the epoch.", NULL, NULL,
		"public_key?: string, listen: integer, peers: lattice.wireguard.PeerState[]" },
	{ "lattice.wireguard.Device", "A WireGuard device; it is removed with its box unless released.",
		&lat_lua_wireguard_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_wireguard = {
	.name = "lattice.wireguard",
	.doc = "WireGuard devices, the kernel's or wireguard-go's, and keys.",
	.functions = functions,
	.classes = classes,
};
