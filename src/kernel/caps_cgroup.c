/* Probes: limits of a group of processes, each met by a child that asks for more. See caps.h. */
#include "kernel/caps_impl.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/cgroup.h"
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PATIENCE_NS (2 * LAT_NS_PER_SEC)
#define SMALL (8u << 20)

static int take_memory(void)
{
	size_t size = 4 * (size_t)SMALL;
	volatile char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; p != MAP_FAILED && i < size; i += 4096)
		p[i] = 1;
	return 1; /* still here */
}

static int take_cpu(void)
{
	for (volatile uint64_t n = 0; n < UINT64_MAX; n++) {
	}
	return 1;
}

static int take_pids(void)
{
	for (int i = 0; i < 8; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 0;
		if (pid == 0) {
			poll(NULL, 0, -1);
			_exit(0);
		}
	}
	return 1;
}

/* A child that waits until it is in the group, then takes. */
static pid_t taker(struct lat_cgroup *group, int (*take)(void), int *error)
{
	char byte = 0;
	pid_t pid;
	int go[2];

	if (pipe(go) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		close(go[1]);
		_exit(read(go[0], &byte, 1) == 1 ? take() : 2);
	}
	close(go[0]);
	*error = pid < 0 ? -errno : lat_cgroup_join(group, pid);
	if (*error == 0 && write(go[1], &byte, 1) != 1)
		*error = -EIO;
	close(go[1]);
	return pid;
}

static bool was_met(const struct lat_cgroup *group)
{
	const struct lat_cgroup_limits *l = lat_cgroup_limits(group);
	struct lat_cgroup_usage u;
	uint64_t n;

	lat_cgroup_events(group, &u);
	n = l->memory ? u.oom_kills : l->cpu ? u.throttled : u.pids_refused;
	return n != UINT64_MAX && n > 0;
}

/* take NULL: it is enough that the kernel takes the limit. */
static int meet(const struct lat_cgroup_limits *limits, int (*take)(void), char *detail, size_t size)
{
	struct lat_cgroup_options o = { .name = "doctor", .unique = true, .limits = *limits };
	char say[LAT_CGROUP_SAY];
	struct lat_cgroup *group;
	uint64_t end;
	pid_t pid;
	int r = lat_cgroup_make(&o, &group, say);

	if (r < 0) {
		snprintf(detail, size, "%s", say);
		detail[strcspn(detail, ";")] = '\0'; /* the way out is doctor's to tell */
		return r;
	}
	if (!take) {
		lat_cgroup_close(group);
		return 0;
	}
	pid = taker(group, take, &r);
	end = lat_now_ns() + PATIENCE_NS;
	while (r == 0 && !was_met(group)) {
		if (lat_now_ns() > end)
			r = -ETIMEDOUT;
		poll(NULL, 0, 5);
	}
	lat_cgroup_close(group); /* ends the child */
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return r;
}

int lat_cap_limit_memory(char *detail, size_t size)
{
	return meet(&(struct lat_cgroup_limits){ .memory = SMALL }, take_memory, detail, size);
}

int lat_cap_limit_swap(char *detail, size_t size)
{
	return meet(&(struct lat_cgroup_limits){ .memory = SMALL, .no_swap = true }, take_memory, detail, size);
}

int lat_cap_limit_cpu(char *detail, size_t size)
{
	return meet(&(struct lat_cgroup_limits){ .cpu = 100 }, take_cpu, detail, size);
}

int lat_cap_limit_pids(char *detail, size_t size)
{
	return meet(&(struct lat_cgroup_limits){ .pids = 4 }, take_pids, detail, size);
}

int lat_cap_limit_io(char *detail, size_t size)
{
	return meet(&(struct lat_cgroup_limits){ .io_read = 1u << 30, .io_write = 1u << 30 }, NULL, detail, size);
}
