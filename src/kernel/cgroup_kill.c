/* Killing what is in groups, and removing them. Runs in the keeper, too: see cgroup_impl.h. */
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/cgroup_impl.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

#define DEEPEST 32 /* groups below ours */
#define SWEEP_MS 2000

struct entry {
	uint64_t ino;
	int64_t off;
	unsigned short size;
	unsigned char type;
	char name[];
};

static int open_dir(int dir, const char *name)
{
	return openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* each for every group right below dir. */
static void each_child(int dir, void (*each)(int dir, const char *name, int ctx), int ctx)
{
	_Alignas(struct entry) char buf[2048];
	long n;

	lseek(dir, 0, SEEK_SET);
	while ((n = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0) {
		for (long at = 0; at < n;) {
			const struct entry *e = (const struct entry *)(buf + at);

			at += e->size;
			if (e->type == DT_DIR && strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0)
				each(dir, e->name, ctx);
		}
	}
}

/* SIGKILL for each process listed; true if there was one. A process of another pid namespace is listed as 0. */
static bool each_process(int dir, bool kill_it)
{
	int fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC), pid = 0;
	char buf[1024];
	bool any = false;
	ssize_t n;

	if (fd < 0)
		return false;
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		any = true;
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] >= '0' && buf[i] <= '9') {
				pid = pid * 10 + (buf[i] - '0');
				continue;
			}
			if (pid > 0 && kill_it)
				kill(pid, SIGKILL);
			pid = 0;
		}
	}
	close(fd);
	return any;
}

static void kill_below(int dir, const char *name, int depth);

static void kill_one_by_one(int dir, int depth)
{
	each_process(dir, true);
	if (depth < DEEPEST)
		each_child(dir, kill_below, depth + 1);
}

static void kill_below(int dir, const char *name, int depth)
{
	int fd = open_dir(dir, name);

	if (fd < 0)
		return;
	kill_one_by_one(fd, depth);
	close(fd);
}

void lat_cg_kill(int dir, bool v2)
{
	/* cgroup.kill: 5.14; the freezer of v1 keeps a fork storm from running away from us. */
	if (v2 && lat_cg_write(dir, "cgroup.kill", "1") == 0)
		return;
	lat_cg_write(dir, "freezer.state", "FROZEN");
	kill_one_by_one(dir, 0);
	lat_cg_write(dir, "freezer.state", "THAWED");
}

static _Thread_local bool found_any; /* of the walk under way */

static void look_below(int dir, const char *name, int depth)
{
	int fd;

	if (found_any || depth > DEEPEST || (fd = open_dir(dir, name)) < 0)
		return;
	found_any = each_process(fd, false);
	if (!found_any)
		each_child(fd, look_below, depth + 1);
	close(fd);
}

bool lat_cg_empty(int dir, bool v2)
{
	char text[256];

	if (v2 && lat_cg_read(dir, "cgroup.events", text, sizeof(text)) > 0)
		return strstr(text, "populated 0") != NULL;
	found_any = each_process(dir, false);
	if (!found_any)
		each_child(dir, look_below, 1);
	return !found_any;
}

static void remove_below(int dir, const char *name, int depth)
{
	int fd = open_dir(dir, name);

	if (fd >= 0 && depth < DEEPEST)
		each_child(fd, remove_below, depth + 1);
	lat_close(&fd);
	unlinkat(dir, name, AT_REMOVEDIR);
}

int lat_cg_remove(int parent, int dir, const char *name)
{
	each_child(dir, remove_below, 1);
	return unlinkat(parent, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int lat_cg_kill_all(struct lat_cg_dir *dir, unsigned count, int timeout_ms)
{
	uint64_t end = lat_now_ns() + (uint64_t)timeout_ms * LAT_NS_PER_MS;
	struct timespec pause = { 0, LAT_NS_PER_MS / 4 };

	for (;;) {
		bool empty = true;

		for (unsigned i = 0; i < count; i++) {
			if (dir[i].fd < 0 || lat_cg_empty(dir[i].fd, dir[i].v2))
				continue;
			lat_cg_kill(dir[i].fd, dir[i].v2);
			empty = false;
		}
		if (empty)
			return 0;
		if (lat_now_ns() > end)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 10 * (long)LAT_NS_PER_MS)
			pause.tv_nsec *= 2;
	}
}

bool lat_cg_remove_all(struct lat_cg_dir *dir, unsigned count)
{
	const struct timespec pause = { 0, 2 * LAT_NS_PER_MS };
	bool whole = true;
	int r;

	for (unsigned i = 0; i < count; i++) {
		/* The last of them may still be on its way out. */
		for (int tries = 0; dir[i].fd >= 0 && tries < 250; tries++) {
			r = lat_cg_remove(dir[i].parent, dir[i].fd, dir[i].name);
			if (r != -EBUSY)
				break;
			if (tries == 249)
				whole = false;
			nanosleep(&pause, NULL);
		}
		lat_close(&dir[i].fd);
		/* Fails while another run is there. */
		if (dir[i].base >= 0 && unlinkat(dir[i].base, LAT_CG_PARENT, AT_REMOVEDIR) < 0 &&
			(errno == EACCES || errno == EPERM))
			whole = false;
	}
	return whole;
}

static void sweep_one(int parent, const char *name, int v2)
{
	int fd = open_dir(parent, name);
	struct lat_cg_dir dir = { .v2 = v2, .fd = fd };

	if (fd < 0)
		return;
	if (strcmp(name, LAT_CG_BOUND) == 0) {
		close(fd);
		return;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 && lat_cg_kill_all(&dir, 1, SWEEP_MS) == 0)
		lat_cg_remove(parent, fd, name);
	close(fd);
}

void lat_cg_sweep(int parent, bool v2)
{
	each_child(parent, sweep_one, v2);
}
