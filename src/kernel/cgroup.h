/* One group of processes with its limits: a leaf below one parent, in the v2 tree, in the v1 hierarchies, or in both (limits
 * where the controllers are, eBPF programs always on v2; cgroups(7), Documentation/admin-guide/cgroup-v{1,2}).
 *
 * PARENT/NAME, PARENT being "lattice" below the root for who may make it there, else below the caller's own (delegated)
 * group. A group that is in use is locked (flock(2) on its directory); one that is not locked was left by a dead supervisor,
 * and whoever makes the next group removes it. A keeper, a process outside the group, does it at once when the maker dies. */
#ifndef LAT_KERNEL_CGROUP_H
#define LAT_KERNEL_CGROUP_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define LAT_CGROUP_SAY 512

/* 0: no limit. */
struct lat_cgroup_limits {
	uint64_t memory;   /* bytes */
	uint64_t swap;     /* bytes beside memory; memory without a word of swap: none, where that can be said */
	bool no_swap;      /* swap = 0 was asked for */
	uint64_t cpu;      /* thousandths of one CPU */
	uint64_t io_read, io_write; /* bytes a second, each disk */
	uint64_t pids;     /* tasks */
};

struct lat_cgroup_options {
	const char *name;  /* of the leaf; no slash */
	bool unique;       /* NAME is in use: NAME-2, NAME-3 ... instead of -EEXIST */
	struct lat_cgroup_limits limits;
	bool programs;     /* a v2 group is needed, whatever the limits say */
};

struct lat_cgroup;

/* What cannot be limited here is an error that names the limit, the file and the way out (say), and nothing is left of the
 * group. */
int lat_cgroup_make(const struct lat_cgroup_options *options, struct lat_cgroup **out, char say[LAT_CGROUP_SAY]);
/* Moves the process (all its threads) into the group. */
int lat_cgroup_join(struct lat_cgroup *group, pid_t pid);
/* Path of the v2 directory, NULL: none was needed. */
const char *lat_cgroup_path(const struct lat_cgroup *group);
/* Paths of all its directories, by index; NULL: no more. */
const char *lat_cgroup_path_at(const struct lat_cgroup *group, unsigned index);
/* The id that bpf_get_current_cgroup_id tells (inode of the v2 directory), 0: none. */
uint64_t lat_cgroup_id(const struct lat_cgroup *group);
const struct lat_cgroup_limits *lat_cgroup_limits(const struct lat_cgroup *group);
/* UINT64_MAX: not counted here (no controller, or the kernel has no such counter). */
struct lat_cgroup_usage {
	uint64_t cpu_ns, memory, memory_peak, pids;
	uint64_t io_read, io_write;       /* bytes, all disks */
	uint64_t oom_kills;               /* processes that the memory limit killed */
	uint64_t pids_refused;            /* forks that the limit of pids refused */
	uint64_t throttled, throttled_ns; /* periods of 0.1 s that the cpu limit cut off, and for how long in all */
};
void lat_cgroup_usage(const struct lat_cgroup *group, struct lat_cgroup_usage *out);
/* Only how often limits were met: cheap enough for every tick. */
void lat_cgroup_events(const struct lat_cgroup *group, struct lat_cgroup_usage *out);
/* SIGKILL for every process of the group and of those below it, until there is none, at most timeout_ms. 0, -ETIMEDOUT. */
int lat_cgroup_kill(struct lat_cgroup *group, int timeout_ms);
/* Kills, removes and frees; NULL is fine. */
void lat_cgroup_close(struct lat_cgroup *group);

#endif
