/* See notify.h. */
#include "kernel/notify.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not in Debian 12's headers (6.6). */
#define NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define NOTIF_SYNC_WAKE_UP 1ul

int lat_notify_init(int listener)
{
	struct seccomp_notif_sizes sizes;

	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
		return -errno;
	if (sizes.seccomp_notif > sizeof(struct seccomp_notif) ||
		sizes.seccomp_notif_resp > sizeof(struct seccomp_notif_resp))
		return -EPROTO;
	if (ioctl(listener, NOTIF_SET_FLAGS, NOTIF_SYNC_WAKE_UP) < 0 && errno != EINVAL)
		return -errno;
	return 0;
}

int lat_notify_receive(int listener, struct lat_notify_call *out)
{
	struct seccomp_notif n;

	memset(&n, 0, sizeof(n)); /* the kernel refuses anything else */
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
		return errno == ENOENT || errno == EINTR ? -EAGAIN : -errno;
	out->id = n.id;
	out->tid = (pid_t)n.pid;
	out->arch = n.data.arch;
	out->nr = n.data.nr;
	memcpy(out->args, n.data.args, sizeof(out->args));
	return 0;
}

bool lat_notify_valid(int listener, uint64_t id)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

int lat_notify_respond(int listener, uint64_t id, int64_t value, int error)
{
	struct seccomp_notif_resp r = { .id = id, .val = error ? 0 : value, .error = -error };

	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r) < 0 ? -errno : 0;
}

int lat_notify_addfd(int listener, uint64_t id, int srcfd, int target, bool cloexec, bool answer)
{
	struct seccomp_notif_addfd a = { .id = id, .srcfd = (__u32)srcfd };
	int number;

	if (target >= 0) {
		a.flags |= SECCOMP_ADDFD_FLAG_SETFD;
		a.newfd = (__u32)target;
	}
	if (answer)
		a.flags |= SECCOMP_ADDFD_FLAG_SEND;
	if (cloexec)
		a.newfd_flags = O_CLOEXEC;
	number = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
	return number < 0 ? -errno : number;
}
