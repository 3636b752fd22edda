/* The directory of one device below the pins: made, locked, filled, removed. Only names that we know are touched. */
#include "kernel/pro/tc_parts.h"
#include "base/mem.h"
#include "kernel/bpffs.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOUNT_NAME "lattice"

const char *const lat_tc_link_names[TC_DIRS] = { [TC_OUT] = "link_out", [TC_IN] = "link_in" };

int lat_tc_netns(uint64_t *inode)
{
	struct stat st;

	if (stat("/proc/thread-self/ns/net", &st) < 0)
		return -errno;
	*inode = st.st_ino;
	return 0;
}

/* ---- the bpffs ---- */

/* mkdir -p; the last one private. */
static int make_dirs(const char *path)
{
	char part[256];

	if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part))
		return -ENAMETOOLONG;
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(part, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static const char usual[] = "/sys/fs/bpf";

/* The usual place, which the kernel made for a bpffs, wants one before anything can be made below it. */
static int mount_usual(const char *pins)
{
	if (strncmp(pins, usual, sizeof(usual) - 1) != 0 || lat_bpffs_at(usual))
		return 0;
	return mount(MOUNT_NAME, usual, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0 ? -errno : 0;
}

/* Whoever else may write in a directory of pins could take ours away, or put his own in their place. */
static int check_ours(struct lat_tc *tc, const char *path, const struct stat *st)
{
	if ((st->st_uid == geteuid() || st->st_uid == 0) && !(st->st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	lat_tc_say(tc, "others may write in %s (uid %u, mode %o): remove it, or name another place with pins", path,
		st->st_uid, st->st_mode & 07777);
	return -EPERM;
}

static int make_pins(struct lat_tc *tc, const char *pins)
{
	struct stat st;
	int r = mount_usual(pins);

	if (r == 0)
		r = make_dirs(pins);
	if (r < 0) {
		lat_tc_say(tc, "cannot make %s: %s", pins, strerror(-r));
		return r;
	}
	if (stat(pins, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX)) /* as /sys/fs/bpf may be: what is below is checked */
		st.st_mode &= ~(mode_t)(S_IWGRP | S_IWOTH);
	r = check_ours(tc, pins, &st);
	if (r < 0 || lat_bpffs_at(pins))
		return r;
	if (mount(MOUNT_NAME, pins, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0) {
		r = -errno;
		lat_tc_say(tc, "%s is not on a bpffs, and mounting one there failed: %s", pins, strerror(-r));
		return r;
	}
	tc->mounted = true;
	return 0;
}

/* ---- the directory ---- */

/* Locks the directory that is there under the name now; another's close may take it away meanwhile. */
static int lock_dir(struct lat_tc *tc)
{
	for (int try = 0; try < 10; try++) {
		lat_autoclose int fd = -1;
		struct stat held, there;
		int r;

		tc->made_dir = mkdir(tc->path, 0700) == 0;
		if (!tc->made_dir && errno != EEXIST)
			return -errno;
		fd = open(tc->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (fstat(fd, &held) < 0)
			return -errno;
		r = check_ours(tc, tc->path, &held);
		if (r < 0)
			return r;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno != EWOULDBLOCK)
				return -errno;
			lat_tc_say(tc, "another agent guards %s (it holds %s)", tc->device, tc->path);
			return -EBUSY;
		}
		if (fstat(fd, &held) == 0 && stat(tc->path, &there) == 0 && held.st_ino == there.st_ino) {
			tc->lock = lat_take_fd(&fd);
			return 0;
		}
	}
	return -EAGAIN;
}

int lat_tc_dir_open(struct lat_tc *tc, const char *pins)
{
	uint64_t netns = 0;
	int r = lat_tc_netns(&netns);

	if (r < 0)
		return r;
	if (snprintf(tc->path, sizeof(tc->path), "%s/%llu-%s", pins, (unsigned long long)netns, tc->device) >=
		(int)sizeof(tc->path))
		return -ENAMETOOLONG;
	r = make_pins(tc, pins);
	if (r == 0)
		r = lock_dir(tc);
	return r;
}

void lat_tc_dir_remove(struct lat_tc *tc)
{
	char pins[sizeof(tc->path)], *slash;

	if (tc->lock < 0)
		return;
	rmdir(tc->path);
	lat_close(&tc->lock);
	strcpy(pins, tc->path);
	slash = strrchr(pins, '/');
	if (!slash)
		return;
	*slash = '\0';
	lat_bpffs_drop(pins);
	rmdir(pins); /* stays if another device is in it */
	lat_bpffs_drop(usual);
}

/* ---- pins ---- */

static int pin_path(struct lat_tc *tc, const char *name, char *path, size_t size)
{
	return snprintf(path, size, "%s/%s", tc->path, name) < (int)size ? 0 : -ENAMETOOLONG;
}

int lat_tc_pin_get(struct lat_tc *tc, const char *name)
{
	char path[300];
	int r = pin_path(tc, name, path, sizeof(path));

	if (r < 0)
		return r;
	r = bpf_obj_get(path);
	return r < 0 ? -errno : r;
}

int lat_tc_pin_put(struct lat_tc *tc, const char *name, int fd)
{
	char path[300];
	int r = pin_path(tc, name, path, sizeof(path));

	if (r == 0 && bpf_obj_pin(fd, path) < 0)
		r = -errno;
	return r;
}

void lat_tc_pin_drop(struct lat_tc *tc, const char *name)
{
	char path[300];

	if (pin_path(tc, name, path, sizeof(path)) == 0)
		unlink(path);
}

/* The config comes last: a directory without it is of one that did not get to its end. */
int lat_tc_pin_all(struct lat_tc *tc)
{
	int r = 0;

	tc->pinned = true;
	for (int i = 0; r == 0 && i < TC_MAPS; i++)
		r = lat_tc_pin_put(tc, lat_tc_map_names[i], tc->maps[i]);
	if (r < 0)
		lat_tc_say(tc, "cannot pin below %s: %s", tc->path, strerror(-r));
	return r;
}

void lat_tc_unpin_all(struct lat_tc *tc)
{
	for (int i = 0; i < TC_DIRS; i++)
		lat_tc_pin_drop(tc, lat_tc_link_names[i]);
	for (int i = 0; i < TC_MAPS; i++)
		lat_tc_pin_drop(tc, lat_tc_map_names[i]);
}

#define MOST_LEFT 64

int lat_tc_clear(const char *pins, const char *device, char say[LAT_TC_SAY])
{
	char names[MOST_LEFT][16], prefix[32];
	int r, count = 0, n = 0;
	struct dirent *entry;
	uint64_t netns = 0;
	DIR *d;

	if (say)
		say[0] = '\0';
	r = lat_tc_netns(&netns);
	if (r < 0)
		return r;
	d = opendir(pins);
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	snprintf(prefix, sizeof(prefix), "%llu-", (unsigned long long)netns);
	while (count < MOST_LEFT && (entry = readdir(d)) != NULL) {
		const char *name = entry->d_name + strlen(prefix);

		if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && (!device || strcmp(name, device) == 0) &&
			strlen(name) < sizeof(names[0]))
			strcpy(names[count++], name);
	}
	closedir(d); /* or the file system is busy when the last one goes */
	for (int i = 0; i < count; i++) {
		int e = lat_tc_forget(pins, names[i], say);

		if (e == 0)
			n++;
		else if (e != -EBUSY || r == 0) /* one that is alive keeps nobody from removing the others */
			r = e;
	}
	return r < 0 && (r != -EBUSY || n == 0) ? r : n;
}
