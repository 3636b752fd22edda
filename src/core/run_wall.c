/* The life of a run in kernel mode: the group, the programs on it, and their end. See run_wall.h.
 *
 * Before the launch: group, programs, generation 1. The command's processes are put into the group before they do anything,
 * so nothing of theirs was ever outside the wall. At the end: first everything inside is dead, then the last events are read,
 * then the group goes, and the programs with it. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/edition.h"
#include "base/mem.h"
#include "kernel/bpf.h"
#include "kernel/privilege.h"
#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The inode number of the first pid namespace, fixed since Linux 3.8 (PROC_PID_INIT_INO). */
#define FIRST_PID_NAMESPACE 0xEFFFFFFCu

static bool first_pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == FIRST_PID_NAMESPACE;
}

/* CAP_SYS_ADMIN has what CAP_BPF has. */
static int check_capabilities(char say[LAT_RUN_SAY])
{
	const uint64_t bpf = 1ull << lat_capability_number("bpf"), admin = 1ull << lat_capability_number("sys_admin");
	const uint64_t net = 1ull << lat_capability_number("net_admin");
	uint64_t have = 0;
	bool no_bpf, no_net;
	int r = lat_capabilities(&have);

	if (r < 0)
		return r;
	no_bpf = !(have & (bpf | admin));
	no_net = !(have & net);
	if (!no_bpf && !no_net)
		return 0;
	snprintf(say, LAT_RUN_SAY, "kernel mode needs %s%s%s, which this caller does not have: run it as root, or use --mode user",
		no_bpf ? "CAP_BPF" : "", no_bpf && no_net ? " and " : "", no_net ? "CAP_NET_ADMIN" : "");
	return -EPERM;
}

/* The group's name: for people who look at the tree. */
static void group_name(const struct lat_run *run, char name[64])
{
	const char *from = run->options->name ? run->options->name : "run";
	size_t n = 0;

	for (; from[n] && n < 40; n++)
		name[n] = from[n] == '/' || (unsigned char)from[n] <= ' ' || from[n] == 0x7f ? '-' : from[n];
	if (name[0] == '.')
		name[0] = '-';
	snprintf(name + n, 64 - n, "-%d", (int)getpid());
}

static int use_group(struct lat_run *run, char say[LAT_RUN_SAY])
{
	char name[64], why[LAT_CGROUP_SAY] = "";
	const struct lat_cgroup_options options = { .name = name, .limits = run->options->limits, .programs = true,
		.unique = true };
	int r;

	if (run->group && !lat_cgroup_path(run->group)) {
		snprintf(say, LAT_RUN_SAY, "the command's group has no directory in the cgroup v2 tree, where the programs go");
		return -EINVAL;
	}
	if (run->group)
		return 0;
	group_name(run, name);
	r = lat_cgroup_make(&options, &run->group, why);
	run->wall->own_group = r == 0;
	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "no cgroup for the command: %s", why[0] ? why : strerror(-r));
	return r;
}

static int load(struct lat_run *run, char say[LAT_RUN_SAY])
{
	struct lat_wall *w = run->wall;
	struct lat_tc_options o = { .cgroup = { .path = lat_cgroup_path(run->group), .bind = run->options->device,
					    .dns_port = w->dns_port, .no_unix = !w->notifies } };
	const char *none = "";
	char why[LAT_TC_SAY] = "";
	int r = lat_filter_open(&o, &none, 1, &w->filter, why);

	if (r == -EOPNOTSUPP && o.cgroup.no_unix) { /* before Linux 6.7: the supervisor makes every connect */
		o.cgroup.no_unix = false;
		w->notifies = true;
		r = lat_filter_open(&o, &none, 1, &w->filter, why);
	}
	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "the programs of kernel mode cannot be had here: %.800s", why[0] ? why : strerror(-r));
	return r;
}

static int prepare(struct lat_run *run, struct lat_launch_spec *spec, char say[LAT_RUN_SAY])
{
	struct lat_wall *w;
	int r;

	if (!run->options->agent && !lat_bpf_embedded_name(0)) {
		snprintf(say, LAT_RUN_SAY, "kernel mode: %s", LAT_EPRO_TEXT);
		return -LAT_EPRO;
	}
	if (run->policy->spec.rule_count && !run->policy->spec.keep_entries)
		return -EINVAL;
	r = run->options->agent ? 0 : check_capabilities(say);
	if (r < 0)
		return r;
	if (run->options->device && !run->options->agent && if_nametoindex(run->options->device) == 0) {
		snprintf(say, LAT_RUN_SAY, "there is no device %.15s (ip link shows those there are)", run->options->device);
		return -ENODEV;
	}
	w = run->wall = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->run = run;
	w->dns_udp = w->dns_tcp = w->applied.fd = -1;
	w->notifies = lat_wall_asks(run, run->policy);
	w->knows_pids = first_pid_namespace();
	pthread_mutex_init(&w->lock, NULL);
	w->names = calloc(LAT_WALL_NAMES, sizeof(*w->names));
	if (!w->names)
		return -ENOMEM;
	spec->network = LAT_NETWORK_HOST;
	spec->ask = w->notifies;
	r = lat_wall_dns_open(w, say);
	if (run->options->agent) {
		lat_wall_agent_launch(run, spec);
		return r ? r : lat_wall_agent_open(w, say);
	}
	r = r ? r : use_group(run, say);
	r = r ? r : load(run, say);
	return r ? r : lat_wall_first(run, say);
}

static int open_wall(struct lat_run *run, struct lat_dns_options *dns)
{
	int r = lat_wall_events_open(run->wall);

	lat_wall_connect_hooks(run, &run->hooks.connects);
	run->hooks.dns.client = lat_wall_dns_client;
	dns->udp = run->wall->dns_udp;
	dns->tcp = run->wall->dns_tcp;
	return r < 0 ? r
		     : lat_connects_new(&(struct lat_connects_options){ .poller = run->poller, .hooks = &run->hooks.connects,
						.notify = run->sandbox.notify, .diag = run->sandbox.diag,
						.root = run->sandbox.root },
			       &run->connects);
}

static void tick(struct lat_run *run, uint64_t now_ns)
{
	lat_wall_events_read(run->wall);
	lat_wall_names_tick(run->wall, now_ns);
	lat_connects_get_stats(run->connects, &run->wall->notified);
}

/* The probe's refusal is in the ring by now, if it was one. */
static bool told(struct lat_run *run)
{
	run->probing = true;
	if (run->wall->agent)
		lat_wall_agent_told(run->wall);
	else
		lat_wall_events_read(run->wall);
	run->probing = false;
	return run->probe_refused_packet;
}

static void count(struct lat_wall *w, char say[LAT_RUN_SAY])
{
	struct lat_tc_status s;
	int n;

	if (lat_tc_status(w->filter->tc[0], &s) < 0)
		return;
	n = snprintf(say, LAT_RUN_SAY, "in the kernel: %" PRIu64 " connects allowed, %" PRIu64 " denied, %" PRIu64 " flows, %" PRIu64
		" packets dropped; %" PRIu64 " connects asked of the supervisor",
		(uint64_t)s.stats[LAT_TC_STAT_CONNECT_ALLOWED], (uint64_t)s.stats[LAT_TC_STAT_CONNECT_DENIED],
		(uint64_t)s.stats[LAT_TC_STAT_FLOWS], (uint64_t)s.stats[LAT_TC_STAT_DENIED], w->notified.notified);
	if (s.stats[LAT_TC_STAT_UNIX_DENIED])
		snprintf(say + n, LAT_RUN_SAY - (size_t)n, "; %" PRIu64 " unix sockets refused whose addresses are as long as IP's",
			(uint64_t)s.stats[LAT_TC_STAT_UNIX_DENIED]);
}

static void end(struct lat_run *run, char say[LAT_RUN_SAY])
{
	struct lat_wall *w = run->wall;

	if (w->agent) {
		lat_wall_agent_end(w);
		lat_wall_events_done(w);
		return;
	}
	if (!w->pump || !w->ring)
		return;
	lat_wall_apply_end(w);
	if (!run->audit)
		return;
	lat_wall_events_read(w);
	lat_wall_events_end(w);
	lat_wall_events_done(w);
	count(w, say);
}

static void close_wall(struct lat_run *run)
{
	struct lat_wall *w = run->wall;

	if (!w)
		return;
	lat_wall_apply_end(w);
	lat_wall_events_close(w);
	lat_agent_close(w->agent);
	/* The group first: as long as there is one, its programs are on it. */
	if (w->own_group) {
		lat_cgroup_close(run->group);
		run->group = NULL;
	}
	lat_filter_close(w->filter, true);
	lat_policy_unref(w->policy);
	lat_close(&w->dns_udp);
	lat_close(&w->dns_tcp);
	pthread_mutex_destroy(&w->lock);
	free(w->names);
	free(w);
	run->wall = NULL;
}

const struct lat_run_mode lat_run_wall = { .name = "kernel", .prepare = prepare, .open = open_wall, .tick = tick,
	.told = told, .take = lat_wall_take, .cut = lat_wall_cut, .end = end, .close = close_wall };
