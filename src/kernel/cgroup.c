/* Making a group: which hierarchies it needs, a locked directory in each, its limits, its keeper. See cgroup.h. */
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define LOCK_MS 10000
#define CLOSE_MS 10000
#define MOST_NAMES 1000

static const char way_out[] =
	"run as root, or in a group of your own: systemd-run --user --scope -p Delegate=yes -- lattice run ...";

/* Whoever holds the parent's lock makes or sweeps: soon done. */
static int lock_parent(int parent)
{
	const struct timespec pause = { 0, 2 * LAT_NS_PER_MS };
	uint64_t end = lat_now_ns() + LOCK_MS * LAT_NS_PER_MS;

	while (flock(parent, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (lat_now_ns() > end)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Under the parent's lock. The leaf is closed to others until it is locked: nobody else may take that lock. */
static int make_leaf(struct lat_cg_dir *dir)
{
	if (mkdirat(dir->parent, dir->name, 0700) < 0)
		return -errno;
	dir->fd = openat(dir->parent, dir->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->fd < 0 || flock(dir->fd, LOCK_EX | LOCK_NB) < 0 || fchmod(dir->fd, 0755) < 0) {
		int r = -errno;

		lat_close(&dir->fd);
		unlinkat(dir->parent, dir->name, AT_REMOVEDIR);
		return r;
	}
	return 0;
}

static void forget(struct lat_cg_dir *dir)
{
	lat_cg_remove_all(dir, 1);
	lat_close(&dir->parent);
	if (dir->moved)
		lat_cg_v2_move_back(dir);
	lat_close(&dir->base);
}

/* The last run that ended takes the parent along: -ENOENT and -ENODEV say that it just did. */
static int make_once(struct lat_cg_dir *dir, const struct lat_cg_tree *tree, const char *base, char say[LAT_CGROUP_SAY])
{
	int r;

	if (mkdirat(dir->base, LAT_CG_PARENT, 0711) < 0 && errno != EEXIST)
		return lat_cg_say(say, -errno, "making %s%s/" LAT_CG_PARENT ": %s; %s", tree->root, base, strerror(errno), way_out);
	dir->parent = openat(dir->base, LAT_CG_PARENT, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = dir->parent < 0 ? -errno : lock_parent(dir->parent);
	if (r == 0) {
		lat_cg_sweep(dir->parent, dir->v2);
		r = dir->v2 && dir->controllers ? lat_cg_v2_enable(dir, tree, base, say) : 0;
		if (r < 0)
			return r;
		r = make_leaf(dir);
	}
	if (r < 0)
		lat_cg_say(say, r, "making %s: %s; %s", dir->path, r == -EEXIST ? "the name is in use" : strerror(-r), way_out);
	return r;
}

static int make_at(struct lat_cg_dir *dir, const struct lat_cg_tree *tree, const char *base, char say[LAT_CGROUP_SAY])
{
	char path[PATH_MAX];
	int r = 0;

	if ((size_t)snprintf(path, sizeof(path), "%s%s", tree->root, base) >= sizeof(path) ||
		(size_t)snprintf(dir->path, sizeof(dir->path), "%s%s/" LAT_CG_PARENT "/%s", tree->root, base, dir->name) >=
			sizeof(dir->path))
		return lat_cg_say(say, -ENAMETOOLONG, "the path of the group below %s is too long", tree->root);
	dir->base = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->base < 0)
		return lat_cg_say(say, -errno, "opening %s: %s", path, strerror(errno));
	for (int tries = 0; tries < 100; tries++) {
		r = make_once(dir, tree, base, say);
		if (r == 0) {
			flock(dir->parent, LOCK_UN);
			return 0;
		}
		lat_close(&dir->parent);
		if (r != -ENOENT && r != -ENODEV)
			break;
	}
	if (r != -EEXIST)
		unlinkat(dir->base, LAT_CG_PARENT, AT_REMOVEDIR);
	forget(dir);
	return r;
}

/* In one hierarchy: below its root, else below the caller's own group. */
static int make_dir(struct lat_cg_dir *dir, const struct lat_cg_tree *tree, char say[LAT_CGROUP_SAY])
{
	char own[PATH_MAX];
	char *last;
	int r = make_at(dir, tree, "", say);

	if (r != -EACCES && r != -EPERM && r != -EROFS)
		return r;
	snprintf(own, sizeof(own), "%s", tree->own);
	last = strrchr(own, '/');
	if (last && strcmp(last, "/" LAT_CG_CALLER) == 0)
		*last = '\0';
	if (own[0] == '\0' || strcmp(own, "/") == 0)
		return r;
	return make_at(dir, tree, own, say);
}

static int add(struct lat_cgroup *g, const struct lat_cg_tree *tree, unsigned controllers, bool needed, const char *name,
	char say[LAT_CGROUP_SAY])
{
	struct lat_cg_dir *dir = &g->dir[g->count];
	int r;

	memset(dir, 0, sizeof(*dir));
	dir->base = dir->parent = dir->fd = -1;
	dir->v2 = tree->v2;
	dir->controllers = controllers;
	dir->needed = needed;
	snprintf(dir->name, sizeof(dir->name), "%s", name);
	r = make_dir(dir, tree, say);
	if (r == 0)
		g->count++;
	return r;
}

static void close_all(int fds[LAT_CG_DIRS])
{
	for (unsigned i = 0; i < LAT_CG_DIRS; i++)
		lat_close(&fds[i]);
}

static bool can_kill(const struct lat_cgroup *g)
{
	return g->count > 0 && g->dir[0].v2 && faccessat(g->dir[0].fd, "cgroup.kill", F_OK, 0) == 0;
}

/* v2 first: with cgroup.kill no freezer is needed. */
static int add_all(struct lat_cgroup *g, const struct lat_cg_trees *trees, const struct lat_cgroup_options *o,
	const char *name, char say[LAT_CGROUP_SAY])
{
	unsigned left = lat_cg_wanted(&o->limits), here;
	int r = 0;

	for (unsigned i = 0; i < trees->count && r == 0; i++) {
		if (!trees->tree[i].v2)
			continue;
		here = left & trees->tree[i].controllers;
		r = add(g, &trees->tree[i], here, here || o->programs, name, say);
		left &= ~here;
		if (r < 0 && r != -EEXIST && !here && !o->programs)
			r = 0;
	}
	if (r == 0 && o->programs && (g->count == 0 || !g->dir[0].v2))
		r = lat_cg_say(say, -EOPNOTSUPP, "no cgroup v2 is mounted, and programs hang on nothing else; "
						 "mount -t cgroup2 none /sys/fs/cgroup/unified");
	for (unsigned i = 0; i < trees->count && r == 0; i++) {
		const struct lat_cg_tree *tree = &trees->tree[i];
		unsigned more = (o->limits.cpu ? 1u << CG_CPUACCT : 0) | (can_kill(g) ? 0 : 1u << CG_FREEZER);

		here = left & tree->controllers;
		if (tree->v2 || (!here && !(more & tree->controllers)))
			continue;
		r = add(g, tree, here, here, name, say);
		left &= ~here;
		if (r < 0 && r != -EEXIST && !here) /* of use, but no limit hangs on it */
			r = 0;
	}
	if (r == 0 && left)
		r = lat_cg_say(say, -EOPNOTSUPP, "limit %s: no mounted cgroup hierarchy has the controller \"%s\" (/proc/cgroups, "
						 "/proc/self/mountinfo)", lat_cg_names[__builtin_ctz(left)],
			lat_cg_names[__builtin_ctz(left)]);
	if (r == 0 && g->count == 0)
		r = say[0] ? -EOPNOTSUPP : lat_cg_say(say, -EOPNOTSUPP, "no cgroup hierarchy is mounted here");
	return r;
}

static int set_limits(struct lat_cgroup *g, char say[LAT_CGROUP_SAY])
{
	int r = 0;

	for (unsigned i = 0; i < g->count && r == 0; i++)
		r = g->dir[i].v2 ? lat_cg_v2_limit(&g->dir[i], &g->limits, say) : lat_cg_v1_limit(&g->dir[i], &g->limits, say);
	return r;
}

static void drop(struct lat_cgroup *g)
{
	while (g->count > 0)
		forget(&g->dir[--g->count]);
}

static int check_name(const char *name, char say[LAT_CGROUP_SAY])
{
	size_t n = name ? strlen(name) : 0;

	if (n == 0 || n > NAME_MAX - 8 || name[0] == '.' || strpbrk(name, "/\n"))
		return lat_cg_say(say, -EINVAL, "a group's name has 1 to %d bytes, no slash, and no dot in front", NAME_MAX - 8);
	return 0;
}

int lat_cgroup_make(const struct lat_cgroup_options *options, struct lat_cgroup **out, char say[LAT_CGROUP_SAY])
{
	struct lat_cg_trees *trees = NULL;
	struct lat_cgroup *g;
	struct stat st;
	int r;

	say[0] = '\0';
	r = check_name(options->name, say);
	if (r < 0)
		return r;
	g = calloc(1, sizeof(*g));
	trees = calloc(1, sizeof(*trees));
	if (g)
		memset(g->hidden, 0xff, sizeof(g->hidden));
	r = g && trees ? lat_cg_find(trees) : -ENOMEM;
	if (r == 0) {
		g->limits = options->limits;
		g->keeper_word = -1;
		g->maker = getpid();
		memcpy(g->hidden, trees->hidden, sizeof(g->hidden));
		r = -EEXIST;
	}
	for (int n = 1; r == -EEXIST && n <= (options->unique ? MOST_NAMES : 1); n++) {
		char name[NAME_MAX + 1];

		snprintf(name, sizeof(name), n == 1 ? "%s" : "%.240s-%d", options->name, n);
		r = add_all(g, trees, options, name, say);
		if (r < 0)
			drop(g);
	}
	free(trees);
	if (r == 0)
		r = set_limits(g, say);
	if (r == 0 && g->dir[0].v2)
		r = fstat(g->dir[0].fd, &st) < 0 ? -errno : 0;
	if (r == 0)
		g->id = g->dir[0].v2 ? st.st_ino : 0;
	if (r == 0)
		r = lat_cg_keeper_start(g);
	if (r < 0) {
		if (g) {
			drop(g);
			close_all(g->hidden);
		}
		free(g);
		return say[0] ? r : lat_cg_say(say, r, "%s", strerror(-r));
	}
	*out = g;
	return 0;
}

int lat_cgroup_join(struct lat_cgroup *group, pid_t pid)
{
	char text[16];
	int r = 0;

	snprintf(text, sizeof(text), "%d", (int)pid);
	for (unsigned i = 0; i < group->count && r == 0; i++) {
		r = lat_cg_write(group->dir[i].fd, "cgroup.procs", text);
		if (r < 0 && r != -ESRCH && !group->dir[i].needed)
			r = 0;
	}
	return r;
}

const char *lat_cgroup_path(const struct lat_cgroup *group)
{
	return group->dir[0].v2 ? group->dir[0].path : NULL;
}

const char *lat_cgroup_path_at(const struct lat_cgroup *group, unsigned index)
{
	return index < group->count ? group->dir[index].path : NULL;
}

uint64_t lat_cgroup_id(const struct lat_cgroup *group)
{
	return group->id;
}

const struct lat_cgroup_limits *lat_cgroup_limits(const struct lat_cgroup *group)
{
	return &group->limits;
}

int lat_cgroup_kill(struct lat_cgroup *group, int timeout_ms)
{
	return lat_cg_kill_all(group->dir, group->count, timeout_ms);
}

void lat_cgroup_close(struct lat_cgroup *group)
{
	bool ended;

	if (!group)
		return;
	if (group->maker == getpid()) {
		ended = lat_cgroup_kill(group, CLOSE_MS) == 0;
		lat_cg_keeper_stop(group, lat_cg_remove_all(group->dir, group->count), ended);
		drop(group);
	}
	for (unsigned i = 0; i < group->count; i++) { /* of a copy */
		lat_close(&group->dir[i].fd);
		lat_close(&group->dir[i].parent);
		lat_close(&group->dir[i].base);
	}
	lat_close(&group->keeper_word);
	close_all(group->hidden);
	free(group);
}
