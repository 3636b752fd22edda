/* See unixpath.h. */
#include "core/unixpath.h"
#include "base/mem.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

enum lat_unix_kind lat_unix_parse(const void *address, size_t len, char path[LAT_UNIX_PATH_MAX])
{
	const size_t head = offsetof(struct sockaddr_un, sun_path);
	const char *name = (const char *)address + head;
	sa_family_t family;
	size_t n;

	if (len <= head || len > sizeof(struct sockaddr_un))
		return LAT_UNIX_ODD;
	memcpy(&family, address, sizeof(family));
	if (family != AF_UNIX)
		return LAT_UNIX_ODD;
	if (name[0] == '\0')
		return LAT_UNIX_ABSTRACT;
	n = strnlen(name, len - head);
	memcpy(path, name, n);
	path[n] = '\0';
	return LAT_UNIX_PATH;
}

static int open_below(int root, const char *path)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

	/* EAGAIN: something on the way was renamed while it looked. */
	for (int tries = 0; tries < 8; tries++) {
		int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));

		if (fd >= 0)
			return fd;
		if (errno != EAGAIN && errno != EINTR)
			return errno == EXDEV || errno == ENOSYS || errno == EPERM ? -EACCES : -errno;
	}
	return -EACCES;
}

/* On an overlay, sets dev and ino to those of its superblock, found by the mount that the descriptor holds: its number is no
 * other mount's as long as it is held, so a mount namespace of the task's own can only hide it. Then, and on any failure,
 * what stat() says stays. All sockets that are bound on an overlay lie in its one upper layer, so the numbers are unique;
 * between the subvolumes of btrfs they would not be. */
static void overlay_identity(const struct lat_proc *task, int fd, struct lat_unix_file *f)
{
	unsigned long long mount = 0, ino = 0, n;
	unsigned maj, min;
	char path[40], *line = NULL;
	struct statfs fs;
	size_t size = 0;
	FILE *file;

	if (fstatfs(fd, &fs) < 0 || fs.f_type != OVERLAYFS_SUPER_MAGIC)
		return;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	while (file && getline(&line, &size, file) > 0) {
		if (sscanf(line, "mnt_id: %llu", &n) == 1)
			mount = n;
		else if (sscanf(line, "ino: %llu", &n) == 1) /* since 5.14 */
			ino = n;
	}
	if (file)
		fclose(file);
	fd = mount && ino ? openat(task->dir, "mountinfo", O_RDONLY | O_CLOEXEC) : -1;
	file = fd >= 0 ? fdopen(fd, "r") : NULL;
	if (fd >= 0 && !file)
		close(fd);
	while (file && getline(&line, &size, file) > 0) {
		if (sscanf(line, "%llu %*u %u:%u", &n, &maj, &min) != 3 || n != mount)
			continue;
		f->dev = makedev(maj, min);
		f->ino = ino;
		break;
	}
	if (file)
		fclose(file);
	free(line);
}

int lat_unix_open(int root, const struct lat_proc *task, const char *path, struct lat_unix_file *out)
{
	char whole[PATH_MAX + LAT_UNIX_PATH_MAX + 1], link[32];
	struct lat_unix_file f = { .fd = -1 };
	lat_autoclose int fd = -1;
	struct statx x;
	ssize_t n;

	if (path[0] != '/') {
		int len = lat_proc_cwd(task, whole, PATH_MAX);

		if (len < 0)
			return -EACCES;
		snprintf(whole + len, sizeof(whole) - (size_t)len, "/%s", path);
		path = whole;
	}
	fd = open_below(root, path);
	if (fd < 0)
		return fd;
	if (fstat(fd, &f.st) < 0)
		return -EACCES;
	if (!S_ISSOCK(f.st.st_mode))
		return -ECONNREFUSED;
	f.dev = f.st.st_dev;
	f.ino = f.st.st_ino;
	overlay_identity(task, fd, &f);
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &x) == 0 && x.stx_mask & STATX_BTIME)
		f.born_ms = (uint64_t)x.stx_btime.tv_sec * 1000 + x.stx_btime.tv_nsec / 1000000;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, f.real, sizeof(f.real) - 1);
	if (n < 0)
		return -EACCES;
	f.real[n] = '\0';
	f.fd = lat_take_fd(&fd);
	*out = f;
	return 0;
}

int lat_unix_connect(int fd, int file)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int n = snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d", file);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);

	return connect(fd, (struct sockaddr *)&a, len) < 0 ? -errno : 0;
}
