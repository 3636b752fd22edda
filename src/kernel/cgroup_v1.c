/* The limits of a group where the controllers are on v1. */
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PERIOD_US 100000

static int put(const struct lat_cg_dir *dir, const char *limit, const char *file, uint64_t value, char say[LAT_CGROUP_SAY])
{
	char text[32];
	int r;

	snprintf(text, sizeof(text), "%" PRIu64, value);
	r = lat_cg_write(dir->fd, file, text);
	return r < 0 ? lat_cg_say(say, r, "limit %s: writing %s to %s/%s: %s%s", limit, text, dir->path, file, strerror(-r),
			       r == -ENOENT ? " (this kernel does not count it: swapaccount=1 at boot for swap)" : "")
		     : 0;
}

static int limit_memory(const struct lat_cg_dir *dir, const struct lat_cgroup_limits *l, char say[LAT_CGROUP_SAY])
{
	char text[32];
	int r;

	if (!l->memory)
		return lat_cg_say(say, -EINVAL, "limit swap: on cgroup v1 (%s) it needs a limit of memory beside it", dir->path);
	r = put(dir, "memory", "memory.limit_in_bytes", l->memory, say);
	if (r < 0 || l->swap == UINT64_MAX)
		return r;
	if (l->swap || l->no_swap)
		return put(dir, "swap", "memory.memsw.limit_in_bytes", l->memory + l->swap, say);
	snprintf(text, sizeof(text), "%" PRIu64, l->memory);
	lat_cg_write(dir->fd, "memory.memsw.limit_in_bytes", text); /* no such file: swap is not counted here */
	return 0;
}

struct io { const struct lat_cg_dir *dir; const char *file; uint64_t rate; };

static int limit_disk(void *ctx, const char *disk)
{
	const struct io *io = ctx;
	char text[64];

	snprintf(text, sizeof(text), "%s %" PRIu64, disk, io->rate);
	return lat_cg_write(io->dir->fd, io->file, text);
}

static int limit_io(const struct lat_cg_dir *dir, const char *file, uint64_t rate, char say[LAT_CGROUP_SAY])
{
	struct io io = { dir, file, rate };
	char disk[16] = "";
	int r = rate ? lat_cg_each_disk(limit_disk, &io, disk) : 0;

	if (r == -ENODEV)
		return lat_cg_say(say, r, "limit io: this host has no disk that could be limited (/sys/block)");
	if (r < 0)
		return lat_cg_say(say, r, "limit io: disk %s in %s/%s: %s", disk, dir->path, file, strerror(-r));
	return 0;
}

int lat_cg_v1_limit(const struct lat_cg_dir *dir, const struct lat_cgroup_limits *l, char say[LAT_CGROUP_SAY])
{
	const unsigned here = dir->controllers;
	int r = here & 1u << CG_MEMORY ? limit_memory(dir, l, say) : 0;

	if (r == 0 && here & 1u << CG_CPU)
		r = put(dir, "cpu", "cpu.cfs_period_us", PERIOD_US, say);
	if (r == 0 && here & 1u << CG_CPU)
		r = put(dir, "cpu", "cpu.cfs_quota_us", l->cpu * PERIOD_US / 1000, say);
	if (r == 0 && here & 1u << CG_PIDS)
		r = put(dir, "pids", "pids.max", l->pids, say);
	if (r == 0 && here & 1u << CG_IO)
		r = limit_io(dir, "blkio.throttle.read_bps_device", l->io_read, say);
	if (r == 0 && here & 1u << CG_IO)
		r = limit_io(dir, "blkio.throttle.write_bps_device", l->io_write, say);
	return r;
}
