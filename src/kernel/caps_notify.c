/* Probes: seccomp user notification with its flags, and descriptors of other processes. See caps.h. */
#include "kernel/caps_impl.h"
#include "base/mem.h"
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

/* The trapped call: nothing else in the probe makes it. Its answer is the number below, or a descriptor. */
#define TRAPPED SYS_getpgid
#define ANSWER 12345

/* A listener for TRAPPED on this process, or negative errno. */
static int listen_here(unsigned long flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TRAPPED, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };
	long fd;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &prog);
	return fd < 0 ? -errno : (int)fd;
}

/* A child makes the call; it ends with 0 when the answer was the one it should be. */
static pid_t caller(bool (*right)(long value))
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(right(syscall(TRAPPED, 0)) ? 0 : EPROTO);
	return pid;
}

static int child_error(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EPROTO;
}

static bool is_answer(long value)
{
	return value == ANSWER;
}

static bool is_open(long value)
{
	return value >= 0 && fcntl((int)value, F_GETFD) >= 0;
}

static int receive(int listener, struct seccomp_notif *call)
{
	memset(call, 0, sizeof(*call));
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, call) < 0 ? -errno : 0;
}

static int answered(unsigned long flags)
{
	lat_autoclose int listener = listen_here(flags);
	struct seccomp_notif call;
	struct seccomp_notif_resp resp = { .val = ANSWER };
	pid_t pid;
	int r;

	if (listener < 0)
		return listener;
	pid = caller(is_answer);
	if (pid < 0)
		return -errno;
	r = receive(listener, &call);
	if (r < 0)
		return r;
	resp.id = call.id;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp) < 0)
		return -errno;
	return child_error(pid);
}

int lat_cap_notify(char *detail, size_t size)
{
	return answered(0);
}

int lat_cap_notify_killable(char *detail, size_t size)
{
	return answered(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
}

int lat_cap_notify_addfd(char *detail, size_t size)
{
	lat_autoclose int listener = listen_here(0);
	struct seccomp_notif call;
	struct seccomp_notif_addfd add = { .srcfd = 0, .flags = SECCOMP_ADDFD_FLAG_SEND };
	lat_autoclose int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pid_t pid;
	int r;

	if (listener < 0)
		return listener;
	pid = caller(is_open);
	if (pid < 0)
		return -errno;
	r = receive(listener, &call);
	if (r < 0)
		return r;
	add.id = call.id;
	add.srcfd = (uint32_t)null;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0)
		return -errno;
	return child_error(pid);
}

int lat_cap_notify_sync(char *detail, size_t size)
{
	lat_autoclose int listener = listen_here(0);

	if (listener < 0)
		return listener;
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) < 0 ? -errno : 0;
}

/* The file of the parent's that the child has, taken out of the child again. */
int lat_cap_pidfd_getfd(char *detail, size_t size)
{
	lat_autoclose int memory = memfd_create("lattice-probe", MFD_CLOEXEC);
	lat_autoclose int pidfd = -1, copy = -1;
	pid_t pid;

	if (memory < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		for (;;)
			pause();
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return -errno;
	copy = (int)syscall(SYS_pidfd_getfd, pidfd, memory, 0);
	return copy < 0 ? -errno : 0;
}
