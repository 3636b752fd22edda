/* See place.h. */
#include "base/place.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* May we take `entry` out of the folder, or put another one in its place? */
static bool replaceable(const char *folder, const struct stat *in, const struct stat *entry)
{
	if (in->st_uid == geteuid())
		return true;
	if (euidaccess(folder, W_OK) < 0)
		return false;
	return !(in->st_mode & S_ISVTX) || entry->st_uid == geteuid();
}

bool lat_place_is_fixed(const char *path)
{
	char so_far[PATH_MAX] = "/";
	struct stat in, entry;
	size_t used = 0;

	if (path[0] != '/' || strlen(path) >= sizeof(so_far) || geteuid() == 0 || lstat("/", &in) < 0)
		return false;
	while (*(path += strspn(path, "/"))) {
		char folder[PATH_MAX];
		size_t len = strcspn(path, "/");

		if (strncmp(path, "..", len) == 0) /* also "." */
			return false;
		memcpy(folder, so_far, used + 2);
		folder[used ? used : 1] = '\0';
		so_far[used++] = '/';
		memcpy(so_far + used, path, len);
		used += len;
		so_far[used] = '\0';
		if (!S_ISDIR(in.st_mode) || lstat(so_far, &entry) < 0 || S_ISLNK(entry.st_mode) ||
		    replaceable(folder, &in, &entry))
			return false;
		in = entry;
		path += len;
	}
	return true;
}

bool lat_place_is_ours(int fd)
{
	char link[32];
	struct stat st;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return fstat(fd, &st) < 0 || st.st_uid == geteuid() || euidaccess(link, W_OK) == 0;
}
