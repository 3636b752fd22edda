/* capset(2) is a thread's own affair. So each other thread gets a signal and does it for itself in the handler; threads that
 * begin while we walk are found by walking again until nobody new is there. See privilege.h. */
#include "kernel/privilege.h"
#include "base/clock.h"
#include "base/signals.h"
#include <dirent.h>
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 10000 /* a thread may be in a call that does not end at once: a program being verified, a grace period */
#define MAX_THREADS 256

static const char *const names[] = {
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
	"linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module",
	"sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time",
	"sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
	"wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
};

static uint64_t kept;
static atomic_int answered, failed;
static _Atomic pid_t answers[MAX_THREADS]; /* the threads that did */

int lat_capability_number(const char *name)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -EINVAL;
}

static int get(struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };

	return syscall(SYS_capget, &header, data) < 0 ? -errno : 0;
}

int lat_capabilities(uint64_t *effective)
{
	struct __user_cap_data_struct data[2];
	int r = get(data);

	if (r == 0)
		*effective = (uint64_t)data[1].effective << 32 | data[0].effective;
	return r;
}

/* In the thread that it is about; async-signal-safe. */
static int drop(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	int r;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
		if (i >= 64 || !(kept >> i & 1))
			prctl(PR_CAPBSET_DROP, i, 0, 0, 0); /* without CAP_SETPCAP it stays: no_new_privs holds */
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	r = get(data);
	if (r < 0)
		return r;
	for (int i = 0; i < 2; i++) {
		uint32_t mask = (uint32_t)(kept >> 32 * i);

		data[i].effective &= mask;
		data[i].permitted &= mask;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	int keep = errno, at;

	(void)number;
	(void)info;
	(void)context;
	if (drop() < 0)
		atomic_fetch_add(&failed, 1);
	at = atomic_fetch_add(&answered, 1);
	if (at < MAX_THREADS)
		atomic_store(&answers[at], gettid());
	errno = keep;
}

static bool seen(const pid_t *list, size_t count, pid_t tid)
{
	for (size_t i = 0; i < count; i++)
		if (list[i] == tid)
			return true;
	return false;
}

/* Signals every thread not yet in the list. How many, or negative errno. */
static int signal_new(pid_t *list, size_t *count)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int sent = 0;

	if (!dir)
		return -errno;
	while (sent >= 0 && (entry = readdir(dir))) {
		pid_t tid = (pid_t)atoi(entry->d_name);

		if (tid <= 0 || tid == gettid() || seen(list, *count, tid))
			continue;
		if (*count == MAX_THREADS) {
			sent = -E2BIG;
			break;
		}
		list[(*count)++] = tid;
		if (syscall(SYS_tgkill, getpid(), tid, LAT_SIGNAL_PRIVILEGE) == 0)
			sent++;
		else if (errno != ESRCH) /* it has ended meanwhile */
			sent = -errno;
	}
	closedir(dir);
	return sent;
}

/* It gave them up, or has ended: one that was ending when the signal came does not answer. */
static bool is_done(pid_t tid)
{
	for (int i = 0; i < MAX_THREADS; i++)
		if (atomic_load(&answers[i]) == tid)
			return true;
	return syscall(SYS_tgkill, getpid(), tid, 0) < 0 && errno == ESRCH;
}

static int wait_for(const pid_t *list, size_t count)
{
	struct timespec nap = { 0, 200000 };
	uint64_t end = lat_now_ns() + WAIT_MS * LAT_NS_PER_MS;

	for (size_t i = 0; i < count; i++)
		while (!is_done(list[i])) {
			if (lat_now_ns() > end)
				return -ETIMEDOUT;
			nanosleep(&nap, NULL);
		}
	return 0;
}

int lat_capabilities_keep(uint64_t keep)
{
	struct sigaction act = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART }, old;
	pid_t list[MAX_THREADS];
	size_t count = 0;
	int sent, r;

	kept = keep;
	for (int i = 0; i < MAX_THREADS; i++)
		atomic_store(&answers[i], 0);
	atomic_store(&answered, 0);
	atomic_store(&failed, 0);
	r = drop();
	if (r < 0)
		return r;
	if (sigaction(LAT_SIGNAL_PRIVILEGE, &act, &old) < 0)
		return -errno;
	do {
		sent = signal_new(list, &count);
		if (sent > 0)
			r = wait_for(list, count);
	} while (sent > 0 && r == 0);
	/* The handler stays when a thread did not answer: the signal may still come. */
	if (r == 0 && sent == 0)
		sigaction(LAT_SIGNAL_PRIVILEGE, &old, NULL);
	if (sent < 0)
		return sent;
	return r < 0 ? r : atomic_load(&failed) ? -EPERM : 0;
}
