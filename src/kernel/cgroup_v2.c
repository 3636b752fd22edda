/* The v2 side of a group: controllers for it, which delegation may have to make room for, and its limits. */
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define PERIOD_US 100000

static unsigned listed(int dir, const char *file)
{
	char text[512], *word, *rest = text;
	unsigned bits = 0;

	if (lat_cg_read(dir, file, text, sizeof(text)) < 0)
		return 0;
	while ((word = strtok_r(rest, " \n", &rest)) != NULL)
		for (unsigned i = 0; i < CG_COUNT; i++)
			if (strcmp(word, lat_cg_names[i]) == 0)
				bits |= 1u << i;
	return bits;
}

static int set_subtree(int dir, unsigned controllers, char sign)
{
	char text[128] = "";
	size_t n = 0;

	for (unsigned i = 0; i < CG_COUNT; i++)
		if (controllers & 1u << i)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%c%s ", sign, lat_cg_names[i]);
	return n ? lat_cg_write(dir, "cgroup.subtree_control", text) : 0;
}

static int enable(int dir, unsigned controllers)
{
	return set_subtree(dir, controllers & ~listed(dir, "cgroup.subtree_control"), '+');
}

static int move_caller(int base)
{
	if (mkdirat(base, LAT_CG_CALLER, 0755) < 0 && errno != EEXIST)
		return -errno;
	return lat_cg_write(base, LAT_CG_CALLER "/cgroup.procs", "0");
}

void lat_cg_v2_move_back(struct lat_cg_dir *dir)
{
	dir->moved = false;
	/* Each of these fails while another run needs it so. */
	if (set_subtree(dir->base, listed(dir->base, "cgroup.subtree_control"), '-') < 0)
		return;
	if (lat_cg_write(dir->base, "cgroup.procs", "0") == 0)
		unlinkat(dir->base, LAT_CG_CALLER, AT_REMOVEDIR);
}

static const char *missing_name(unsigned bits)
{
	return lat_cg_names[__builtin_ctz(bits)];
}

int lat_cg_v2_enable(struct lat_cg_dir *dir, const struct lat_cg_tree *tree, const char *base, char say[LAT_CGROUP_SAY])
{
	static const char out[] = "run as root, or in a group of your own: systemd-run --user --scope -p Delegate=yes -- "
				  "lattice run ...";
	unsigned lacking = dir->controllers & ~listed(dir->base, "cgroup.controllers");
	int r;

	if (lacking)
		return lat_cg_say(say, -EOPNOTSUPP, "the %s controller is not given to this group (%s%s/cgroup.controllers); %s",
			missing_name(lacking), tree->root, base, out);
	r = enable(dir->base, dir->controllers);
	if (r == -EBUSY && strcmp(base, strcmp(tree->own, "/") == 0 ? "" : tree->own) == 0) {
		r = move_caller(dir->base);
		dir->moved = r == 0;
		if (r == 0)
			r = enable(dir->base, dir->controllers);
	}
	if (r == -EBUSY) {
		if (dir->moved)
			lat_cg_v2_move_back(dir);
		return lat_cg_say(say, r, "other processes are in the group %s%s (cgroup.procs), so it cannot give controllers to "
					  "groups below it; %s", tree->root, base, out);
	}
	if (r == 0)
		r = enable(dir->parent, dir->controllers);
	if (r < 0)
		return lat_cg_say(say, r, "%s%s/cgroup.subtree_control: %s; %s", tree->root, base, strerror(-r), out);
	return 0;
}

static int put(const struct lat_cg_dir *dir, const char *limit, const char *file, const char *text, char say[LAT_CGROUP_SAY])
{
	int r = lat_cg_write(dir->fd, file, text);

	return r < 0 ? lat_cg_say(say, r, "limit %s: writing %s to %s/%s: %s", limit, text, dir->path, file, strerror(-r)) : 0;
}

struct io { const struct lat_cg_dir *dir; const struct lat_cgroup_limits *limits; };

static int limit_disk(void *ctx, const char *disk)
{
	const struct io *io = ctx;
	char text[128];
	int n = snprintf(text, sizeof(text), "%s", disk);

	if (io->limits->io_read)
		n += snprintf(text + n, sizeof(text) - (size_t)n, " rbps=%" PRIu64, io->limits->io_read);
	if (io->limits->io_write)
		snprintf(text + n, sizeof(text) - (size_t)n, " wbps=%" PRIu64, io->limits->io_write);
	return lat_cg_write(io->dir->fd, "io.max", text);
}

static int limit_io(const struct lat_cg_dir *dir, const struct lat_cgroup_limits *l, char say[LAT_CGROUP_SAY])
{
	struct io io = { dir, l };
	char disk[16] = "";
	int r = lat_cg_each_disk(limit_disk, &io, disk);

	if (r == -ENODEV)
		return lat_cg_say(say, r, "limit io: this host has no disk that could be limited (/sys/block)");
	if (r < 0)
		return lat_cg_say(say, r, "limit io: disk %s in %s/io.max: %s", disk, dir->path, strerror(-r));
	return 0;
}

int lat_cg_v2_limit(const struct lat_cg_dir *dir, const struct lat_cgroup_limits *l, char say[LAT_CGROUP_SAY])
{
	const unsigned here = dir->controllers;
	char text[64];
	int r = 0;

	if (here & 1u << CG_MEMORY && l->memory) {
		snprintf(text, sizeof(text), "%" PRIu64, l->memory);
		r = put(dir, "memory", "memory.max", text, say);
	}
	if (r == 0 && here & 1u << CG_MEMORY && (l->swap || l->no_swap)) {
		snprintf(text, sizeof(text), "%" PRIu64, l->swap);
		r = put(dir, "swap", "memory.swap.max", l->swap == UINT64_MAX ? "max" : text, say);
	} else if (r == 0 && here & 1u << CG_MEMORY && l->memory) {
		lat_cg_write(dir->fd, "memory.swap.max", "0"); /* no such file: swap is not counted here */
	}
	if (r == 0 && here & 1u << CG_CPU) {
		snprintf(text, sizeof(text), "%" PRIu64 " %d", l->cpu * PERIOD_US / 1000, PERIOD_US);
		r = put(dir, "cpu", "cpu.max", text, say);
	}
	if (r == 0 && here & 1u << CG_PIDS) {
		snprintf(text, sizeof(text), "%" PRIu64, l->pids);
		r = put(dir, "pids", "pids.max", text, say);
	}
	return r == 0 && here & 1u << CG_IO ? limit_io(dir, l, say) : r;
}
