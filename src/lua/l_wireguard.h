/* What l_wireguard.c (devices, keys) and l_wireguard_config.c (set, get) share. */
#ifndef LAT_LUA_L_WIREGUARD_H
#define LAT_LUA_L_WIREGUARD_H
#include "kernel/link.h"
#include "kernel/tun.h"
#include "kernel/wireguard.h"
#include "lua/api.h"
#include "lua/runtime_impl.h"
#include <signal.h>

/* What a box lattice.wireguard.Device holds; jobs hold it, too. Only the loop's thread counts. */
struct lat_wg_box {
	struct lat_rt *rt;
	int users;
	bool boxed, released;
	uv_poll_t *watch; /* of the process's end, or NULL */
	uint32_t index;
	struct lat_wg_device device;
	struct lat_wg_go go; /* pid -1: the kernel's */
};
extern const struct lat_box_type lat_lua_wireguard_type;

struct lat_wg_job;
typedef int lat_wg_work(struct lat_wg_job *job);                  /* on the pool's thread: 0 or negative errno and job->text */
typedef int lat_wg_result(lua_State *L, struct lat_wg_job *job); /* pushes what done gets; how many */

struct lat_wg_job {
	uv_work_t work;
	struct lat_rt *rt;
	lat_wg_work *run;
	lat_wg_result *result;
	int r;
	char text[512]; /* what was tried */
	/* open, adopt */
	enum { LAT_WG_AUTO, LAT_WG_KERNEL, LAT_WG_USERSPACE } kind;
	char name[IFNAMSIZ], alias[256];
	char *program;
	pid_t pid;
	struct lat_wg_box *made;
	/* set, get */
	struct lat_wg_box *device; /* held */
	struct lat_wg wg;
	bool replace;
	char *private_file;
	char **preshared; /* of each peer: the file, or NULL */
	size_t preshared_count;
};

/* A job in a box on top of the stack; `done`: index of its function. It is filled, and then started, which takes it out. */
struct lat_wg_job *lat_lua_wireguard_job(lua_State *L, int done, lat_wg_work *run, lat_wg_result *result);
int lat_lua_wireguard_start(lua_State *L, struct lat_wg_job *job, int done);

/* A copy of the text at the key, or NULL where there is none. */
char *lat_lua_wireguard_text(lua_State *L, int table, const char *key);

/* "key file PATH: what is wrong and what to do" for an error of lat_wg_key_load. */
void lat_lua_wireguard_key_text(int r, const char *path, char *text, size_t size);
int lat_lua_wireguard_key_failed(lua_State *L, int r, const char *path);

int lat_lua_wireguard_kernel(lua_State *L);
int lat_lua_wireguard_create_key(lua_State *L);
int lat_lua_wireguard_public_key(lua_State *L);
int lat_lua_wireguard_valid_key(lua_State *L);
int lat_lua_wireguard_set(lua_State *L);
int lat_lua_wireguard_get(lua_State *L);

#endif
