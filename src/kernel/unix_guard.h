/* Unix sockets of a cgroup (v2): its tasks connect(2) only to sockets that were made in it. A program on the group, which
 * lives as long as it. Pro; in community -LAT_EPRO. */
#ifndef LAT_KERNEL_UNIX_GUARD_H
#define LAT_KERNEL_UNIX_GUARD_H

#define LAT_UNIX_GUARD_SAY 512

/* group: its directory. 0; -EOPNOTSUPP: this kernel has no such hook (before Linux 6.0, or without BPF among its security
 * modules), or the caller may not use it (CAP_PERFMON); or negative errno. say: why. */
int lat_unix_guard(const char *group, char say[LAT_UNIX_GUARD_SAY]);

#endif
