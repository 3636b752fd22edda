/* The group that a run is in: the command is put there before it does anything, and what it meets of its limits becomes audit
 * records. A limit that is met over and over is told when it has been met twice as often as was told, and at the end. */
#include "core/run_private.h"
#include "kernel/cgroup.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define KILL_MS 10000

int lat_run_place(void *ctx, pid_t init, char say[256])
{
	struct lat_run *run = ctx;
	int r = lat_cgroup_join(run->group, init);

	if (r < 0)
		snprintf(say, 256, "cannot put the sandbox into its group %.180s: %s",
			lat_cgroup_path_at(run->group, 0), strerror(-r));
	return r;
}

static void tell(struct lat_run *run, const char *name, uint64_t count, const char *text)
{
	struct lat_record r = { .kind = LAT_RECORD_LIMIT, .action = count ? LAT_ACTION_DENY : LAT_ACTION_AUDIT, .count = count };

	snprintf(r.name, sizeof(r.name), "%s", name);
	snprintf(r.text, sizeof(r.text), "%s", text);
	lat_run_emit(run, &r);
}

void lat_run_limits_start(struct lat_run *run)
{
	if (run->options->limits_missing)
		tell(run, run->options->limits_missing, 0, "not enforced on this host, and accepted so");
}

/* "64M", as a policy says it. */
static const char *size_text(uint64_t bytes, char buf[24])
{
	static const char units[] = "KMGT";
	int unit = -1;

	while (bytes && bytes % 1024 == 0 && unit < 3) {
		bytes /= 1024;
		unit++;
	}
	snprintf(buf, 24, unit < 0 ? "%" PRIu64 : "%" PRIu64 "%c", bytes, unit < 0 ? 0 : units[unit]);
	return buf;
}

static bool due(uint64_t count, uint64_t told, bool last)
{
	return count != UINT64_MAX && count > told && (last || count >= 2 * told);
}

static void look(struct lat_run *run, bool last)
{
	const struct lat_cgroup_limits *limits = lat_cgroup_limits(run->group);
	struct lat_cgroup_usage u;
	char text[200], size[24];

	lat_cgroup_events(run->group, &u);
	if (due(u.oom_kills, run->met.oom, true)) {
		run->met.oom = u.oom_kills;
		snprintf(text, sizeof(text), "%" PRIu64 " process%s killed for more than %s of memory", u.oom_kills,
			u.oom_kills == 1 ? " was" : "es were", size_text(limits->memory, size));
		tell(run, "memory", u.oom_kills, text);
	}
	if (due(u.pids_refused, run->met.pids, last)) {
		run->met.pids = u.pids_refused;
		snprintf(text, sizeof(text), "a new task beyond %" PRIu64 " was refused %" PRIu64 " time%s", limits->pids,
			u.pids_refused, u.pids_refused == 1 ? "" : "s");
		tell(run, "pids", u.pids_refused, text);
	}
	if (due(u.throttled, run->met.cpu, last)) {
		run->met.cpu = u.throttled;
		snprintf(text, sizeof(text), "held back %" PRIu64 " time%s, %.1f s in all, to keep to %.10g of a CPU", u.throttled,
			u.throttled == 1 ? "" : "s", (double)u.throttled_ns / 1e9, (double)limits->cpu / 1000);
		tell(run, "cpu", u.throttled, text);
	}
}

void lat_run_limits_tick(struct lat_run *run)
{
	if (run->group)
		look(run, false);
}

void lat_run_limits_end(struct lat_run *run)
{
	if (!run->group)
		return;
	lat_cgroup_kill(run->group, KILL_MS);
	if (run->audit)
		look(run, true);
}
