/* What the files of the runtime share (runtime.c, limits.c, policy_std.c, box.c); nobody else includes this. */
#ifndef LAT_LUA_RUNTIME_IMPL_H
#define LAT_LUA_RUNTIME_IMPL_H
#include "lua/runtime.h"

struct lat_rt {
	lua_State *L;
	enum lat_rt_kind kind;
	struct lat_rt_limits limits;
	bool inside;            /* somebody is behind the door */
	/* limits.c */
	size_t memory_used;
	uint64_t instructions_left;
	uint64_t deadline_ns;   /* 0: none */
	bool armed;             /* a stay with limits is going on */
	enum lat_rt_why tripped; /* LAT_RT_ERROR: not tripped */
	char where[128];        /* of the trip */
	/* box.c */
	size_t boxes;
	/* the loop, if made */
	uv_loop_t loop;
	bool has_loop;
};

/* limits.c */
void *lat_limits_alloc(void *rt, void *block, size_t old_size, size_t new_size);
void lat_limits_arm(struct lat_rt *rt);
void lat_limits_disarm(struct lat_rt *rt);
/* Charges `steps` instructions for work inside C; throws when the budget is used up or the deadline passed. */
void lat_limits_charge(lua_State *L, uint64_t steps);
const char *lat_limits_text(enum lat_rt_why why);

/* policy_std.c: opens the bounded standard library. */
int lat_policy_std_open(lua_State *L);

#endif
