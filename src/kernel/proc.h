/* Other tasks through /proc and pidfds. A task is held by two descriptors, so that its number, once reused, is noticed:
 * both fail with -ESRCH after its end. */
#ifndef LAT_KERNEL_PROC_H
#define LAT_KERNEL_PROC_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct lat_proc {
	pid_t tid, pid; /* thread, and its process */
	int pidfd;      /* of the thread where the kernel can (6.9), else of the process */
	int dir;        /* O_PATH of /proc/TID */
	bool exact;     /* pidfd ends with the thread: what is cached for it can be trusted */
};

/* 0, -ESRCH, or negative errno; *out untouched on failure. */
int lat_proc_open(pid_t tid, struct lat_proc *out);
void lat_proc_close(struct lat_proc *proc);
/* A duplicate of the task's descriptor, close-on-exec. -EBADF: it has none of that number; -ESRCH: it ended. */
int lat_proc_getfd(const struct lat_proc *proc, int fd);
/* Path of the executable; cut at size - 1. Length, or negative errno (buf untouched). */
int lat_proc_exe(const struct lat_proc *proc, char *buf, size_t size);
/* Path of the working directory as the task's mount namespace has it; -ENAMETOOLONG if it does not fit. */
int lat_proc_cwd(const struct lat_proc *proc, char *buf, size_t size);
/* Effective uid. */
int lat_proc_uid(const struct lat_proc *proc, uid_t *out);
/* Copies exactly len bytes of the task's memory: 0, -EFAULT when some of it cannot be read there, -EPERM, -ESRCH. */
int lat_proc_read(pid_t tid, uint64_t address, void *buf, size_t len);

/* Where a socket was found last, so that the next look-up of the same one is a single readlink. */
struct lat_proc_hint {
	uint32_t inode;
	pid_t pid;
	int fd;
};
/* The process that holds socket inode `inode`, among those of the network namespace with inode number netns (0: any).
 * Looks at a bounded number of descriptors. Its pid, -ENOENT, or negative errno. */
pid_t lat_proc_find_socket(uint32_t inode, uint64_t netns, struct lat_proc_hint *hint);
/* Inode number of the network namespace that a socket belongs to; 0 if it cannot be told. */
uint64_t lat_proc_socket_netns(int fd);

#endif
