/* Reading and writing the files of a group; the disks of the host. */
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int lat_cg_say(char say[LAT_CGROUP_SAY], int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(say, LAT_CGROUP_SAY, format, args);
	va_end(args);
	return error;
}

int lat_cg_write(int dir, const char *file, const char *text)
{
	int fd = openat(dir, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), r = 0;
	size_t size = strlen(text);

	if (fd < 0)
		return -errno;
	if (write(fd, text, size) != (ssize_t)size)
		r = errno ? -errno : -EIO;
	close(fd);
	return r;
}

ssize_t lat_cg_read(int dir, const char *file, char *buf, size_t size)
{
	int fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	size_t have = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buf + have, size - 1 - have)) > 0)
		have += (size_t)n;
	if (n < 0)
		n = -errno;
	close(fd);
	buf[have] = '\0';
	return n < 0 ? n : (ssize_t)have;
}

int lat_cg_number(int dir, const char *file, const char *key, uint64_t *out)
{
	char text[4096], *at = text, *end;
	ssize_t n = lat_cg_read(dir, file, text, sizeof(text));
	size_t size = key ? strlen(key) : 0;
	unsigned long long value;

	if (n < 0)
		return (int)n;
	while (key && (strncmp(at, key, size) != 0 || at[size] != ' ')) {
		at = strchr(at, '\n');
		if (!at)
			return -ENOENT;
		at++;
	}
	at += key ? size + 1 : 0;
	if (strncmp(at, "max", 3) == 0) {
		*out = UINT64_MAX;
		return 0;
	}
	value = strtoull(at, &end, 10);
	if (end == at)
		return -EBADMSG;
	*out = value;
	return 0;
}

int lat_cg_each_disk(int (*write)(void *ctx, const char *disk), void *ctx, char failed[16])
{
	DIR *blocks = opendir("/sys/block");
	struct dirent *e;
	int r = blocks ? -ENODEV : -errno, one;

	while (blocks && (e = readdir(blocks)) != NULL) {
		char path[NAME_MAX + 8], disk[16];
		uint64_t sectors;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/size", e->d_name);
		if (lat_cg_number(dirfd(blocks), path, NULL, &sectors) < 0 || sectors == 0)
			continue;
		snprintf(path, sizeof(path), "%s/dev", e->d_name);
		if (lat_cg_read(dirfd(blocks), path, disk, sizeof(disk)) <= 0)
			continue;
		disk[strcspn(disk, "\n")] = '\0';
		one = write(ctx, disk);
		if (one == -ENODEV) /* it went away */
			continue;
		if (one < 0) {
			memcpy(failed, disk, 16);
			closedir(blocks);
			return one;
		}
		r = 0;
	}
	if (blocks)
		closedir(blocks);
	return r;
}
