/* See proc.h. */
#include "kernel/proc.h"
#include "base/mem.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* 6.9 */
#endif
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif
#define MAX_LINKS 20000 /* descriptors looked at for one socket */

/* Value of "Tgid:" in /proc/TID/status, or negative errno. */
static pid_t process_of(int dir)
{
	char text[1024];
	lat_autoclose int fd = openat(dir, "status", O_RDONLY | O_CLOEXEC);
	ssize_t n;
	char *line;

	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	line = strstr(text, "\nTgid:");
	return line ? (pid_t)strtol(line + 6, NULL, 10) : -EPROTO;
}

int lat_proc_open(pid_t tid, struct lat_proc *out)
{
	char path[32];
	lat_autoclose int dir = -1;
	lat_autoclose int pidfd = -1;
	bool exact = true;
	pid_t pid;

	if (tid <= 0)
		return -ESRCH;
	pidfd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
	snprintf(path, sizeof(path), "/proc/%d", tid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	pid = process_of(dir);
	if (pid < 0)
		return pid == -ENOENT ? -ESRCH : pid;
	if (pidfd < 0) { /* an older kernel: only processes have a pidfd */
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		exact = pid == tid;
	}
	if (pidfd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	*out = (struct lat_proc){ .tid = tid, .pid = pid, .pidfd = lat_take_fd(&pidfd),
		.dir = lat_take_fd(&dir), .exact = exact };
	return 0;
}

void lat_proc_close(struct lat_proc *proc)
{
	lat_close(&proc->pidfd);
	lat_close(&proc->dir);
	proc->tid = proc->pid = 0;
}

int lat_proc_getfd(const struct lat_proc *proc, int fd)
{
	int copy = (int)syscall(SYS_pidfd_getfd, proc->pidfd, fd, 0);

	return copy < 0 ? -errno : copy;
}

int lat_proc_exe(const struct lat_proc *proc, char *buf, size_t size)
{
	ssize_t n = readlinkat(proc->dir, "exe", buf, size - 1);

	if (n < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	buf[n] = '\0';
	return (int)n;
}

int lat_proc_cwd(const struct lat_proc *proc, char *buf, size_t size)
{
	ssize_t n = readlinkat(proc->dir, "cwd", buf, size);

	if (n < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	if ((size_t)n >= size)
		return -ENAMETOOLONG;
	buf[n] = '\0';
	return (int)n;
}

int lat_proc_uid(const struct lat_proc *proc, uid_t *out)
{
	struct stat st;

	if (fstatat(proc->dir, "", &st, AT_EMPTY_PATH) < 0)
		return -errno;
	*out = st.st_uid;
	return 0;
}

int lat_proc_read(pid_t tid, uint64_t address, void *buf, size_t len)
{
	struct iovec here = { buf, len }, there = { (void *)(uintptr_t)address, len };
	ssize_t n = len ? process_vm_readv(tid, &here, 1, &there, 1, 0) : 0;

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EFAULT;
}

/* Is this link of a /proc folder "socket:[inode]"? */
static bool link_is_socket(int dir, const char *name, const char *want)
{
	char text[64];
	ssize_t n = readlinkat(dir, name, text, sizeof(text) - 1);

	if (n < 0)
		return false;
	text[n] = '\0';
	return strcmp(text, want) == 0;
}

static bool in_netns(int dir, uint64_t netns)
{
	struct stat st;

	return netns == 0 || (fstatat(dir, "ns/net", &st, 0) == 0 && st.st_ino == netns);
}

/* The descriptor number of `want` in /proc/PID/fd, or -1. */
static int find_in(int dir, const char *want, unsigned *links)
{
	int fd = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	int found = -1;

	if (!d) {
		lat_close(&fd);
		return -1;
	}
	for (struct dirent *e; found < 0 && *links < MAX_LINKS && (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		++*links;
		if (link_is_socket(fd, e->d_name, want))
			found = atoi(e->d_name);
	}
	closedir(d);
	return found;
}

pid_t lat_proc_find_socket(uint32_t inode, uint64_t netns, struct lat_proc_hint *hint)
{
	char want[32], path[64];
	unsigned links = 0;
	pid_t found = -ENOENT;
	DIR *d;

	if (inode == 0)
		return -ENOENT;
	snprintf(want, sizeof(want), "socket:[%u]", inode);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", hint->pid, hint->fd);
	if (hint->inode == inode && link_is_socket(AT_FDCWD, path, want))
		return hint->pid;
	if (hint->pid) { /* who had the last one often has the next */
		lat_autoclose int dir = -1;
		int fd;

		snprintf(path, sizeof(path), "/proc/%d", hint->pid);
		dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		fd = dir >= 0 && in_netns(dir, netns) ? find_in(dir, want, &links) : -1;
		if (fd >= 0) {
			hint->inode = inode;
			hint->fd = fd;
			return hint->pid;
		}
	}
	d = opendir("/proc");
	if (!d)
		return -errno;
	for (struct dirent *e; found < 0 && links < MAX_LINKS && (e = readdir(d));) {
		lat_autoclose int dir = -1;
		int fd;

		if (e->d_name[0] < '1' || e->d_name[0] > '9')
			continue;
		dir = openat(dirfd(d), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0 || !in_netns(dir, netns))
			continue;
		fd = find_in(dir, want, &links);
		if (fd < 0)
			continue;
		found = (pid_t)atoi(e->d_name);
		*hint = (struct lat_proc_hint){ .inode = inode, .pid = found, .fd = fd };
	}
	closedir(d);
	return found;
}

uint64_t lat_proc_socket_netns(int fd)
{
	lat_autoclose int ns = ioctl(fd, SIOCGSKNS);
	struct stat st;

	return ns >= 0 && fstat(ns, &st) == 0 ? st.st_ino : 0;
}
