/* What a group has used, and how often it met its limits. */
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void take(const struct lat_cg_dir *dir, const char *file, const char *key, uint64_t unit, uint64_t *out)
{
	uint64_t value;

	if (lat_cg_number(dir->fd, file, key, &value) == 0)
		*out = value * unit;
}

static void add(uint64_t *sum, uint64_t value)
{
	*sum = *sum == UINT64_MAX ? value : *sum + value;
}

/* "254:0 rbytes=1 wbytes=2 rios=..." */
static void take_io2(const struct lat_cg_dir *dir, struct lat_cgroup_usage *u)
{
	char text[8192], *line, *rest = text;
	uint64_t r, w;

	if (lat_cg_read(dir->fd, "io.stat", text, sizeof(text)) < 0)
		return;
	while ((line = strtok_r(rest, "\n", &rest)) != NULL) {
		if (sscanf(line, "%*s rbytes=%" SCNu64 " wbytes=%" SCNu64, &r, &w) != 2)
			continue;
		add(&u->io_read, r);
		add(&u->io_write, w);
	}
}

/* "254:0 Read 1" */
static void take_io1(const struct lat_cg_dir *dir, struct lat_cgroup_usage *u)
{
	char text[8192], word[16], *line, *rest = text;
	uint64_t n;

	if (lat_cg_read(dir->fd, "blkio.throttle.io_service_bytes", text, sizeof(text)) < 0)
		return;
	while ((line = strtok_r(rest, "\n", &rest)) != NULL) {
		if (sscanf(line, "%*s %15s %" SCNu64, word, &n) != 2)
			continue;
		if (strcmp(word, "Read") == 0)
			add(&u->io_read, n);
		else if (strcmp(word, "Write") == 0)
			add(&u->io_write, n);
	}
}

/* What a controller that is not ours counts, is not of our limits. */
static void take_events(const struct lat_cg_dir *dir, struct lat_cgroup_usage *u)
{
	if (dir->controllers & 1u << CG_CPU) {
		take(dir, "cpu.stat", "nr_throttled", 1, &u->throttled);
		take(dir, "cpu.stat", dir->v2 ? "throttled_usec" : "throttled_time", dir->v2 ? 1000 : 1, &u->throttled_ns);
	}
	if (dir->controllers & 1u << CG_MEMORY)
		take(dir, dir->v2 ? "memory.events" : "memory.oom_control", "oom_kill", 1, &u->oom_kills);
	if (dir->controllers & 1u << CG_PIDS)
		take(dir, "pids.events", "max", 1, &u->pids_refused);
}

static void take_v2(const struct lat_cg_dir *dir, struct lat_cgroup_usage *u)
{
	take(dir, "cpu.stat", "usage_usec", 1000, &u->cpu_ns);
	take(dir, "memory.current", NULL, 1, &u->memory);
	take(dir, "memory.peak", NULL, 1, &u->memory_peak);
	take(dir, "pids.current", NULL, 1, &u->pids);
	take_io2(dir, u);
}

static void take_v1(const struct lat_cg_dir *dir, struct lat_cgroup_usage *u)
{
	take(dir, "cpuacct.usage", NULL, 1, &u->cpu_ns);
	take(dir, "memory.usage_in_bytes", NULL, 1, &u->memory);
	take(dir, "memory.max_usage_in_bytes", NULL, 1, &u->memory_peak);
	take(dir, "pids.current", NULL, 1, &u->pids);
	take_io1(dir, u);
}

void lat_cgroup_events(const struct lat_cgroup *group, struct lat_cgroup_usage *out)
{
	memset(out, 0xff, sizeof(*out));
	for (unsigned i = 0; i < group->count; i++)
		take_events(&group->dir[i], out);
}

void lat_cgroup_usage(const struct lat_cgroup *group, struct lat_cgroup_usage *out)
{
	lat_cgroup_events(group, out);
	for (unsigned i = 0; i < group->count; i++) {
		if (group->dir[i].v2)
			take_v2(&group->dir[i], out);
		else
			take_v1(&group->dir[i], out);
	}
}
