/* See bpffs.h. The child is asked by a byte: 'm' makes and mounts, 'f' only finds, and both are answered by a
 * descriptor of the directory; 'u' unmakes. */
#include "kernel/bpffs.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/fdpass.h"
#include "kernel/privilege.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOUNT_NAME "lattice" /* what the mount table calls our mounts */
#define MOST 200
#define MOST_ANCESTORS 64

static const char usual[] = "/sys/fs/bpf";

struct lat_bpffs {
	pid_t child;
	int sock;
	int dir;        /* -1: the path itself will do */
	bool other;     /* the child is in another mount namespace */
	bool is_private;
	char path[MOST], use[64];
};

bool lat_bpffs_at(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && (uint32_t)fs.f_type == BPF_FS_MAGIC;
}

/* ---- in the child ---- */

static int make_dirs(const char *path)
{
	char part[MOST];

	snprintf(part, sizeof(part), "%s", path);
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(part, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int mount_at(const char *path)
{
	return mount(MOUNT_NAME, path, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0 ? -errno : 0;
}

static bool below_usual(const char *path)
{
	return strncmp(path, usual, sizeof(usual) - 1) == 0;
}

/* A descriptor of the directory, or negative errno. */
static int make(const char *path, bool only_find)
{
	int r = 0, dir;

	if (only_find && !lat_bpffs_at(path))
		return -ENOENT;
	if (below_usual(path) && !lat_bpffs_at(usual))
		r = mount_at(usual);
	if (r == 0)
		r = make_dirs(path);
	if (r == 0 && !lat_bpffs_at(path))
		r = mount_at(path);
	if (r < 0)
		return r;
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? -errno : dir;
}

static bool is_ours(const char *path)
{
	char line[1024], name[256], where[512], type[64];
	FILE *f = fopen("/proc/thread-self/mounts", "re");
	bool found = false;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%255s %511s %63s", name, where, type) == 3 && strcmp(name, MOUNT_NAME) == 0 &&
			strcmp(type, "bpf") == 0 && strcmp(where, path) == 0;
	fclose(f);
	return found;
}

/* Nothing but what the kernel puts into each bpffs: maps.debug, progs.debug. */
static bool is_empty(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	bool empty = true;

	if (!d)
		return false;
	while (empty && (e = readdir(d)) != NULL) {
		const char *dot = strrchr(e->d_name, '.');

		empty = dot && (dot[1] == '\0' || strcmp(dot, ".debug") == 0);
	}
	closedir(d);
	return empty;
}

/* One that was killed holds it for a moment longer; whoever holds it for long has a use for it. Never lazily: pins that
 * somebody makes there afterwards would end with him. */
static void unmount(const char *path)
{
	static const struct timespec pause = { 0, 10 * LAT_NS_PER_MS };

	for (int tries = 0; umount2(path, 0) < 0 && errno == EBUSY && tries < 50; tries++)
		nanosleep(&pause, NULL);
}

void lat_bpffs_drop(const char *path)
{
	if (is_ours(path) && is_empty(path))
		unmount(path);
}

static void unmake(const char *path)
{
	lat_bpffs_drop(path);
	rmdir(path); /* stays while another agent's device is in it */
	if (below_usual(path))
		lat_bpffs_drop(usual);
}

static _Noreturn void serve(int sock, const char *path)
{
	char question;

	while (read(sock, &question, 1) == 1) {
		int dir = -ENOENT;

		if (question == 'u')
			unmake(path);
		else
			dir = make(path, question == 'f');
		if (lat_fd_send(sock, dir, dir) < 0)
			break;
		if (dir >= 0)
			close(dir);
	}
	_exit(0);
}

static _Noreturn void child(int sock, int ns, const char *path)
{
	sigset_t all;

	sigfillset(&all); /* what a terminal or a manager sends is for the agent */
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "latticed-mounts", 0, 0, 0);
	if (ns >= 0 && setns(ns, CLONE_NEWNS) < 0)
		_exit(1);
	if (chdir("/") < 0 || dup2(sock, 0) < 0)
		_exit(1);
	syscall(SYS_close_range, 1u, ~0u, 0u);
	lat_capabilities_keep(1ull << CAP_SYS_ADMIN);
	serve(0, path);
}

/* ---- outside ---- */

static pid_t parent_of(pid_t pid)
{
	char path[40], line[128];
	int parent = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f) && sscanf(line, "PPid: %d", &parent) != 1) {
	}
	fclose(f);
	return parent;
}

/* The mount namespace of the eldest of our ancestors that we may look at (pid 1, if at all possible), when it is another than
 * ours; -1. */
static int outer_namespace(bool *same)
{
	pid_t chain[MOST_ANCESTORS];
	struct stat mine, other;
	int count = 0;

	*same = true;
	if (stat("/proc/self/ns/mnt", &mine) < 0)
		return -1;
	for (pid_t pid = getppid(); pid > 0 && count < MOST_ANCESTORS - 1; pid = pid == 1 ? 0 : parent_of(pid))
		chain[count++] = pid;
	if (count == 0 || chain[count - 1] != 1)
		chain[count++] = 1;
	while (count-- > 0) {
		char path[40];
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)chain[count]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &other) < 0) {
			lat_close(&fd);
			continue;
		}
		if (other.st_ino == mine.st_ino && other.st_dev == mine.st_dev) {
			close(fd);
			return -1;
		}
		*same = false;
		return fd;
	}
	return -1;
}

/* Whether the child would get in: it is tried by a child that does nothing else. */
static bool may_enter(int ns)
{
	int status = 1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(setns(ns, CLONE_NEWNS) < 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

int lat_bpffs_open(const char *path, struct lat_bpffs **out)
{
	struct lat_bpffs *fs;
	int pair[2], ns = -1;
	bool same;

	if (path[0] != '/' || strlen(path) >= MOST)
		return -EINVAL;
	fs = calloc(1, sizeof(*fs));
	if (!fs)
		return -ENOMEM;
	strcpy(fs->path, path);
	fs->sock = fs->dir = -1;
	if (lat_bpffs_at(below_usual(path) ? usual : path) && !is_ours(below_usual(path) ? usual : path)) {
		*out = fs; /* somebody else mounted it, and it is his to unmount */
		return 0;
	}
	ns = outer_namespace(&same);
	fs->other = ns >= 0 && may_enter(ns);
	fs->is_private = !same && !fs->other;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		int r = -errno;

		lat_close(&ns);
		free(fs);
		return r;
	}
	fs->child = fork();
	if (fs->child == 0)
		child(pair[1], fs->other ? ns : -1, fs->path);
	close(pair[1]);
	lat_close(&ns);
	if (fs->child < 0) {
		int r = -errno;

		close(pair[0]);
		free(fs);
		return r;
	}
	fs->sock = pair[0];
	*out = fs;
	return 0;
}

/* What the child answers: a descriptor or negative errno. */
static int ask(struct lat_bpffs *fs, char question)
{
	if (send(fs->sock, &question, 1, MSG_NOSIGNAL) != 1)
		return -errno;
	return lat_fd_receive(fs->sock);
}

static int get(struct lat_bpffs *fs, char question, const char **use)
{
	int dir;

	if (fs->sock < 0) {
		if (question == 'm' && mkdir(fs->path, 0700) < 0 && errno != EEXIST)
			return -errno;
		if (!lat_bpffs_at(fs->path))
			return -ENOENT;
		*use = fs->path;
		return 0;
	}
	if (fs->dir >= 0) { /* the path that was given stays good */
		*use = fs->use;
		return 0;
	}
	dir = ask(fs, question);
	if (dir < 0)
		return dir;
	*use = fs->path;
	if (!fs->other) {
		close(dir);
		return 0;
	}
	fs->dir = dir;
	snprintf(fs->use, sizeof(fs->use), "/proc/self/fd/%d", dir);
	*use = fs->use;
	return 0;
}

int lat_bpffs_prepare(struct lat_bpffs *fs, const char **use)
{
	return get(fs, 'm', use);
}

int lat_bpffs_find(struct lat_bpffs *fs, const char **use)
{
	return get(fs, 'f', use);
}

bool lat_bpffs_is_private(const struct lat_bpffs *fs)
{
	return fs->is_private;
}

void lat_bpffs_close(struct lat_bpffs *fs, bool remove)
{
	if (!fs)
		return;
	lat_close(&fs->dir); /* it would hold the mount */
	if (fs->sock < 0 && remove)
		rmdir(fs->path);
	if (fs->sock >= 0) {
		if (remove)
			ask(fs, 'u');
		lat_close(&fs->sock);
		while (waitpid(fs->child, NULL, 0) < 0 && errno == EINTR) {
		}
	}
	free(fs);
}
