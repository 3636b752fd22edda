/* The file behind a unix socket address, as the caller of connect(2) would find it: held by an O_PATH descriptor, so that
 * what is judged is what is connected, whatever the path names a moment later. */
#ifndef LAT_CORE_UNIXPATH_H
#define LAT_CORE_UNIXPATH_H
#include "kernel/proc.h"
#include <sys/socket.h>
#include <sys/stat.h>

#define LAT_UNIX_PATH_MAX 109 /* sun_path may fill its 108 bytes without a NUL */

enum lat_unix_kind {
	LAT_UNIX_ODD,      /* not AF_UNIX, too short, too long or without a name: the kernel has an error for it */
	LAT_UNIX_ABSTRACT, /* of the network namespace: cannot lead out */
	LAT_UNIX_PATH
};

/* What the address is; for LAT_UNIX_PATH the path (up to the first NUL, as the kernel reads it) is in `path`. */
enum lat_unix_kind lat_unix_parse(const void *address, size_t len, char path[LAT_UNIX_PATH_MAX]);

struct lat_unix_file {
	int fd;             /* O_PATH */
	struct stat st;
	dev_t dev;          /* device and inode number as unix_diag tells them; on an overlay of several file systems */
	ino_t ino;          /* stat() has others */
	uint64_t born_ms;   /* wall clock; 0: the file system does not tell */
	char real[1024];    /* path without links; cut if longer */
};

/* Opens `path` below `root` (relative: from the task's working directory). 0, or the negative errno that connect(2) gives:
 * -ENOENT, -ENOTDIR, -ELOOP, -EACCES ..., -ECONNREFUSED when it is no socket. *out untouched on failure. */
int lat_unix_open(int root, const struct lat_proc *task, const char *path, struct lat_unix_file *out);
/* Connects fd to the file, as connect(2). 0 or negative errno. */
int lat_unix_connect(int fd, int file);

#endif
