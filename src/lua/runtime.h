/* One Lua state of ours, and the one door from C into it.
 *
 * A state never looks at the environment: LUA_NOENV is set before the libraries open, package.path and cpath are empty,
 * and `require` finds the modules compiled into the binary (embed.h), the tables of api.h, lpeg and (trusted) luv.
 *
 * Two kinds. TRUSTED: our own commands and the scripts of `lattice lua`; the whole standard library. POLICY: what a policy
 * author's text runs in, kept in bounds by limits that a script cannot catch (limits.c) and by a standard library without
 * anything that acts on the host or runs unbounded inside C (policy_std.c).
 *
 * A state belongs to one thread at a time. */
#ifndef LAT_LUA_RUNTIME_H
#define LAT_LUA_RUNTIME_H
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum lat_rt_kind { LAT_RT_TRUSTED, LAT_RT_POLICY, LAT_RT_KIND_COUNT };

/* 0 means no limit. They hold for one stay behind the door; memory is the whole state's. */
struct lat_rt_limits {
	uint64_t instructions;
	size_t memory;        /* bytes */
	uint32_t deadline_ms; /* wall clock */
};

/* Three times what 100000 rules take, and twice their memory; an endless loop is stopped after about a second, and
 * what is slow without many instructions after ten. */
#define LAT_RT_POLICY_LIMITS                                                                       \
	((struct lat_rt_limits){ .instructions = 300000000, .memory = 512u << 20, .deadline_ms = 10000 })

enum lat_rt_why {
	LAT_RT_ERROR,        /* an error of the script or of ours */
	LAT_RT_INSTRUCTIONS, /* stopped: the instruction budget is used up */
	LAT_RT_DEADLINE,     /* stopped: it ran too long */
	LAT_RT_MEMORY,       /* stopped: it wanted more memory than the cap */
	LAT_RT_STOPPED,      /* stopped from outside: lat_rt_stop */
	LAT_RT_WHY_COUNT
};

struct lat_rt_error {
	enum lat_rt_why why;
	char where[128];  /* "agent.lua:14", or "" where no Lua line is known */
	char text[1024];  /* one line or more, for people; begins with `where` if that is known */
	char trace[4096]; /* "stack traceback: ...", or "" */
};

struct lat_rt;

/* The state's own modules and libraries are ready. 0, -ENOMEM, or -EPROTO (an error while opening, logged). */
int lat_rt_new(enum lat_rt_kind kind, const struct lat_rt_limits *limits, struct lat_rt **out);
/* Closes every box, the loop's handles and the state. NULL is fine. */
void lat_rt_free(struct lat_rt *rt);
/* Takes effect with the next stay behind the door (memory: at once). */
void lat_rt_set_limits(struct lat_rt *rt, const struct lat_rt_limits *limits);

/* From any thread: what runs in the state, or will, is stopped within some instructions, until it is called with false. Only
 * where limits of instructions or time hold. */
void lat_rt_stop(struct lat_rt *rt, bool stop);

/* The one door. Runs `deliver` protected, with ctx as a light userdata at index 1; it pushes its own arguments, calls what
 * is to be called, and writes results to *ctx. Returns 0, or with *err filled (err may be NULL): -EPROTO for an error,
 * -ETIME for a tripped limit, -ENOMEM, -ECANCELED while the state is being freed; the caller then uses its safe default. Not re-entrant: asserted. */
int lat_rt_enter(struct lat_rt *rt, lua_CFunction deliver, void *ctx, struct lat_rt_error *err);

/* A C function that Lua called and that now waits in the loop: between these two, callbacks may come in by the door.
 * Main thread only (throws otherwise); nothing between the two may throw. */
void lat_rt_wait_begin(lua_State *L);
void lat_rt_wait_end(lua_State *L);

/* The runtime of a state, from any of its threads. */
struct lat_rt *lat_rt_of(lua_State *L);
enum lat_rt_kind lat_rt_kind(const struct lat_rt *rt);
/* The state's loop, made when first asked for; NULL when it cannot be made. Not for POLICY states (NULL). */
uv_loop_t *lat_rt_loop(struct lat_rt *rt);
/* Boxes (box.h) that now hold something, for leak tests. */
size_t lat_rt_boxes(const struct lat_rt *rt);
/* Bytes that the state holds now. */
size_t lat_rt_memory(const struct lat_rt *rt);

/* Pushes nil, message, "ENAME" for a failed operation and returns 3: `return lat_push_errno(L, r, "what was tried")`.
 * error: negative or positive errno; of LAT_EPRO (base/edition.h) the third value is the number 402. */
int lat_push_errno(lua_State *L, int error, const char *tried);

#endif
