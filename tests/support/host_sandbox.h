/* Sandboxes in the host's network, with a group that init is put into. "The host" is a network namespace
 * of the test's own; the group is one below the root of cgroup2, and there is none where root or cgroup2
 * is missing: then nothing is done with init. */
#ifndef TESTS_SUPPORT_HOST_SANDBOX_H
#define TESTS_SUPPORT_HOST_SANDBOX_H
#include "support/sandbox.h"
#include <sched.h>
#include <sys/mount.h>

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static char folder[] = "/tmp/lattice-test-XXXXXX";
static char group[256]; /* "": there is none (not root, no cgroup2) */

static void join_path(char *out, size_t size, const char *dir, const char *name)
{
	if ((size_t)snprintf(out, size, "%s/%s", dir, name) >= size)
		abort();
}

static inline int read_text(const char *path, char *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

	close(fd);
	out[n > 0 ? n : 0] = '\0';
	return n < 0 ? -1 : 0;
}

/* Inside: what is returned says which line found it wrong. */
#define WRONG (__LINE__ % 251 ?: 1)

struct placing {
	int error, calls;
	bool kill_it;
	int slow_ms;
	pid_t init;
	int cgroup_ns_before; /* init was still in the caller's cgroup namespace */
};

static int place(void *ctx, pid_t init, char say[256])
{
	struct placing *p = ctx;
	char path[300], own[64] = "", its[64] = "", pid[16];
	int fd;

	p->calls++;
	p->init = init;
	poll(NULL, 0, p->slow_ms); /* nothing is waited for: what init does meanwhile is tried */
	snprintf(path, sizeof(path), "/proc/%d/ns/cgroup", init);
	if (readlink("/proc/self/ns/cgroup", own, sizeof(own) - 1) > 0 &&
		readlink(path, its, sizeof(its) - 1) > 0)
		p->cgroup_ns_before = !strcmp(own, its);
	if (p->kill_it)
		kill(init, SIGKILL);
	if (p->error)
		snprintf(say, 256, "the group is full");
	if (p->error || !group[0])
		return p->error;
	join_path(path, sizeof(path), group, "cgroup.procs");
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(pid, sizeof(pid), "%d", init);
	if (write(fd, pid, strlen(pid)) < 0 && !p->kill_it)
		p->error = -errno;
	close(fd);
	return p->error;
}

#define HOST(p)                                                                                    \
	{                                                                                          \
		.spec = { .network = LAT_NETWORK_HOST, .place = place, .place_ctx = (p) },         \
		.refuse = EXDEV                                                                    \
	}

static inline int run(const char *name, const char *arg)
{
	struct placing p = { 0 };
	struct run r = HOST(&p);
	int status = sandbox_inside(&r, name, arg);

	assert_int_equal(p.calls, 1);
	return status;
}

static inline unsigned members(void)
{
	char path[300], text[4096];
	unsigned n = 0;

	join_path(path, sizeof(path), group, "cgroup.procs");
	assert_int_equal(read_text(path, text, sizeof(text)), 0);
	for (char *c = text; *c; c++)
		n += *c == '\n';
	return n;
}

static inline int set_up(void **state)
{
	static const char *const roots[] = { "/sys/fs/cgroup/unified", "/sys/fs/cgroup" };
	char path[300];

	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	if (!mkdtemp(folder) || chmod(folder, 0755))
		return -1;
	if (geteuid())
		return 0;
	if (unshare(CLONE_NEWNET | CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	for (size_t i = 0; i < COUNT(roots); i++) {
		join_path(path, sizeof(path), roots[i], "cgroup.controllers");
		if (access(path, F_OK))
			continue;
		snprintf(group, sizeof(group), "%s/lattice-test-launcher-%d", roots[i], getpid());
		if (mkdir(group, 0755))
			return -1;
		break;
	}
	setenv("LATTICE_TEST_GROUP", group, 1);
	return 0;
}

/* The kernel lets a group go a moment after its last process: bounded, and the end of it is waited for. */
static inline int tear_down(void **state)
{
	struct pollfd nothing = { -1, 0, 0 };
	int r = 0;

	for (int i = 0; group[0] && (r = rmdir(group)) && errno == EBUSY && i < 200; i++)
		poll(&nothing, 1, 10);
	return rmdir(folder) || r ? -1 : 0;
}

static int host_main(int argc, char **argv, const struct inside *table, int (*tests)(void))
{
	if (getenv("LATTICE_TEST_GROUP"))
		snprintf(group, sizeof(group), "%s", getenv("LATTICE_TEST_GROUP"));
	return sandbox_main(argc, argv, table, tests);
}

#endif
