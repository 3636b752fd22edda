/* See group_sockets.h: cgroup.procs and the descriptors in /proc. */
#include "kernel/group_sockets.h"
#include "base/mem.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define MOST_LINKS 65536 /* descriptors that are looked at in all */

/* 1, 0; a process that is gone meanwhile holds nothing. */
static int process_holds(long pid, const char *wanted, size_t len, unsigned *links)
{
	char path[40], target[64];
	struct dirent *entry;
	int found = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	while (!found && (entry = readdir(dir)) != NULL) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target));

		found = n == (ssize_t)len && memcmp(target, wanted, len) == 0;
		if (++*links > MOST_LINKS)
			break;
	}
	closedir(dir);
	return found ? 1 : *links > MOST_LINKS ? -E2BIG : 0;
}

int lat_group_holds_socket(const char *path, uint32_t inode)
{
	char procs[4096], wanted[32];
	size_t len = (size_t)snprintf(wanted, sizeof(wanted), "socket:[%u]", inode);
	unsigned links = 0;
	FILE *file;
	long pid;
	int r = 0;

	if (snprintf(procs, sizeof(procs), "%s/cgroup.procs", path) >= (int)sizeof(procs))
		return -ENAMETOOLONG;
	file = fopen(procs, "re");
	if (!file)
		return -errno;
	while (r == 0 && fscanf(file, "%ld", &pid) == 1)
		r = process_holds(pid, wanted, len, &links);
	fclose(file);
	return r;
}
