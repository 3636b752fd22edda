/* The bpffs for pins, there for longer than we live.
 *
 * Who runs in a mount namespace of its own (`ip netns exec` makes one, and hides /sys) would mount a bpffs that ends with it,
 * and enforcement with it. So where the directory is on no bpffs, it is looked for and mounted in the mount namespace of the
 * eldest ancestor (pid 1, if it may be looked at), by a child that keeps CAP_SYS_ADMIN for that and for the unmounting, when we
 * have given it up long ago. The child ends with us, and then what is mounted stays. */
#ifndef LAT_KERNEL_BPFFS_H
#define LAT_KERNEL_BPFFS_H
#include <stdbool.h>
#include <stddef.h>

struct lat_bpffs;

/* Is the path on a bpffs? */
bool lat_bpffs_at(const char *path);
/* Unmounts the bpffs that one of us mounted at the path, in our own mount namespace, if nothing is pinned in it. */
void lat_bpffs_drop(const char *path);

/* Nothing is mounted yet. path: absolute, below 200 bytes. Before capabilities are given up. 0 or negative errno. */
int lat_bpffs_open(const char *path, struct lat_bpffs **out);
/* Makes the directory and mounts where needed; *use (valid until close) is how this process gets at it. 0 or negative
 * errno. May be called again. */
int lat_bpffs_prepare(struct lat_bpffs *fs, const char **use);
/* The same, but makes and mounts nothing: -ENOENT where there is no such directory on a bpffs. */
int lat_bpffs_find(struct lat_bpffs *fs, const char **use);
/* Does it end with our mount namespace? (The outer one was out of reach.) */
bool lat_bpffs_is_private(const struct lat_bpffs *fs);
/* remove: what one of us made goes, if nothing is in it: the directory, the mount. NULL is fine. */
void lat_bpffs_close(struct lat_bpffs *fs, bool remove);

#endif
