/* Which hierarchies there are, with which controllers, and where the caller's own group is in them. One that is mounted nowhere
 * in sight (ip netns exec takes the mounts below /sys away) is mounted for us alone, by a descriptor, where we may. */
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/vfs.h>

const char *const lat_cg_names[CG_COUNT] = { "memory", "cpu", "io", "pids", "cpuacct", "freezer" };

unsigned lat_cg_wanted(const struct lat_cgroup_limits *l)
{
	return (l->memory || l->swap || l->no_swap ? 1u << CG_MEMORY : 0) | (l->cpu ? 1u << CG_CPU : 0) |
		(l->io_read || l->io_write ? 1u << CG_IO : 0) | (l->pids ? 1u << CG_PIDS : 0);
}

/* Bits of the controllers in a list that is separated by any of " ,\n". */
static unsigned controllers_in(const char *list)
{
	unsigned bits = 0;
	size_t n;

	for (; *list; list += n + (list[n] != '\0')) {
		n = strcspn(list, " ,\n");
		if (n == 5 && strncmp(list, "blkio", 5) == 0)
			bits |= 1u << CG_IO;
		for (unsigned i = 0; i < CG_COUNT; i++)
			if (n == strlen(lat_cg_names[i]) && strncmp(list, lat_cg_names[i], n) == 0)
				bits |= 1u << i;
	}
	return bits;
}

/* \ooo of mountinfo. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; to++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*to = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to = *s++;
		}
	}
	*to = '\0';
}

/* The caller's group below what is mounted (`root` of the hierarchy): "" if it is not in sight there. */
static void find_own(struct lat_cg_tree *tree, const char *root)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	lat_autofree char *line = NULL;
	size_t size = 0, n = strcmp(root, "/") == 0 ? 0 : strlen(root);

	while (f && getline(&line, &size, f) > 0) {
		char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (tree->v2 ? list[1] != '\0' : !(controllers_in(list + 1) & tree->controllers))
			continue;
		if (strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0') && strncmp(path, "/..", 3) != 0)
			snprintf(tree->own, sizeof(tree->own), "%s", path[n] ? path + n : "/");
		break;
	}
	if (f)
		fclose(f);
}

static bool is_mounted(const struct lat_cg_tree *tree)
{
	struct statfs fs;

	return statfs(tree->root, &fs) == 0 &&
		(uint32_t)fs.f_type == (uint32_t)(tree->v2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC);
}

static bool is_known(const struct lat_cg_trees *trees, const struct lat_cg_tree *tree)
{
	for (unsigned i = 0; i < trees->count; i++)
		if (trees->tree[i].v2 == tree->v2 && (tree->v2 || (trees->tree[i].controllers & tree->controllers)))
			return true;
	return false;
}

static void read_line(struct lat_cg_trees *trees, char *line)
{
	char *tail = strstr(line, " - "), root[PATH_MAX], type[32], super[512];
	struct lat_cg_tree *tree = &trees->tree[trees->count];

	memset(tree, 0, sizeof(*tree));
	if (!tail || sscanf(tail, " - %31s %*s %511s", type, super) != 2 ||
		sscanf(line, "%*s %*s %*s %4095s %255s", root, tree->root) != 2)
		return;
	tree->v2 = strcmp(type, "cgroup2") == 0;
	if (!tree->v2 && strcmp(type, "cgroup") != 0)
		return;
	unescape(root);
	unescape(tree->root);
	if (tree->v2) {
		char list[512], path[300];

		snprintf(path, sizeof(path), "%s/cgroup.controllers", tree->root);
		if (lat_cg_read(AT_FDCWD, path, list, sizeof(list)) < 0)
			return;
		tree->controllers = controllers_in(list);
	} else {
		tree->controllers = controllers_in(super);
	}
	if ((!tree->v2 && !tree->controllers) || !is_mounted(tree) || is_known(trees, tree))
		return;
	find_own(tree, root);
	trees->count++;
}

/* A mount that no path leads to but that of its descriptor. `options`: of v1, "cpu,cpuacct". */
static int mount_hidden(bool v2, const char *options)
{
	int fs = fsopen(v2 ? "cgroup2" : "cgroup", FSOPEN_CLOEXEC), fd = -1;
	lat_autofree char *list = strdup(options);
	char *word, *rest = list;
	bool good = fs >= 0 && list;

	while (good && (word = strtok_r(rest, ",", &rest)) != NULL)
		good = fsconfig(fs, FSCONFIG_SET_FLAG, word, NULL, 0) == 0;
	if (good && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	lat_close(&fs);
	return fd;
}

/* "4:memory:/own/group", "0::/own/group" */
static void read_own(struct lat_cg_trees *trees, char *line)
{
	struct lat_cg_tree *tree = &trees->tree[trees->count];
	char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL, text[512];
	int fd;

	if (!path)
		return;
	*path = '\0';
	list++;
	memset(tree, 0, sizeof(*tree));
	tree->v2 = list[0] == '\0';
	tree->controllers = controllers_in(list);
	if ((!tree->v2 && !tree->controllers) || is_known(trees, tree) || (fd = mount_hidden(tree->v2, list)) < 0)
		return;
	snprintf(tree->root, sizeof(tree->root), "/proc/self/fd/%d", fd);
	if (tree->v2)
		tree->controllers = lat_cg_read(fd, "cgroup.controllers", text, sizeof(text)) > 0 ? controllers_in(text) : 0;
	find_own(tree, "/");
	trees->hidden[trees->count++] = fd;
}

int lat_cg_find(struct lat_cg_trees *out)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	lat_autofree char *line = NULL;
	size_t size = 0;

	if (!f)
		return -errno;
	out->count = 0;
	memset(out->hidden, 0xff, sizeof(out->hidden));
	while (out->count < LAT_CG_DIRS && getline(&line, &size, f) > 0)
		read_line(out, line);
	fclose(f);
	f = fopen("/proc/self/cgroup", "re");
	while (f && out->count < LAT_CG_DIRS && getline(&line, &size, f) > 0)
		read_own(out, line);
	if (f)
		fclose(f);
	return 0;
}
