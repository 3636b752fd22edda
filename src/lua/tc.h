/* What the files of lattice.tc share: tc_jobs.c (a filter and its queue of jobs), tc_look.c (what only looks) and l_tc.c (what
 * changes something, and the module). events_tap.c, too, looks into a filter. */
#ifndef LAT_LUA_TC_H
#define LAT_LUA_TC_H
#include "core/filter.h"
#include "lua/api.h"
#include <pthread.h>
#include <uv.h>

struct lat_tc_job;

struct lat_tc_engine {
	struct lat_rt *rt;
	struct lat_filter *filter; /* NULL: not yet open, or closed */
	struct lat_policy *policy; /* in force */
	struct lat_tc_job *first, **last; /* waiting and running jobs */
	bool busy;                 /* one is running, or its result is being told */
	bool dropped;              /* the box is gone: free after the last job */
	pthread_mutex_t mutex;     /* of `behind`, which a job that can wait looks at */
	pthread_cond_t came;
	enum { LAT_TC_NOBODY, LAT_TC_SOMEBODY, LAT_TC_AN_APPLY } behind; /* jobs behind the one that runs */
};

/* What a job works with and what it found. */
struct lat_tc_job {
	uv_work_t work;
	struct lat_tc_engine *engine;
	struct lat_tc_job *next;
	void (*run)(struct lat_tc_job *job);            /* in the pool */
	int (*push)(lua_State *L, struct lat_tc_job *); /* results after success; how many */
	int done; /* reference to the function; LUA_NOREF: nobody waits */
	int box;  /* reference: the engine lives while it works */
	int status;
	const char *tried;
	char say[LAT_TC_SAY];
	/* arguments */
	struct lat_tc_options options;
	char *text;             /* owns strings of options, devices, names */
	const char **list;
	size_t count;
	struct lat_policy *policy;
	struct lat_filter_pin *pins;
	const char **pin_names;
	size_t limit;
	bool keep;
	bool replaces;          /* puts a policy in force */
	int turns;              /* so often it has let others go first */
	/* results */
	bool again;             /* once more, behind those that wait */
	struct lat_tc_count *counts;
	struct lat_tc_key *keys;
	struct lat_tc_flow *flows;
	int number;
};

extern const struct lat_box_type lat_tc_engine_type, lat_tc_draft_type;

/* The filter at 1; it throws when that is closed. */
struct lat_tc_engine *lat_tc_engine_check(lua_State *L);
/* Pushes a box with a filter that is not yet open. */
struct lat_box *lat_tc_engine_new(lua_State *L);
/* Pushes a box with an empty job. */
struct lat_tc_job *lat_tc_job_new(lua_State *L, const char *tried);
/* Takes the job out of the draft at `draft`; the function at `fn` is called with its result, the engine's box is at `box`. */
int lat_tc_job_submit(lua_State *L, int box, int draft, int fn);
/* In the pool: waits a while for jobs behind this one. */
int lat_tc_job_linger(struct lat_tc_job *j, unsigned ms);
/* What jobs push. */
int lat_tc_push_true(lua_State *L, struct lat_tc_job *j);
int lat_tc_push_number(lua_State *L, struct lat_tc_job *j);

/* Methods of tc_look.c. */
int lat_tc_l_counters(lua_State *L);
int lat_tc_l_flows(lua_State *L);
int lat_tc_l_cut(lua_State *L);
int lat_tc_l_ask(lua_State *L);
int lat_tc_l_run(lua_State *L);
int lat_tc_l_status(lua_State *L);
int lat_tc_l_hooked(lua_State *L);
int lat_tc_l_rings(lua_State *L);

#endif
