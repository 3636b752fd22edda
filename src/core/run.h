/* One run of a command, from launch to exit status: the supervisor. It owns the sandbox, the flow engine (user mode) or the
 * cgroup and its programs (kernel mode), the mediator of connects, DNS, audit and the policy in force, on one poller and one
 * libuv loop (for the resolver). */
#ifndef LAT_CORE_RUN_H
#define LAT_CORE_RUN_H
#include "core/audit.h"
#include "core/policy.h"
#include "core/worker.h"
#include "kernel/cgroup.h"
#include "launcher/launcher.h"

/* What a reload brings beside the policy (struct lat_answer.extra): freed by the run with release(). */
struct lat_run_reload {
	const struct lat_audit_route *routes;
	size_t route_count;
	void (*release)(struct lat_run_reload *reload);
};

struct lat_run_options {
	const char *name, *run_id;      /* --name; unique id for the audit */
	const char *passed_over;        /* NULL, or why each stronger mode was passed over: for the start record */
	struct lat_launch_spec launch;
	struct lat_policy *policy;      /* generation 1; the run takes its own reference */
	const struct lat_audit_route *routes;
	size_t route_count;
	const struct lat_worker_ops *worker; /* handlers and reload */
	const char *const *watch;       /* NULL, or files (NULL-terminated): a change of one reloads the policy */
	bool kernel;                    /* kernel mode: in the host's network, in a cgroup whose programs judge; the policy (and
	                                 * those of reloads) must have kept its entries */
	bool preload;                   /* preload mode: liblattice_intercept.so in the command; advisory */
	const char *agent;              /* kernel mode without privilege: the agent's control socket, and which of its policies this
	                                 * one is; NULL: the group and its programs are ours */
	const char *agent_policy;
	const char *device;             /* kernel mode: what every socket is bound to, but for loopback; or NULL */
	struct lat_cgroup *group;       /* NULL, or made by the caller, who closes it after the run: what the command runs in, and
	                                 * whose limits are watched. Kernel mode takes it where it has a v2 directory */
	const char *limits_missing;     /* NULL, or limits of the policy that nothing holds here, for the audit: "cpu, io" */
	struct lat_cgroup_limits limits; /* kernel mode without a group: of the one that it makes */
	int *failure;                   /* NULL, or set to the negative errno that kept kernel mode from being made */
	bool audit_only;                /* let everything pass, record what would have been denied */
	bool learn;                     /* the same, and names are always resolved, private answers included */
	bool notices;                   /* a line on stderr for the first refusal of each destination */
	bool verbose, json;
	bool no_summary;
	bool *stuck;                    /* NULL, or set when the policy thread did not end: what `worker`, its context and
	                                 * `policy` lead to must then be left as it is until the process ends */
};

/* Exit codes of the supervisor itself (LIBRARIES 3.1). */
#define LAT_RUN_FAILED 125

/* Runs to the end. Returns the exit status for the shell: the command's own, 128+n, 126, 127, or LAT_RUN_FAILED with a
 * message on stderr. Must be called by the main thread; signals are the caller's before and after. */
int lat_run(const struct lat_run_options *options);

#endif
